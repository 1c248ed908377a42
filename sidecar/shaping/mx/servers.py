"""Which name servers are asked: dnspython's resolver for the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dns.exception

from ...problems import ProblemError

if TYPE_CHECKING:  # loaded where the DNS is asked: together they take a while
    import dns.asyncresolver
    import dns.nameserver


def stub_resolver(nameservers: Sequence[str] | None, port: int) -> dns.asyncresolver.Resolver:
    """A resolver that asks `nameservers`, or those of /etc/resolv.conf; ProblemError for none."""
    import dns.asyncresolver  # noqa: PLC0415

    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.port = port
    try:
        if nameservers is None:
            resolver.read_resolv_conf("/etc/resolv.conf")
        else:
            resolver.nameservers = [_nameserver(text) for text in nameservers]
    except (dns.exception.DNSException, ValueError, OSError) as err:
        raise ProblemError.one(
            "dns-servers",
            f"the DNS servers can't be used: {err}; name servers come from /etc/resolv.conf",
        ) from None
    resolver.use_edns(0, 0, 1232)
    return resolver


def _nameserver(text: str) -> str | dns.nameserver.Nameserver:
    """``IP`` stays as it is; ``IP:PORT`` and ``[IPv6]:PORT`` as dnspython wants them."""
    import dns.nameserver  # noqa: PLC0415

    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return text
    return dns.nameserver.Do53Nameserver(host.strip("[]"), int(port))
