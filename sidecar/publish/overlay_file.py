"""Writing a file that kumod reads, so that it is whole at every moment.

In: a path and a text.  Out: the file in place, or a ProblemError and the old file
as it was.  kumod fails its *whole* shaping load when the overlay does not parse.
So the text goes to a temporary file in the same directory, which is synced and
renamed over the old one.  Then the directory is synced.

The temporary file is ``.NAME.RANDOM.new``.  This ending keeps it out of the glob
(``**/*.{lua,json,toml,yaml}``) from which kumod computes its configuration epoch.
It is locked while it is written.  One that a killed process left is not locked, and
the next call removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

from sidecar.problems import ProblemError

_NEW_FILE_MODE = 0o644
_SUFFIX = ".new"

# File systems that can't sync a directory say so with one of these.
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)


def write_atomically(path: Path, text: str | bytes) -> bool:
    """Put `text` at `path`; returns False, and touches nothing, where it is there already.

    Owner and mode of an existing file are kept; a new one gets 0644, whatever
    the umask, since kumod runs as another user.  A symbolic link stays one: the
    file it points to is replaced, in its own directory.  Raises ProblemError
    (``overlay-write``) when the file can't be written; the old one is then whole.
    """
    data = text.encode() if isinstance(text, str) else text
    target = Path(os.path.realpath(path))
    try:
        _remove_leftovers(target)
        if _holds(target, data):
            return False
        _replace(target, data)
    except OSError as error:
        raise _explain(path, target, error) from error
    return True


def _holds(target: Path, data: bytes) -> bool:
    """Whether `data` is what the file holds; read only if its size says that it may be."""
    try:
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return status.st_size == len(data) and file.read() == data


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_SUFFIX}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            # The lock tells other processes that this is no leftover.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(fd, data)
            _keep_owner_and_mode(fd, target)
            os.fsync(fd)
            temporary.rename(target)
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _keep_owner_and_mode(fd: int, target: Path) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        os.fchmod(fd, _NEW_FILE_MODE)
        return
    new = os.fstat(fd)
    mode = stat.S_IMODE(old.st_mode)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        _keep_owner(fd, old, mode)
    # After the owner: chown clears the set-id bits.
    os.fchmod(fd, mode)


def _keep_owner(fd: int, old: os.stat_result, mode: int) -> None:
    """Give the file to its old owner, as far as this process may.

    Without privileges the user can't be kept, but perhaps the group.  If not even that,
    the file must be one that everybody may read: else it would shut somebody out.
    """
    try:
        os.fchown(fd, old.st_uid, old.st_gid)
    except PermissionError:
        try:
            os.fchown(fd, -1, old.st_gid)
        except PermissionError:
            if not mode & stat.S_IROTH:
                raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def _remove_leftovers(target: Path) -> None:
    prefix = f".{target.name}."
    with os.scandir(target.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(_SUFFIX)]
    for name in names:
        with contextlib.suppress(OSError):
            _remove_unlocked(target.parent / name)


def _remove_unlocked(leftover: Path) -> None:
    fd = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink()
    finally:
        os.close(fd)


def _explain(path: Path, target: Path, error: OSError) -> ProblemError:
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError) and not target.parent.is_dir():
        reason = f"the directory {target.parent} does not exist; create it first"
    elif isinstance(error, PermissionError):
        reason = f"{reason}; the sidecar's user must be allowed to write in {target.parent}"
    return ProblemError.one(
        "overlay-write",
        f"can't be written: {reason} (what kumod reads is whole, as it was)",
        file=str(path),
    )
