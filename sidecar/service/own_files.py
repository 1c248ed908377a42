"""Reading our own files beside the state file, where others may have put anything.

In: a path.  Out: the bytes of a regular file, or an OSError that says why not.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 16 << 20


def read_regular(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The file's bytes; OSError where it is a link, a pipe or a device, or longer than `limit`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"is longer than {limit} bytes", str(path))
        return file.read(limit)
