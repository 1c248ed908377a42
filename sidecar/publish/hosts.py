"""Where to listen and whom to answer.

In: ``HOST:PORT`` and a list of addresses and CIDR blocks, as options or the
policy give them.  Out: a bindable address and a set that a peer's address is
in or not.  Everything that can't be is a ProblemError that says what can.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.problems import Problem, ProblemError
from sidecar.settings import LOOPBACK, Network, parse_address, parse_network

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address to bind: ``address`` numeric, ``port`` 0 for any free one."""

    address: IPAddress
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The socket family to use."""
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6

    def __str__(self) -> str:
        host = str(self.address)
        return f"[{host}]:{self.port}" if self.address.version == 6 else f"{host}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """``127.0.0.1:8008``, ``[::1]:8008`` or ``localhost:8008``; ProblemError otherwise."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise _bad_listen(text, str(error)) from None
    try:
        return ListenAddress(ipaddress.ip_address(address.host), address.port)
    except ValueError:
        return ListenAddress(_resolve(text, address.host, address.port), address.port)


def _resolve(text: str, host: str, port: int) -> IPAddress:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: "localhost" should be where kumod's default looks for it.
        found.sort(key=lambda info: info[0] != socket.AF_INET)
        return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    except (OSError, UnicodeError, ValueError) as error:
        raise _bad_listen(text, f"the name {host!r} has no address here") from error


def _bad_listen(text: str, reason: str) -> ProblemError:
    return ProblemError.one("bad-listen", f"{text!r}: {reason}", where="listen")


@dataclass(frozen=True, slots=True)
class TrustedHosts:
    """Addresses that get answers."""

    networks: tuple[Network, ...]

    def __contains__(self, address: object) -> bool:
        """Whether `address` (text as a socket gives it, or an IP address) is trusted."""
        try:
            ip = ipaddress.ip_address(str(address).partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            # How an IPv4 peer looks on a socket that takes both families.
            ip = ip.ipv4_mapped
        return any(ip.version == net.version and ip in net for net in self.networks)


def parse_trusted_hosts(values: Sequence[str]) -> TrustedHosts:
    """Addresses and CIDR blocks; ProblemError with all that are neither."""
    networks: list[Network] = []
    problems: list[Problem] = []
    for value in values:
        try:
            networks.append(_unmapped(parse_network(value)))
        except ValueError as error:
            problems.append(Problem("error", "bad-trusted-host", str(error), where="trusted_hosts"))
    if problems:
        raise ProblemError(problems)
    return TrustedHosts(tuple(networks))


def _unmapped(network: Network) -> Network:
    """The IPv4 block that an IPv6 one of mapped addresses stands for."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def check_exposure(listen: ListenAddress, trusted_hosts: Sequence[str] | None) -> TrustedHosts:
    """Who may ask a listener at `listen`.

    None means nothing was said: loopback only, and then a listener that others
    can reach is refused, since it could only be a mistake.
    """
    if trusted_hosts is not None:
        return parse_trusted_hosts(trusted_hosts)
    if not listen.address.is_loopback:
        raise ProblemError.one(
            "open-listener",
            f"{listen} can be reached from other hosts, and no trusted_hosts are given: "
            "name the hosts that may read the overlay (addresses or CIDR blocks), "
            f"or listen on 127.0.0.1:{listen.port}",
            where="listen",
        )
    return TrustedHosts(LOOPBACK)
