"""What goes between the service and the process that a policy runs in: plain data as JSON.

In: a :class:`Request`.  Out: an :class:`Answer`.  Both sides import this module
and nothing of each other's work.  Text that is not UTF-8 keeps its bytes as
surrogates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from sidecar.problems import Problem
from sidecar.settings import DnsSettings
from sidecar.settings.said import LogLine, Said

_T = TypeVar("_T")

REQUESTS, ANSWERS = 0, 3
"""The file descriptors of a child that was started afresh."""

MAX_ANSWER = 8 << 20
"""How many bytes an answer may have."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a policy may use up.

    VM instructions (some seconds' worth), bytes of memory, seconds of
    processor time, seconds on the clock for all of it, and seconds for each
    command that it runs (``os.execute``, ``io.popen``).
    """

    instructions: int = 500_000_000
    memory: int = 128 << 20
    cpu_seconds: int = 30
    seconds: float = 60.0
    command_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """Which policy to run, with which environment variables."""

    policy: str
    env: dict[str, str]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy said, or with ``problems`` why there is nothing.

    ``values`` are as the policy gave them: the reader checks them again and
    makes of them what the settings are.
    """

    values: dict[str, Said] = field(default_factory=dict)
    dns: DnsSettings = field(default_factory=DnsSettings)
    tsa_db_path: str | None = None
    messages: tuple[LogLine, ...] = ()
    warnings: tuple[Problem, ...] = ()
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def pack(value: Request | Answer) -> bytes:
    """`value` as one line."""
    return json.dumps(msgspec.to_builtins(value)).encode() + b"\n"


def unpack(data: bytes, kind: type[_T]) -> _T:
    """The Request or Answer that `data` is; ValueError when it is none."""
    try:
        return msgspec.convert(json.loads(data), kind)
    except RecursionError:
        raise ValueError("nested too deeply") from None
