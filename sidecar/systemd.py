"""Telling systemd how the service is: ``sd_notify(3)`` without a library.

In: the environment that systemd sets for a unit with ``Type=notify``.  Out: one
datagram a message, or nothing when systemd didn't ask.  A message that can't be
delivered is dropped: the service must not fail for want of an audience.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping


class Notifier:
    """Sends states to ``NOTIFY_SOCKET``; does nothing where there is none.

    ``watchdog_seconds``: how often to call :meth:`alive`, half of what
    ``WatchdogSec=`` allows; None when systemd doesn't watch this process.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket's name.
        # Anything else that is no path (vsock:) is not for a local service.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.enabled = path.startswith(("/", "@")) and len(path) > 1
        self.watchdog_seconds = _watchdog_seconds(environ) if self.enabled else None

    def ready(self, status: str = "") -> None:
        """Say that the service is up.  This also ends what :meth:`reloading` began."""
        self._send("READY=1", status)

    def reloading(self) -> None:
        """Say that a reload begins (``Type=notify-reload`` wants to know when)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """Say that the service ends."""
        self._send("STOPPING=1")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Feed the watchdog from the event loop, so that a loop that hangs is noticed."""
        if self.watchdog_seconds is None:
            yield
            return
        task = asyncio.create_task(self._feed(self.watchdog_seconds))
        try:
            yield
        finally:
            task.cancel()

    async def _feed(self, seconds: float) -> None:
        while True:
            self.alive()
            await asyncio.sleep(seconds)

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, state: str, status: str = "") -> None:
        if not self.enabled:
            return
        lines = [state]
        if status:
            lines.append("STATUS=" + " ".join(status.split()))
        # Neither a full queue nor the want of a descriptor may hold up the service.
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None  # meant for another process of the unit
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 else None
