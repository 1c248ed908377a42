"""What a policy said, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sidecar.problems import Problem

from .values import Address, DnsSettings, Network


@dataclass(frozen=True, slots=True)
class Said:
    """A setting's checked value and the Lua line that set it (None when Lua can't tell)."""

    value: Any
    file: str
    line: int | None

    @property
    def position(self) -> str:
        """``tsa_init.lua:12`` for people."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class LogLine:
    """What the policy logged (``kumo.log_*``, ``print``); level error, warn, info or debug."""

    level: str
    text: str
    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was run.

    ``values`` holds the checked values by setting name
    (:data:`~sidecar.settings.SETTINGS`), from KumoMTA's own calls and from
    ``sidecar.configure``, of which the latter wins.  ``files`` are all the
    files that took part, to be watched for changes.  ``tsa_db_path`` is where
    upstream's daemon kept its state, if the policy says so.
    """

    path: Path
    values: Mapping[str, Said] = field(default_factory=lambda: MappingProxyType({}))
    dns: DnsSettings = field(default_factory=DnsSettings)
    tsa_db_path: str | None = None
    messages: tuple[LogLine, ...] = ()
    warnings: tuple[Problem, ...] = ()
    files: tuple[Path, ...] = ()

    def value(self, name: str) -> Any:
        """The checked value of a setting, or None when the policy did not set it."""
        said = self.values.get(name)
        return None if said is None else said.value

    @property
    def listen(self) -> Address | None:
        """The address of ``tsa.start_http_listener``; None when there is none, or no listener."""
        listen: Address | None = self.value("listen")
        return listen

    @property
    def trusted_hosts(self) -> tuple[Network, ...] | None:
        """Who may connect; None when the policy did not say."""
        hosts: tuple[Network, ...] | None = self.value("trusted_hosts")
        return hosts

    @property
    def shaping_files(self) -> tuple[str, ...]:
        """What ``kumo.shaping.load`` was given, in merge order."""
        return self.value("shaping") or ()

    @property
    def merge_options(self) -> Mapping[str, str | bool | int]:
        """The options of ``kumo.shaping.load``; ``http_timeout`` in nanoseconds."""
        return self.value("merge_options") or MappingProxyType({})

    @property
    def ttl_ns(self) -> int | None:
        """How long ``kumo.memoize`` keeps the shaping data; None without memoize."""
        ttl: int | None = self.value("ttl")
        return ttl
