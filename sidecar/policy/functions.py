"""KumoMTA's helper functions that a policy may use: pure values in and out.

``kumo.serde.*`` (docs: reference/kumo.serde), ``kumo.string.*``, ``kumo.glob``
and ``kumo.read_dir``.  Each takes plain values and raises ValueError or
OSError with a reason that a person can use.
"""

from __future__ import annotations

import glob as globbing
import importlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import tomli

MAX_TEXT = 4 << 20
"""How many bytes of JSON, TOML or YAML are read: their Lua tables must fit into the policy's
memory."""

MAX_ITEMS = 1_000_000
"""How many values a result may have."""

# A string, or a comment in one of the spellings that KumoMTA's loader takes out.
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|#[^\n]*|/\*.*?\*/', re.DOTALL)


def _want_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string")
    return value


def _load(path: object, parse: Callable[[object], object]) -> object:
    name = _want_text(path, "the file name")
    with Path(name).open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    try:
        return parse(data.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _bounded(text: object) -> str:
    value = _want_text(text, "the text")
    if len(value) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT >> 20} MiB")
    return value


def _no_data(_: object) -> object:
    raise ValueError("only text, numbers, booleans and tables can be written")


def json_parse(text: object) -> object:
    """JSON, with comments allowed."""
    return json.loads(_COMMENT.sub(lambda m: m[1] or " ", _bounded(text)))


def json_encode(value: object) -> str:
    """JSON without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_no_data)


def json_encode_pretty(value: object) -> str:
    """JSON with sorted keys, indented by two."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=_no_data)
    except TypeError:
        raise ValueError("a table must have names or numbers as keys, not both") from None


def toml_parse(text: object) -> object:
    """TOML; dates come out as text."""
    return tomli.loads(_bounded(text))


def toml_encode(value: object) -> str:
    """TOML of a table."""
    if not isinstance(value, Mapping):
        raise ValueError("TOML can only be made of a table with names")
    import tomlkit  # noqa: PLC0415 - few write TOML, and it takes a while

    try:
        return tomlkit.dumps(value)
    except (tomlkit.exceptions.TOMLKitError, TypeError, ValueError):
        return str(_no_data(value))


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ValueError("YAML needs PyYAML: install it with `pip install pyyaml`") from None


def yaml_parse(text: object) -> object:
    """YAML, plain data only; needs PyYAML."""
    yaml = _yaml()
    try:
        value: object = yaml.safe_load(_bounded(text))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return value


def yaml_encode(value: object) -> str:
    """YAML of plain data; needs PyYAML."""
    yaml = _yaml()
    try:
        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    except yaml.YAMLError:
        return str(_no_data(value))


SERDE: Mapping[str, Callable[[object], object]] = {
    "json_parse": json_parse,
    "json_encode": json_encode,
    "json_encode_pretty": json_encode_pretty,
    "json_load": lambda path: _load(path, json_parse),
    "toml_parse": toml_parse,
    "toml_encode": toml_encode,
    "toml_encode_pretty": toml_encode,
    "toml_encode_pretty_compact": toml_encode,
    "toml_load": lambda path: _load(path, toml_parse),
    "yaml_parse": yaml_parse,
    "yaml_encode": yaml_encode,
    "yaml_load": lambda path: _load(path, yaml_parse),
}
"""``kumo.serde.*`` by name; those that end in ``_load`` take a file name."""


def run_command(
    command: object, *, env: Mapping[str, str], seconds: float, output: IO[bytes] | None = None
) -> int:
    """Run a shell command; its exit code, negative for the signal that ended it.

    What it writes goes to `output`, else where the sidecar's own output goes.
    ValueError when it takes longer than `seconds`.
    """
    argv = ["/bin/sh", "-c", _want_text(command, "the command")]
    try:
        # The policy is the operator's own code, and Lua has had these calls since ever.
        done = subprocess.run(  # noqa: S603
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the command `{command}` took longer than {seconds:g} seconds") from None
    return done.returncode


def glob(pattern: object, relative_to: object = None, _ttl: object = None) -> list[str]:
    """Absolute names of the files that match, sorted; relative to `relative_to` when given."""
    found = globbing.glob(_want_text(pattern, "the pattern"), recursive=True)
    names = sorted(os.path.abspath(name) for name in found)
    if relative_to is None:
        return names
    base = os.path.abspath(_want_text(relative_to, "the path")).rstrip("/") + "/"
    return [name.removeprefix(base) for name in names]


def read_dir(path: object) -> list[str]:
    """Absolute names of a directory's entries, sorted."""
    base = os.path.abspath(_want_text(path, "the path"))
    return sorted(os.path.join(base, name) for name in os.listdir(base))


def _string(do: Callable[..., object], *kinds: type) -> Callable[..., object]:
    def run(*args: object) -> object:
        given = args[: len(kinds)]
        if len(given) < len(kinds) or not all(map(isinstance, given, kinds)):
            raise ValueError(
                "takes " + ", ".join("text" if k is str else "a number" for k in kinds)
            )
        return do(*given)

    return run


def _split(text: str, by: str) -> list[str]:
    if not by:
        raise ValueError("the separator must not be empty")
    return text.split(by, MAX_ITEMS)


def _replace(text: str, old: str, new: str, times: int = -1) -> str:
    found = text.count(old) if times < 0 else min(times, text.count(old))
    if len(text) + found * (len(new) - len(old)) > MAX_TEXT:
        raise ValueError(f"the result is longer than {MAX_TEXT >> 20} MiB")
    return text.replace(old, new, times)


STRINGS: Mapping[str, Callable[..., object]] = {
    "split": _string(_split, str, str),
    "rsplit": _string(lambda s, by: _split(s, by)[::-1], str, str),
    "split_whitespace": _string(lambda s: s.split(None, MAX_ITEMS), str),
    "trim": _string(str.strip, str),
    "trim_start": _string(str.lstrip, str),
    "trim_end": _string(str.rstrip, str),
    "starts_with": _string(str.startswith, str, str),
    "ends_with": _string(str.endswith, str, str),
    "replace": _string(_replace, str, str, str),
    "replacen": _string(_replace, str, str, str, int),
}
"""``kumo.string.*`` by name."""
