"""Where to listen and whom to answer."""

from __future__ import annotations

import pytest

from sidecar.problems import ProblemError
from sidecar.publish.hosts import check_exposure, parse_listen, parse_trusted_hosts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8008", "127.0.0.1:8008"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        (":80", "0.0.0.0:80"),
        ("[::1]:8008", "[::1]:8008"),
        ("[::]:65535", "[::]:65535"),
        ("localhost:8008", "127.0.0.1:8008"),
    ],
)
def test_an_address_to_listen_on(text: str, shown: str) -> None:
    assert str(parse_listen(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "8008", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:8008", "[::1]", "[]:1",
     "http://127.0.0.1:8008", "127.0.0.1:80a", "127.0.0.1:-1", "no such name:1", "a..b:1",
     "127.0.0.1:٣", "[127.0.0.1:80"],
)  # fmt: skip
def test_what_is_no_address_is_explained(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_listen(text)
    assert caught.value.problems[0].code == "bad-listen"
    assert repr(text) in str(caught.value)


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
    assert (address in parse_trusted_hosts(trusted)) is expected


def test_all_bad_trusted_hosts_are_named_at_once() -> None:
    with pytest.raises(ProblemError) as caught:
        parse_trusted_hosts(["10.0.0.0/8", "10.0.0.0/33", "192.0.2.77/24", "mail.example.com", ""])
    assert [p.code for p in caught.value.problems] == ["bad-trusted-host"] * 4
    assert "mail.example.com" in str(caught.value)


def test_loopback_only_unless_said() -> None:
    trusted = check_exposure(parse_listen("127.0.0.1:0"), None)
    assert "127.0.0.1" in trusted
    assert "127.9.9.9" not in trusted  # nobody's default address, nor upstream's
    assert "::1" in trusted
    assert "::ffff:127.0.0.1" in trusted
    assert "192.0.2.1" not in trusted


@pytest.mark.parametrize("listen", ["0.0.0.0:8008", "[::]:8008", "192.0.2.1:8008"])
def test_a_listener_for_others_needs_trusted_hosts(listen: str) -> None:
    with pytest.raises(ProblemError, match=r"trusted_hosts.*127\.0\.0\.1:8008"):
        check_exposure(parse_listen(listen), None)
    assert "192.0.2.9" in check_exposure(parse_listen(listen), ["192.0.2.0/24"])


def test_what_is_said_replaces_loopback() -> None:
    assert "127.0.0.1" not in check_exposure(parse_listen("127.0.0.1:0"), ["192.0.2.0/24"])
