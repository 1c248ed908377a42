"""One process per file: advisory locks that die with their holders.

flock(2) on a file beside the state, not on the state itself: SQLite takes its
own locks there, and the state may be set aside and made anew while the lock
stays.  The process id in the file is for people only, so a stale one after a
crash does no harm; and the file is never unlinked, since a process that waits
on the old inode would then lock nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from ..problems import ProblemError

_TRIES = 5
_TRY_SECONDS = 0.05  # is_locked() of another process takes the lock for a moment


class LockHeld(Exception):  # noqa: N818 - no error of the one who asks
    """Another process has the lock; the text names it: ``process 123``."""


class FileLock:
    """Held from construction until :meth:`release` or the end of the process."""

    def __init__(self, path: Path, *, mode: int = 0o640) -> None:
        """Take the lock; LockHeld where another process has it, OSError where it can't be had."""
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(path, flags, mode)
        try:
            self._take()
        except BaseException:
            self.release()
            raise
        self.used_before = os.pread(self._fd, 32, 0).strip().isdigit()
        """Whether an earlier process has called :meth:`announce`."""

    def _take(self) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                if not tries_left:
                    raise LockHeld(self._holder()) from error
            time.sleep(_TRY_SECONDS)

    def announce(self) -> None:
        """Write down who holds the lock, and with it that what it protects is of our making."""
        text = f"{os.getpid()}\n".encode("ascii")
        # A full disk must not keep the program from starting; writing over what is there
        # already takes no room.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))

    def _holder(self) -> str:
        pid = os.pread(self._fd, 32, 0).strip()
        # While the holder is still finding out what it has, there may be none, or the one before.
        return f"process {pid.decode('ascii')}" if pid.isdigit() else "another process"

    def release(self) -> None:
        """Let the next process in.  May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock on `path` now; None where that can't be told."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(fd)
    return False


def lock_state(path: Path, *, subject: str) -> FileLock:
    """The lock of a state file; ProblemError where it is in use or can't be locked.

    `subject` is what the lock protects, as messages name it.
    """
    try:
        lock = FileLock(path)
    except LockHeld as held:
        message = (
            f"{held} is using this state: stop it first, or give this one a state of its own "
            "with --state or TSA_SIDECAR_STATE"
        )
        raise ProblemError.one("state-in-use", message, file=subject) from held
    except OSError as error:
        message = (
            f"can't make or lock {path} ({error.strerror}): the directory must be writable for "
            "the user that tsa-sidecar runs as, on a file system with flock, or name another "
            "with --state or TSA_SIDECAR_STATE"
        )
        raise ProblemError.one("state-unwritable", message, file=subject) from error
    if lock.used_before:
        lock.announce()
    return lock
