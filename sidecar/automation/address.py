"""Names inside a record: the recipient's domain, the queue's parts, the site.

In: text as kumod logged it.  Out: plain values, or ValueError with the reason.
The grammar of recipients is RFC 5321 section 4.1.2 as kumod reads it: with or
without angle brackets, UTF-8 allowed (RFC 6531), ``Postmaster`` on its own.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

# What isn't ASCII is allowed nearly everywhere.  Said as "all but these ASCII characters"
# because Python takes tens of milliseconds to compile ranges up to U+10FFFF.
_ATOM = r"[^\x00-\x20\"(),.:;<>@\[\\\]\x7f]+"
_QUOTED = r'"(?:\\[ -~]|[^\x00-\x1f"\\\x7f])*"'
_LOCAL = rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})"
_LABEL = r"[^\x00-/:-@\[-`{-\x7f][^\x00-,./:-@\[-^`{-\x7f]*"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[!-Z^-~]+\]"
_MAILBOX = rf"{_LOCAL}@(?P<domain>{_DOMAIN}|{_LITERAL})"
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*:"

_BARE = re.compile(_MAILBOX)
_NAME = re.compile(_DOMAIN)
_PATH = re.compile(rf"<(?:{_ROUTE})?{_MAILBOX}>")
_TAGGED = re.compile(r"[A-Za-z0-9-]+:[!-Z^-~]+")


def recipient_domain(recipient: str) -> str | None:
    """The domain of a recipient, lowercase and in its ASCII form; None for ``Postmaster``.

    Address literals keep their brackets (``[10.0.0.1]``, ``[IPv6:::1]``).
    Raises ValueError for what kumod can't parse: such a record has no effect.
    """
    local, _, domain = recipient.partition("@")
    if domain and local.isalnum() and (known := _plain_domain(domain)) is not None:
        return known
    if recipient.lower() in ("postmaster", "<postmaster>"):
        return None
    m = (_PATH if recipient.startswith("<") else _BARE).fullmatch(recipient)
    if m is None:
        raise ValueError(f"recipient {recipient[:200]!r} is not an address")
    domain = m["domain"]
    if domain.startswith("["):
        return _literal(domain[1:-1])
    return ascii_domain(domain)


@lru_cache(maxsize=4096)
def domain_behind(end: str) -> str | None:
    """The domain in the end of a recipient, from its last @ on; None where there is none.

    For counting: it is that of :func:`recipient_domain` wherever that one has one, and
    what stands before the @ is not looked at.
    """
    if not end.startswith("@"):
        return None
    try:
        return recipient_domain(f"anyone{end.removesuffix('>')}")
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _plain_domain(text: str) -> str | None:
    """The domain that `text` is, as :func:`recipient_domain` returns it; None for anything else."""
    return ascii_domain(text) if _NAME.fullmatch(text) is not None else None


def _literal(text: str) -> str:
    if text[:5].lower() == "ipv6:":
        address = ipaddress.IPv6Address(text[5:])
        if address.scope_id is not None:
            raise ValueError(f"[{text}] has a zone")
        mapped = address.ipv4_mapped
        return f"[IPv6:::ffff:{mapped}]" if mapped is not None else f"[IPv6:{address.compressed}]"
    try:
        return f"[{ipaddress.IPv4Address(text)}]"
    except ValueError:
        if _TAGGED.fullmatch(text) is None:
            raise ValueError(f"[{text[:100]}] is not an address literal") from None
    return f"[{text}]"


@lru_cache(maxsize=4096)
def ascii_domain(domain: str) -> str:
    """`domain` lowercase, labels that are not ASCII as ``xn--…`` (UTS #46, as kumod's resolver).

    Raises ValueError for labels of more than 63 bytes, names of more than 253,
    and what IDNA forbids.
    """
    if domain.isascii():
        result = domain.lower()
    else:
        try:
            mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
            result = ".".join(
                label if label.isascii() else idna.alabel(label).decode("ascii")
                for label in mapped.split(".")
            )
        except idna.IDNAError as e:
            raise ValueError(f"domain {domain[:100]!r}: {e}") from None
    if len(result) > 253 or any(not 0 < len(label) < 64 for label in result.split(".")):
        raise ValueError(f"domain {domain[:100]!r} has a label or a length that DNS forbids")
    return result


@dataclass(frozen=True, slots=True)
class QueueName:
    """A scheduled queue's name ``campaign:tenant@domain!routing_domain``, in parts.

    Absent parts are None; a part that is there and empty is "" (``camp:@example.com``
    has the tenant "").
    """

    domain: str
    tenant: str | None = None
    campaign: str | None = None

    @classmethod
    def parse(cls, name: str) -> QueueName:
        """Every text is some queue name."""
        prefix, at, rest = name.partition("@")
        if not at:
            prefix, rest = "", name
        domain = rest.partition("!")[0]
        if not at:
            return cls(domain)
        campaign, colon, tenant = prefix.partition(":")
        return cls(domain, tenant, campaign) if colon else cls(domain, prefix)


def tenant_of(queue: str) -> str | None:
    """The tenant in a scheduled queue's name, as :class:`QueueName` has it."""
    at = queue.find("@")
    return None if at < 0 else queue[queue.find(":", 0, at) + 1 : at]


def site_name(ready_queue: str, source: str) -> str:
    """The site within a ready queue's name (``source->site@smtp_client``)."""
    prefix, suffix = f"{source}->", "@smtp_client"
    while ready_queue.startswith(prefix):
        ready_queue = ready_queue[len(prefix) :]
    while ready_queue.endswith(suffix):
        ready_queue = ready_queue[: -len(suffix)]
    return ready_queue
