"""One process per state file: an advisory lock that dies with its holder.

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
from pathlib import Path

from ..problems import ProblemError


class ProcessLock:
    """Held from construction until :meth:`release` or the end of the process."""

    def __init__(self, path: Path, *, subject: str) -> None:
        """Take the lock; ProblemError where another process has it or it can't be had.

        `subject` is what the lock protects, as messages name it.
        """
        self.path = path
        self.used_before = False
        """Whether an earlier process has called :meth:`announce`."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ProblemError.one(
                "state-unwritable",
                f"can't make the lock file {path} ({error.strerror}): the directory must be "
                "writable for the user that tsa-sidecar runs as, or name another with "
                "--state or TSA_SIDECAR_STATE",
                file=subject,
            ) from error
        try:
            self._take(subject)
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, subject: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ProblemError.one(
                    "state-unwritable",
                    f"can't lock {self.path} ({error.strerror}): the state must be on a "
                    "file system with flock; name another with --state or TSA_SIDECAR_STATE",
                    file=subject,
                ) from error
            raise ProblemError.one(
                "state-in-use",
                f"{self._holder()} is using this state: stop it first, or give this one "
                "a state of its own with --state or TSA_SIDECAR_STATE",
                file=subject,
            ) from error
        self.used_before = os.pread(self._fd, 32, 0).strip().isdigit()
        if self.used_before:
            self.announce()

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
