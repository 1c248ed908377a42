"""Automation rules as values: what one ``[[….automation]]`` table says, checked.

Source of the fields: KumoMTA's documentation, "Traffic Shaping Automation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..fancy.pattern import Pattern

TomlValue: TypeAlias = (
    "str | int | float | bool | list[TomlValue] | dict[str, TomlValue]"  # what an option may hold
)

ActionKind = Literal[
    "Suspend",
    "SuspendTenant",
    "SuspendCampaign",
    "Bounce",
    "BounceTenant",
    "BounceCampaign",
    "SetConfig",
    "SetDomainConfig",
]

ScopeKind = Literal["default", "provider", "site", "domain"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a rule applies.  ``name`` is the provider, site name or domain; ``default`` has ""."""

    kind: ScopeKind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a rule; ``option`` and ``value`` only for SetConfig and SetDomainConfig."""

    kind: ActionKind
    option: str | None = None
    value: TomlValue = ""

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal actions."""
        return [self.kind] if self.option is None else [self.kind, self.option, self.value]


@dataclass(frozen=True, slots=True)
class Threshold:
    """``{Threshold="N/period"}``: at least ``limit`` matches within ``period`` seconds."""

    limit: int
    period: int
    spec: str
    """As the file has it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in its scope.

    ``rollup`` says that a SetConfig of this rule is for the whole site (rules of
    ``default`` and of a site; not those of a provider or of a domain with
    ``mx_rollup = false``).  ``hash`` tells it from other rules (:mod:`.hashes`).
    ``file``, ``line`` and ``number`` (counted from 1 in its table in that file)
    say where it stands; ``table`` is how that table is written there
    (``"gmail.com"``, ``provider."yahoo"``, ``default``).
    """

    regexes: tuple[Pattern, ...]
    actions: tuple[Action, ...]
    trigger: Threshold | None
    duration_ns: int
    match_internal: bool
    rollup: bool
    scope: Scope
    file: str
    line: int
    number: int
    table: str
    hash: str = ""

    @property
    def where(self) -> str:
        """The rule's place within its file, for messages."""
        return f"[[{self.table}.automation]] rule {self.number}"
