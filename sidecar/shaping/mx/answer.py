"""What is known of a domain's MX, and who can tell.

In: a routing domain as kumod has it.  Out: an :class:`MxAnswer`;
:class:`MxError` when there is none.

Source: KumoMTA's documentation ("site name"); RFC 5321 section 5.1 (no MX: the
domain itself), RFC 7505 (null MX).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import dns.name

from ..names import Address, Domain, Labels, classify, host_text, site_name

NEVER: Final = 2**63 - 1
"""``expires_ns`` of an answer that does not age: zone files, domain literals."""

Records = Sequence[tuple[int, Labels]]
"""MX records as (preference, labels of the host)."""


@dataclass(frozen=True, slots=True)
class MxAnswer:
    """The MX hosts of a domain, in order of preference and then of name.

    ``hosts`` end with a dot (and perhaps ``:port``), lower-case; a domain
    literal's host is its address.  ``site_name`` is "" for a null MX.
    ``stale`` says why an answer past its ``expires_ns`` still stands.
    """

    domain: str
    hosts: tuple[str, ...]
    site_name: str
    expires_ns: int
    stale: str | None = None

    @property
    def is_null(self) -> bool:
        """The domain takes no mail (RFC 7505)."""
        return self.site_name == ""


class MxError(Exception):
    """The MX of ``domain`` can't be told; worth asking again from ``retry_ns`` on."""

    def __init__(self, domain: str, reason: str, retry_ns: int = NEVER) -> None:
        super().__init__(f"MX lookup for {domain} failed: {reason}")
        self.domain = domain
        self.reason = reason
        self.retry_ns = retry_ns


class Resolver(Protocol):
    """Whatever can tell the MX of a domain."""

    async def resolve(self, domain: str) -> MxAnswer:
        """The MX of `domain`; MxError when it has none or can't be asked."""

    def recall(self, domain: str) -> MxAnswer | None:
        """The same where it is known without asking; None where it must be asked."""

    def remembered(self, domain: str) -> MxAnswer | None:
        """What is known of `domain`, however old; None where nothing is."""


@lru_cache(maxsize=4096)  # from memory, it is asked for again with every batch of records
def make_answer(
    domain: str, name: Domain, records: tuple[tuple[int, Labels], ...], expires_ns: int
) -> MxAnswer:
    """The answer that MX records make; without any, the domain is its own host."""
    if records:
        hosts = [host for _, host in sorted((pref, host_text(h)) for pref, h in set(records))]
    else:
        hosts = [host_text(name.labels)]
    if name.port is not None:
        hosts = [f"{host}:{name.port}" for host in hosts]
    return MxAnswer(domain, tuple(hosts), site_name(hosts), expires_ns)


def answer_or_name(domain: str) -> MxAnswer | Domain:
    """The answer for a domain literal, the name to look up for anything else."""
    try:
        what = classify(domain)
    except ValueError as err:
        raise MxError(domain, str(err)) from None
    if isinstance(what, Address):
        return MxAnswer(domain, (what.text,), what.text, NEVER)
    return what


def labels_of(name: dns.name.Name) -> Labels:
    """The labels of dnspython's form of a name, lower-case."""
    return tuple(label.decode("latin-1").lower() for label in name.labels if label)


def dns_name(labels: Labels) -> dns.name.Name:
    """dnspython's form of a name."""
    return dns.name.Name([*(label.encode("latin-1") for label in labels), b""])
