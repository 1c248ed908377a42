"""Shaping files loaded and merged into one: the room's front door.

In: the names of files, a resolver for MX, options of the merge.  Out: a
:class:`Shaping`, immutable; ProblemError with everything that is wrong when
upstream would not load the files.

Source: KumoMTA's documentation of ``kumo.shaping.load``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from ..problems import Problem
from .blocks import Block, ProviderBlock, Shaping
from .documents import DocumentError
from .file import ShapingFile, read_file
from .merge import CheckLevel, Findings, MergeOptions, merge_files
from .mx import Resolver
from .source import SourceError, fetch, formats, is_url, parse, read_local

__all__ = [
    "Block",
    "CheckLevel",
    "MergeOptions",
    "ProviderBlock",
    "Shaping",
    "load_shaping",
    "merge_files",
]


async def load_shaping(
    files: Sequence[str],
    *,
    options: MergeOptions,
    resolver: Resolver,
    copies: MutableMapping[str, str] | None = None,
) -> Shaping:
    """Read and merge `files`, in this order.

    `copies` holds the last good text of each URL.  It stands in, with a warning,
    while what comes from the URL can't be fetched or used; it is replaced only by
    what was parsed and merged.  ProblemError with every error in every file when
    they don't load.
    """
    findings = Findings()
    kept: MutableMapping[str, str] = {} if copies is None else copies
    results = await asyncio.gather(*(_read(name, options, kept) for name in files))
    loaded = []
    for result in results:
        findings.extend(result.findings)
        loaded.append(result.file)
    shaping = await merge_files(loaded, options=options, resolver=resolver, findings=findings)
    for result in results:
        if result.text is not None:
            kept[result.file.name] = result.text
    return replace(shaping, remote=tuple(r.remote for r in results if r.remote is not None))


@dataclass(slots=True)
class _Read:
    """One file as read.

    ``text``: of a file that came fresh from a URL and is good.  ``remote``: what
    is wrong with one that should have.
    """

    file: ShapingFile
    findings: Findings = field(default_factory=Findings)
    text: str | None = None
    remote: Problem | None = None


async def _read(name: str, options: MergeOptions, copies: Mapping[str, str]) -> _Read:
    remote = is_url(name)
    result = _Read(ShapingFile(name))
    level = options.remote_load if remote else options.local_load
    if remote and options.skip_remote:
        result.findings.warnings.append(
            Problem("warning", "skip-remote", "is ignored because skip_remote is set", name)
        )
        return result
    try:
        text = await (fetch(name, options.http_timeout) if remote else read_local(name))
    except SourceError as err:
        return await _without(result, str(err), copies, level)
    # In a thread: parsing a big file must not stop the service that waits for it.
    wrong = await asyncio.to_thread(_take, result, text, level)
    if remote and wrong is None:
        result.text = text
    elif remote and name in copies:
        return await _without(_Read(ShapingFile(name)), str(wrong), copies, level)
    elif remote:
        result.remote = _missing(name, str(wrong))
    return result


async def _without(
    result: _Read, reason: str, copies: Mapping[str, str], level: CheckLevel
) -> _Read:
    """What becomes of a file that can't be read: the last good copy, or nothing."""
    name = result.file.name
    if is_url(name) and name in copies:
        await asyncio.to_thread(_take, result, copies[name], level)
        message = f"{reason}; the last good copy stands in"
        result.remote = Problem("warning", "remote-load", message, name)
        result.findings.warnings.append(result.remote)
        return result
    code = "remote-load" if is_url(name) else "local-load"
    message = f"can't be loaded and is left out: {reason}"
    result.findings.at(level, Problem("error", code, message, name))
    if is_url(name):
        result.remote = _missing(name, reason)
    return result


def _missing(name: str, reason: str) -> Problem:
    return Problem("error", "remote-missing", f"its rules were never loaded: {reason}", name)


def _take(result: _Read, text: str, level: CheckLevel) -> Problem | None:
    """Parse `text` into `result`; returns what is wrong with it, if anything is.

    A file whose name says its format must be right; one that does not is left
    out, at `level`, when it is right in neither format.
    """
    name = result.file.name
    kinds = formats(name)
    attempts = [_attempt(name, kind, text) for kind in kinds]
    good = next((a for a in attempts if _error(a[1]) is None), None)
    if good is not None:
        result.file, problems = good
        result.findings.warnings += problems
        return None
    if len(kinds) == 1:
        result.file, problems = attempts[0]
        result.findings.fatal += (p for p in problems if p.level == "error")
        result.findings.warnings += (p for p in problems if p.level == "warning")
        return _error(problems)
    looks_json = text.lstrip().startswith("{")
    problems = attempts[kinds.index(".json" if looks_json else ".toml")][1]
    for problem in problems:
        message = f"{problem.message} (the file is left out: it is neither TOML nor JSON)"
        result.findings.at(level, replace(problem, message=message))
    return _error(problems)


def _error(problems: Iterable[Problem]) -> Problem | None:
    """The first that is an error."""
    return next((p for p in problems if p.level == "error"), None)


def _attempt(name: str, kind: str, text: str) -> tuple[ShapingFile, list[Problem]]:
    try:
        document = parse(kind, text)
    except DocumentError as err:
        syntax = "TOML" if kind == ".toml" else "JSON"
        message = f"not valid {syntax}: {err}"
        return ShapingFile(name), [
            Problem("error", f"bad-{syntax.lower()}", message, name, err.line)
        ]
    file, problems = read_file(document, name)
    if document.comment_line is not None:
        message = (
            "JSON has no comments: read here all the same, but kumod itself will refuse this file"
        )
        problems.append(Problem("warning", "json-comments", message, name, document.comment_line))
    if document.trailing_line is not None:
        message = "what follows the document's last } is ignored, by kumod as well"
        problems.append(Problem("warning", "json-trailing", message, name, document.trailing_line))
    return file, problems
