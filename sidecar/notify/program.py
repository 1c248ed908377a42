"""A program that is given something to read, and may take only so long.

In: arguments, bytes.  Out: nothing, or :class:`NotSent` with the reason.  The program
is started without a shell, in a session of its own, which is ended with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading

_SAID_LARGEST = 4096
_READS_LEFT = 16  # a pipe holds no more
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "SSL_CERT_FILE")


class NotSent(Exception):  # noqa: N818 - a state of the world, met often
    """The target has not taken the message; ``retry_after``: seconds that it asks for."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


async def run_program(argv: tuple[str, ...], data: bytes, seconds: float) -> None:
    """Run a program with `data` on its standard input, to its end.  Raises NotSent."""
    read, write = os.pipe2(os.O_CLOEXEC)
    words = _LastWords(read)
    try:
        process = _start(argv, data, write)
    except OSError as error:
        words.close()
        raise NotSent(f"{argv[0]} can't be run: {error.strerror or error}") from None
    finally:
        os.close(write)
    try:
        async with asyncio.timeout(seconds):
            code = await _end_of(process)
    except TimeoutError:
        raise NotSent(f"{argv[0]} was ended after {seconds:g} seconds") from None
    finally:
        # What it started goes with it: nothing of it may go on beside the next attempt.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        said = words.close()
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise NotSent(f"{argv[0]}: {how}{f': {said}' if said else ''}")


def _start(argv: tuple[str, ...], data: bytes, errors: int) -> subprocess.Popen[bytes]:
    """Start the program, its input in a file that nobody else sees.  Raises OSError."""
    env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    with open(os.memfd_create("message"), "w+b") as stdin:
        stdin.write(data)
        stdin.seek(0)
        return subprocess.Popen(  # noqa: S603 - no shell reads it, and an operator wrote it
            argv,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=env,
            start_new_session=True,
        )


def _end_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Its exit code, once there is one: a thread waits for it, which nobody waits for."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def settle(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def wait() -> None:
        code = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, code)

    threading.Thread(target=wait, daemon=True, name="notify-program").start()
    return ended


class _LastWords:
    """Reads a pipe that a program writes to, and keeps the end of it."""

    __slots__ = ("_fd", "_kept", "_loop")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def close(self) -> str:
        """The last line that there is by now."""
        self._loop.remove_reader(self._fd)
        for _ in range(_READS_LEFT):
            if not self._read():
                break
        os.close(self._fd)
        lines = self._kept.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _read(self) -> bool:
        """Read what is there; False where there is nothing, or nothing more comes."""
        try:
            part = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        if not part:
            self._loop.remove_reader(self._fd)
        self._kept = (self._kept + part)[-_SAID_LARGEST:]
        return bool(part)
