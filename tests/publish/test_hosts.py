"""Where to listen and whom to answer."""

from __future__ import annotations

import pytest

from sidecar.problems import ProblemError
from sidecar.publish.hosts import TrustedHosts, host_of, numeric
from sidecar.settings import LOOPBACK, Address, parse_address, parse_network


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8008", "127.0.0.1:8008"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        (":80", "0.0.0.0:80"),
        ("[::1]:8008", "[::1]:8008"),
        ("[0::0]:65535", "[::]:65535"),
        ("localhost:8008", "127.0.0.1:8008"),
    ],
)
def test_an_address_to_listen_on(text: str, shown: str) -> None:
    assert str(numeric(parse_address(text))) == shown


def test_a_name_without_an_address_is_said() -> None:
    with pytest.raises(ProblemError, match=r"a\.\.b.*has no address here"):
        numeric(Address("a..b", 1))


@pytest.mark.parametrize(
    ("trusted", "address", "expected"),
    [
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["192.0.2.0/24"], "192.0.2.200", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.200", True),
        (["::ffff:192.0.2.0/120"], "192.0.2.200", True),
        (["::ffff:192.0.2.1"], "::ffff:192.0.2.1", True),
        (["::/0"], "::ffff:192.0.2.1", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0"], "203.0.113.9", True),
        (["::/0"], "::1", True),
        ([], "127.0.0.1", False),
        (["127.0.0.1"], "", False),
        (["127.0.0.1"], "localhost", False),
    ],
)
def test_trusted_hosts(trusted: list[str], address: str, expected: bool) -> None:
    assert (address in TrustedHosts([parse_network(t) for t in trusted])) is expected


def test_loopback_only_unless_said() -> None:
    trusted = TrustedHosts(LOOPBACK)
    assert "127.0.0.1" in trusted
    assert "127.9.9.9" not in trusted  # nobody's default address, nor upstream's
    assert "::1" in trusted
    assert "::ffff:127.0.0.1" in trusted
    assert "192.0.2.1" not in trusted


@pytest.mark.parametrize(
    ("authority", "host"),
    [("Mail.Example.", "mail.example"), ("a:80", "a"), ("[::1]:80", "::1"), ("1.2.3.4", "1.2.3.4"),
     ("a:", "a"), ("", None), ("a b", None), ("user@a", None), ("[::1", None), ("::1", None),
     ("a:80:80", None), ("a/b", None)],
)  # fmt: skip
def test_the_host_of_a_request(authority: str, host: str | None) -> None:
    assert host_of(authority) == host
