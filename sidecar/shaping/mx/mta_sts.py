"""MTA-STS: the policy by which a domain says which of its MX hosts are its own.

In: the text of a domain's policy, its MX hosts.  Out: the hosts that stay.
No I/O here; the resolver asks the DNS and fetches.

Source: RFC 8461.  Where kumod is laxer or stricter than the RFC this follows
kumod (crates ``mta-sts`` and ``mailexchanger`` as of August 2026), since site
names must be the ones that kumod computes: kumod asks for a policy whenever a
domain has MX records, an enforced one removes the hosts that it does not list,
one that lists none of them makes the look-up fail, and a policy that can't be
had is no policy, asked for again after five minutes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from ...times import NS
from ..names import Labels, host_text

LARGEST: Final = 64 << 10
"""Bytes of a policy (RFC 8461, section 3.3, suggests 64 KB)."""

RETRY_NS: Final = 300 * NS
"""How long the answer stands of a domain whose policy can't be had."""

_LONGEST_AGE: Final = 31_557_600  # seconds: RFC 8461, section 3.2
_U64: Final = 1 << 64

Mode = Literal["enforce", "testing", "none"]
_MODES: Final[dict[str, Mode]] = {"enforce": "enforce", "testing": "testing", "none": "none"}


class PolicyError(Exception):
    """A domain has no policy, or none that can be had; the message says why."""


class Policy(msgspec.Struct, frozen=True):
    """A domain's policy: ``hosts`` are lower-case patterns, ``id`` is the TXT record's."""

    id: str
    mode: Mode
    hosts: tuple[str, ...]
    max_age: int
    """Seconds."""
    expires_ns: int

    def lists(self, host: str) -> bool:
        """Whether `host` (lower-case, with or without its final dot) is one of the domain's."""
        name = host.rstrip(".")
        return any(_fits(name, pattern) for pattern in self.hosts)

    def keep(self, records: Sequence[tuple[int, Labels]]) -> tuple[tuple[int, Labels], ...]:
        """The MX records that stay; PolicyError when not one does."""
        if self.mode != "enforce":
            return tuple(records)
        kept = tuple(record for record in records if self.lists(host_text(record[1])))
        if not kept:
            raise PolicyError("the domain's enforced MTA-STS policy lists none of its MX hosts")
        return kept


def _fits(name: str, pattern: str) -> bool:
    if not pattern.startswith("*."):
        return name == pattern
    return name.endswith(pattern[1:]) and "." not in name.removesuffix(pattern[1:])


def read_id(text: str) -> str:
    """The ``id`` in the TXT record at ``_mta-sts.DOMAIN``; PolicyError when it has none."""
    fields: dict[str, str] = {}
    for pair in text.split(";"):
        if not pair:
            continue
        name, equals, value = pair.partition("=")
        if not equals:
            raise PolicyError("the TXT record is none of MTA-STS")
        fields[name.strip()] = value.strip()
    if fields.get("v") != "STSv1" or "id" not in fields:
        raise PolicyError("the TXT record is none of MTA-STS")
    return fields["id"]


def read_policy(text: str, id_: str, now_ns: int) -> Policy:
    """The policy in `text`, fetched at `now_ns`; PolicyError where it is none."""
    fields: dict[str, list[str]] = {}
    for line in text.split("\n"):
        bare = line.removesuffix("\r")
        if not bare:
            continue
        name, colon, value = bare.partition(":")
        if not colon:
            raise PolicyError("the policy has a line without a colon")
        fields.setdefault(name.strip(), []).append(value.strip())
    if fields.get("version") != ["STSv1"]:
        raise PolicyError("the policy is not of version STSv1")
    mode = _MODES.get(_one(fields, "mode"))
    if mode is None:
        raise PolicyError("the policy has no mode that is known")
    if "mx" not in fields and mode != "none":
        raise PolicyError("the policy lists no MX hosts")
    age = _one(fields, "max_age")
    if re.fullmatch(r"\+?[0-9]{1,40}", age) is None or int(age) >= _U64:
        raise PolicyError("the policy has no max_age that is a number")
    max_age = min(int(age), _LONGEST_AGE)
    hosts = tuple(pattern.lower() for pattern in fields.get("mx", ()))
    return Policy(id_, mode, hosts, max_age, now_ns + max_age * NS)


def _one(fields: dict[str, list[str]], name: str) -> str:
    """The value of a field that must be there once; else "", which is none."""
    values = fields.get(name, [])
    return values[0] if len(values) == 1 else ""
