"""Settings as values: what is fixed at start, and what a reload changes.

In: nothing.  Out: the frozen types that the other modules fill.  There is one type
for each kind, so that the two can't be mixed up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sidecar.problems import Problem

if TYPE_CHECKING:
    from sidecar.share.address import Address as EngineAddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Start = Literal["recent", "end", "beginning"]
LogFormat = Literal["text", "json"]

LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.1/32"),
    ipaddress.ip_network("::1/128"),
)
"""The hosts trusted unless others are named (as in upstream's ``start_http_listener``)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address (without brackets) or host name, and a port from 0 to 65535.

    Port 0 is any free port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Retention:
    """When finished, processed segments may go: by age in ns or by total size in bytes."""

    age_ns: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What the policy said through ``kumo.dns``; None and () where it said nothing.

    ``nameservers`` (the settled ones in :class:`Settings`) are ``IP:PORT``;
    ``zones`` are texts of master files;
    ``system``: the system's name servers are asked for what no zone answers.
    Zones with neither name servers nor ``system`` answer alone: a name in
    none of them does not exist.  ``mta_sts``: a domain's MTA-STS policy is heeded.
    """

    nameservers: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    system: bool = False
    timeout_ns: int | None = None
    attempts: int | None = None
    mx_timeout_ns: int | None = None
    mx_concurrency: int | None = None
    mx_negative_ttl_ns: int | None = None
    mta_sts: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``text`` is for people (``--state``, ``tsa_init.lua:12``)."""

    kind: Literal["option", "variable", "policy", "default"]
    text: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is fixed at start: a new value takes effect with a restart."""

    dns_zones: tuple[Path, ...]
    dns: DnsSettings
    log_dir: Path
    pattern: str
    start: Start
    overlay: Path
    state: Path
    listen: Address | None
    trusted_hosts: tuple[Network, ...]
    allowed_hosts: tuple[str, ...]
    kumod_api: str | None
    simulate: bool
    notify: Path | None
    share: EngineAddress | None
    share_name: str
    share_host: str | None
    share_sources: Literal["all", "own"]
    share_password_file: Path | None
    share_most: int
    retention: Retention | None
    poll_seconds: float
    log_format: LogFormat

    def differing(self, other: Fixed) -> tuple[str, ...]:
        """Names of the fields in which `other` differs, in order."""
        return tuple(
            f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)
        )


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changes: a new value takes effect together with the rules."""

    policy: Path | None
    shaping: tuple[str, ...]
    merge_options: Mapping[str, str | bool | int]
    ttl_ns: int
    skip_record_types: frozenset[str]
    max_entries: int
    history_ns: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, checked, with the origin of each value by setting name."""

    fixed: Fixed
    reloaded: Reloaded
    origins: Mapping[str, Origin] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
