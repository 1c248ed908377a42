"""Reading a file that holds secrets or names commands.

In: a path.  Out: its bytes, or why they are not to be used: others may read or write it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_private(path: Path, *, largest: int) -> bytes:
    """The bytes of the file.

    Raises ValueError where others may read or write it, it is no file, or it is longer
    than `largest`; and OSError.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if status.st_size > largest:
            raise ValueError(f"is longer than {largest} bytes")
        if status.st_uid not in (0, os.geteuid()):
            raise ValueError("belongs to another user: have it owned by root (chown root)")
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise ValueError(
                f"has mode {stat.S_IMODE(status.st_mode):04o}, so others may read or write it, "
                "but it holds secrets: chmod 640"
            )
        return file.read(largest)
