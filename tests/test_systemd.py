"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.systemd import Notifier


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(60)
        yield sock


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The value of NOTIFY_SOCKET and the socket behind it."""
    if request.param == "path":
        path = str(tmp_path / "notify")
        with listening(path) as sock:
            yield path, sock
    else:
        name = f"tsa-sidecar-test-{os.getpid()}"
        with listening("\0" + name) as sock:
            yield "@" + name, sock


def test_each_state_is_one_datagram(systemd: tuple[str, socket.socket]) -> None:
    address, sock = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.enabled
    notifier.ready("reading\n/var/log/kumömta")
    assert sock.recv(4096).decode() == "READY=1\nSTATUS=reading /var/log/kumömta"
    notifier.alive()
    assert sock.recv(4096) == b"WATCHDOG=1"
    notifier.reloading()
    state, _, moment = sock.recv(4096).decode().partition("\n")
    assert state == "RELOADING=1"
    assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0
    notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("value", [None, "", "@", "vsock:2:1234", "notify"])
def test_without_a_socket_nothing_happens(value: str | None) -> None:
    environ = {"WATCHDOG_USEC": "1000000"} | ({} if value is None else {"NOTIFY_SOCKET": value})
    notifier = Notifier(environ)
    assert not notifier.enabled
    assert notifier.watchdog_seconds is None
    notifier.ready()


def test_a_socket_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready()
    too_long = Notifier({"NOTIFY_SOCKET": "/" + "x" * 300})
    too_long.ready()
    assert notifier.enabled


def test_a_systemd_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        for _ in range(5000):
            notifier.alive()
        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **environ}).watchdog_seconds == seconds


def test_a_process_without_a_free_descriptor_goes_on(systemd: tuple[str, socket.socket]) -> None:
    address, _ = systemd
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        Notifier({"NOTIFY_SOCKET": address}).alive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
