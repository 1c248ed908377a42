"""What a policy said, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sidecar.problems import Problem

from .values import DnsSettings


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
