"""Where to listen, whom to answer, and under which names.

In: settings, a peer's address, a request's ``Host`` and ``Origin``.  Out: a
bindable address; whether a peer is trusted; why a request is refused.

A peer's address does not tell who asks: a browser on a trusted host sends what any
page has it send.  Such requests have an ``Origin``, or a ``Host`` whose name the
page's owner has made point here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from dataclasses import replace

from sidecar.problems import ProblemError
from sidecar.settings import Address, Network

_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::[0-9]*)?")


def numeric(listen: Address) -> Address:
    """`listen` with an IP address for its host; ProblemError where the name has none here."""
    try:
        return replace(listen, host=str(ipaddress.ip_address(listen.host)))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        message = f"{str(listen)!r}: the name {listen.host!r} has no address here"
        raise ProblemError.one("bad-listen", message, where="listen") from None
    # IPv4 first: "localhost" should be where kumod's default looks for it.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    return replace(listen, host=str(found[0][4][0]).partition("%")[0])


class TrustedHosts:
    """The peers that get answers: ``address in hosts``."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(_unmapped(network) for network in networks)

    def __contains__(self, address: object) -> bool:
        """Whether `address`, as a socket gives it, is trusted."""
        try:
            ip = ipaddress.ip_address(str(address).partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            # An IPv4 peer has such an address on a socket that takes both families.
            ip = ip.ipv4_mapped
        return any(ip.version == net.version and ip in net for net in self._networks)


def _unmapped(network: Network) -> Network:
    """The IPv4 block that an IPv6 one of mapped addresses stands for."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def host_of(authority: str) -> str | None:
    """The host of a ``Host`` header, without its port, in lower case; None where it has none."""
    match = _AUTHORITY.fullmatch(authority.strip())
    if match is None:
        return None
    return str(match["ipv6"] or match["host"]).lower().removesuffix(".")


def is_ours(host: str, allowed: Collection[str]) -> bool:
    """Whether a request may call us `host`: an address, localhost, or a name in `allowed`."""
    if host == "localhost" or host in allowed:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def same_origin(origin: str, host: str | None) -> bool:
    """Whether `origin` is that of a page served under the `Host` of the same request."""
    scheme, found, authority = origin.strip().lower().partition("://")
    if not found or scheme not in ("http", "https") or host is None:
        return False
    return authority == host.strip().lower()
