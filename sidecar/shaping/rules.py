"""Automation rules as values: what one ``[[….automation]]`` table says, checked.

Source of the fields: KumoMTA's documentation, "Traffic Shaping Automation".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, TypeAlias

from ..fancy.pattern import Pattern
from ..times import NS

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
class Adjust:
    """``sidecar.adjust``: what the actions set goes down with each match, and comes back.

    ``down``: the share that a match takes away; ``up``: the share that a step gives back,
    of what was in force when the refusals began; ``every_ns``: a step, without a match;
    ``settle_ns``: how long after a cut further matches are no news.  ``floor``: what it
    never goes below (None: what the action sets).  ``start``: the key ``from``, where it
    begins if no file sets the option.  Units of the last two are the option's.
    """

    down: float = 0.3
    up: float = 0.05
    every_ns: int = 120 * NS
    settle_ns: int = 60 * NS
    floor: TomlValue | None = None
    start: TomlValue | None = None

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal laws."""
        numbers: list[TomlValue] = [self.down, self.up, self.every_ns, self.settle_ns]
        return [*numbers, str(self.floor), str(self.start)]


@dataclass(frozen=True, slots=True)
class Escalate:
    """``sidecar.escalate``: who offends again within ``forget_ns`` of a hold is held longer.

    Each time ``factor`` times as long as the time before, but no longer than ``max_ns``.
    """

    factor: float = 2.0
    max_ns: int = 86400 * NS
    forget_ns: int = 86400 * NS

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal keys."""
        return [self.factor, self.max_ns, self.forget_ns]


FEEDBACK: Final = "Feedback"
"""The type of a record that tells of a complaint, and the value of ``sidecar.ratio.of``."""

ATTEMPTS: Final = frozenset({"Delivery", "Bounce", "TransientFailure"})
"""The types of records that tell of an attempt to deliver."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``sidecar.ratio``: strikes when matches are more than a share of the attempts.

    ``over``: the share; ``least``: the key ``min``, how many attempts it takes to tell a
    share; ``period``: the key ``window``, seconds; ``confidence``: how sure it must be
    (None: the share as it is); ``complaints``: the key ``of``, matches are Feedback records
    and attempts are deliveries.
    """

    over: float
    least: int = 200
    period: int = 600
    confidence: float | None = None
    complaints: bool = False

    @property
    def step(self) -> int:
        """In which steps the window moves on, seconds: a sixtieth of it."""
        return -(-self.period // 60)

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal keys."""
        confidence = "" if self.confidence is None else self.confidence
        return [self.over, self.least, self.period, confidence, self.complaints]


@dataclass(frozen=True, slots=True)
class Release:
    """``sidecar.release``: an option that was set ends after so many deliveries without a match."""

    deliveries: int = 5

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal keys."""
        return [self.deliveries]


@dataclass(frozen=True, slots=True)
class Probe:
    """``sidecar.probe``: what holds where a suspension ends, until mail is proven to get through.

    ``limits``: option and value, in the order of the file; ``deliveries`` prove it, and
    after ``for_ns`` (the key ``for``) it is taken for proven.
    """

    limits: tuple[tuple[str, TomlValue], ...] = (
        ("connection_limit", 1),
        ("max_message_rate", "10/min"),
    )
    deliveries: int = 20
    for_ns: int = 600 * NS

    def identity(self) -> list[TomlValue]:
        """A JSON-able form that is equal for equal keys."""
        return [[[name, value] for name, value in self.limits], self.deliveries, self.for_ns]


@dataclass(frozen=True, slots=True)
class When:
    """``sidecar.when``: what must be so of a record, besides its text; () for anything.

    ``code`` holds the beginnings of the response's codes (``"4"``, ``"42"``, ``"421"``),
    ``classification`` what kumod's bounce classifier made of it; ``tenant`` and
    ``campaign`` are the queue's.
    """

    type: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    classification: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    campaign: tuple[str, ...] = ()

    def identity(self) -> dict[str, TomlValue]:
        """A JSON-able form that is equal for equal conditions."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class SidecarTable:
    """What a rule says in its table ``sidecar``, which upstream's loaders ignore.

    ``name`` calls the rule: a letter, then letters, digits, ``-``, ``_`` and ``.``, 64
    at most; "" without one.  ``note`` is for people.  ``notify`` names the targets that
    are told.  ``simulate``: the rule counts and is listed, but nothing is published.
    ``adjust``: what SetConfig and SetDomainConfig set is no fixed value.  ``when``: what
    must be so of a record as well.  ``escalate``: who offends again is held longer.
    ``release``: what SetConfig and SetDomainConfig set ends once mail is delivered.
    ``probe``: what holds for a while when Suspend is over.
    ``ratio``: the rule strikes by the share of matches, whatever its trigger.
    """

    name: str = ""
    note: str = ""
    notify: tuple[str, ...] = ()
    simulate: bool = False
    adjust: Adjust | None = None
    when: When | None = None
    escalate: Escalate | None = None
    release: Release | None = None
    probe: Probe | None = None
    ratio: Ratio | None = None

    @property
    def needs_attempts(self) -> bool:
        """Whether the rule has to know what is delivered and refused, besides its matches."""
        return any(key is not None for key in (self.ratio, self.release, self.probe))

    def deciding(self) -> dict[str, TomlValue]:
        """The keys that change what the rule does, where they are not as without them.

        A rule with other deciding keys is another rule: its windows and entries are
        its own.  The other keys (``name``, ``note``, ``notify``) can be edited while
        the rule is at work.  ``simulate`` decides: what was only simulated must not come
        into force, nor count towards it, when somebody takes the key out, and what
        is in force must not stop being published when somebody puts it in.
        """
        keys: dict[str, TomlValue] = {"simulate": True} if self.simulate else {}
        if self.adjust is not None:
            keys["adjust"] = self.adjust.identity()
        if self.when is not None:
            keys["when"] = self.when.identity()
        if self.escalate is not None:
            keys["escalate"] = self.escalate.identity()
        if self.release is not None:
            keys["release"] = self.release.identity()
        if self.probe is not None:
            keys["probe"] = self.probe.identity()
        if self.ratio is not None:
            keys["ratio"] = self.ratio.identity()
        return keys


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
    sidecar: SidecarTable = SidecarTable()
    hash: str = ""

    @property
    def label(self) -> str:
        """What to call the rule in a list, on the command line and in a metric."""
        return self.sidecar.name or f"{self.file}:{self.line}"

    @property
    def where(self) -> str:
        """The rule's place within its file, for messages, and its name."""
        name = f" ({self.sidecar.name})" if self.sidecar.name else ""
        return f"[[{self.table}.automation]] rule {self.number}{name}"
