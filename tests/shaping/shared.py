"""Loading shaping files from texts, for the tests of this room."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from sidecar.problems import Problem, ProblemError
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import OfflineResolver, Resolver


def write(directory: Path, files: Mapping[str, str | bytes | None]) -> list[str]:
    """Write the files (None: leave it out); their paths, in order."""
    for name, text in files.items():
        if text is not None:
            data = text if isinstance(text, bytes) else text.encode()
            (directory / name).write_bytes(data)
    return [str(directory / name) for name in files]


def load(
    directory: Path,
    *texts: str,
    options: MergeOptions | None = None,
    resolver: Resolver | None = None,
    suffix: str = "toml",
) -> Shaping:
    """Load texts as f0.toml, f1.toml …; without a resolver every domain is its own site."""
    files: dict[str, str | bytes | None] = {f"f{i}.{suffix}": t for i, t in enumerate(texts)}
    names = write(directory, files)
    return load_names(names, options=options, resolver=resolver)


def load_names(
    names: list[str], *, options: MergeOptions | None = None, resolver: Resolver | None = None
) -> Shaping:
    """Load the files of these names."""
    return asyncio.run(
        load_shaping(
            names, options=options or MergeOptions(), resolver=resolver or OfflineResolver()
        )
    )


def errors(directory: Path, *texts: str, suffix: str = "toml") -> list[Problem]:
    """The errors of texts that don't load, the directory cut off their files' names."""
    try:
        load(directory, *texts, suffix=suffix)
    except ProblemError as err:
        return [problem for problem in err.problems if problem.level == "error"]
    return []


def shown(problems: list[Problem], directory: Path) -> list[str]:
    """Problems as a person sees them, with short file names."""
    return [str(problem).replace(f"{directory}/", "") for problem in problems]
