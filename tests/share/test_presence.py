"""Who is in the group."""

from __future__ import annotations

import pytest

from sidecar.problems import ProblemError
from sidecar.share import HostSeen, Presence, ShareSettings, read_url
from sidecar.share.presence import read_hosts, read_presence, write_presence

SAID = Presence("2.0", "abc", 3600.0, "5000-1", 90, queued=3, behind=1, life="ab")


def test_there_and_back() -> None:
    assert read_presence(write_presence(SAID).encode()) == SAID


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b"\xff", b"[" * 4000, b"x" * 5000]
    + [write_presence(SAID).encode().replace(b"3600.0", age) for age in (b"-1", b"1e400", b"[]")]
    + [
        write_presence(SAID).encode().replace(b"5000-1", b"9" * size + b"-1")
        for size in (16, 40, 400)
    ]
    + [write_presence(SAID).encode().replace(b":90,", b":" + b"9" * 16 + b",")],
)
def test_what_is_no_presence(raw: bytes) -> None:
    assert read_presence(raw) is None


def test_a_version_that_says_nothing_of_its_life_is_read() -> None:
    assert read_presence(write_presence(SAID).encode().replace(b"life", b"more")) is not None


def test_how_far_each_is() -> None:
    text = write_presence(SAID).encode()
    listed = [b"mx2", b"6000 " + text, b"mx1", b"9999 " + text, b"mx3", b"never {}", b"odd"]
    found = read_hosts(8000, 100, listed, own="mx1")
    assert found == (
        HostSeen("mx1", True, 0.0, 10, 3.0, SAID),
        HostSeen("mx2", False, 2.0, 10, 3.0, SAID),
    )


def test_hosts_whose_names_can_not_be() -> None:
    text = b"6000 " + write_presence(SAID).encode()
    listed = [b"mx 2", text, b"mx\x1b[31m", text, b"", text, b"x" * 300, text, b"mx1", text]
    assert [seen.host for seen in read_hosts(8000, 100, listed, own="mx1")] == ["mx1"]


@pytest.mark.parametrize(("name", "host"), [("a b", "mx"), ("", "mx"), ("g", "m x"), ("g", "")])
def test_names_that_can_not_be(name: str, host: str) -> None:
    with pytest.raises(ProblemError, match="--share-"):
        ShareSettings(read_url("redis://mx"), name, host, age=1.0)
