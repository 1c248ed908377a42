"""Targets as values: who is told, how, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias
from urllib.parse import urlsplit

from sidecar.secret import HIDDEN, Secret

LISTED = 200
"""How many events a message has whole, where the target says nothing."""

_SHORTEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What every target has.

    ``default``: it is told of the rules that name no target, and of the service itself.
    ``wait``: seconds that a first event waits for others.  ``every``: seconds between
    two messages at least.  ``listed``: how many events a message has whole.
    ``keep``: seconds for which a message is tried.  ``timeout``: seconds for one attempt.
    """

    name: str
    default: bool = False
    wait: float = 10.0
    every: float = 60.0
    listed: int = LISTED
    keep: float = 3 * 86400.0
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTarget(_Common):
    """A program that gets the message on its standard input."""

    kind: ClassVar[str] = "command"
    argv: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it leads, without what may be secret."""
        return self.argv[0]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget(_Common):
    """A URL that gets the message by POST; signed with ``key``, where there is one."""

    kind: ClassVar[str] = "webhook"
    url: Secret
    token: Secret | None = None
    key: Secret | None = None

    @property
    def place(self) -> str:
        """Where it leads, without what may be secret: a path often is."""
        parts = urlsplit(self.url.value)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show."""
        parts = urlsplit(self.url.value)
        rest = [*parts.path.split("/"), parts.query, parts.username or "", parts.password or ""]
        return tuple(
            text
            for text in (
                self.url.value,
                f"{parts.path}?{parts.query}",
                parts.path,
                *rest,
                self.token.value if self.token else "",
                self.key.value if self.key else "",
            )
            if len(text) >= _SHORTEST
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseTarget(_Common):
    """A URL of apprise: mail, chat and the rest."""

    kind: ClassVar[str] = "apprise"
    url: Secret

    @property
    def place(self) -> str:
        """Where it leads, without what may be secret: everything behind the scheme may be."""
        return f"{self.url.value.partition('://')[0]}://"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show: the URL and each of its parts."""
        _, _, rest = self.url.value.partition("://")
        for mark in "/:@?&=#,":
            rest = rest.replace(mark, " ")
        return tuple(text for text in (self.url.value, *rest.split()) if len(text) >= _SHORTEST)


Target: TypeAlias = CommandTarget | WebhookTarget | AppriseTarget


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets by name."""

    by_name: Mapping[str, Target] = field(default_factory=dict)

    @property
    def defaults(self) -> tuple[str, ...]:
        """Those that are told of what names nobody."""
        return tuple(name for name, target in self.by_name.items() if target.default)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are no targets."""
        return [name for name in names if name not in self.by_name]

    def of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Whom to tell, where a rule names `names`: the defaults, where it names none that is."""
        return tuple(name for name in names if name in self.by_name) or self.defaults


def without_secrets(text: str, target: Target) -> str:
    """`text` with what is secret of `target` made unreadable."""
    for secret in sorted(set(target.secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
