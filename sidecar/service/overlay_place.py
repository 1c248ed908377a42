"""The overlay's place: it replaces no other file, it exists, one sidecar alone writes there.

In: the settings.  Out: an overlay and a lock on its directory, or a ProblemError
that says why not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sidecar.automation.overlay import FIRST_LINE, Overlay
from sidecar.problems import ProblemError
from sidecar.publish.overlay_file import write_atomically
from sidecar.publish.snapshot import BOUNCED, SUSPENDED
from sidecar.settings import Settings
from sidecar.store import FileLock, LockHeld, state_files

from .cancel import requests_path
from .logging import Log
from .status import status_path


def refuse_taken_place(settings: Settings) -> None:
    """Raise ProblemError where the overlay would replace a file that is read, or one of our own.

    Rule files, policy and zones are read; a file in the log directory would be read as
    a segment.  The overlay itself may be among the rule files, as it is among kumod's.
    """
    target = os.path.realpath(settings.fixed.overlay)
    overlay, state = Path(target), Path(os.path.realpath(settings.fixed.state))
    ours = {*state_files(state), requests_path(state), status_path(state)}
    if overlay in ours or overlay.name in (SUSPENDED, BOUNCED):
        raise _overlay_problem(settings, "another file of tsa-sidecar's own has this name")
    if overlay.parent == Path(os.path.realpath(settings.fixed.log_dir)):
        raise _overlay_problem(settings, "it would be read as a segment of the log")
    read = {os.path.realpath(file) for file in settings.reloaded.shaping}
    read |= {os.path.realpath(file) for file in settings.fixed.dns_zones}
    if settings.reloaded.policy is not None:
        read.add(os.path.realpath(settings.reloaded.policy))
    if target not in read:
        return
    mark = FIRST_LINE.encode()
    with contextlib.suppress(OSError), open(target, "rb") as file:
        if file.read(len(mark)) not in (b"", mark):
            raise _overlay_problem(settings, "the overlay would replace this file, which is read")


def _overlay_problem(settings: Settings, why: str) -> ProblemError:
    message = f"{why}: name another with --overlay or TSA_SIDECAR_OVERLAY"
    return ProblemError.one("overlay-write", message, file=str(settings.fixed.overlay))


def ensure_overlay(path: Path) -> None:
    """Make an empty overlay where there is none: kumod logs an error for a missing file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, Overlay().text())
    except OSError as error:
        raise ProblemError.one(
            "overlay-write",
            f"the overlay's directory can't be made: {error.strerror}; make it, or name another "
            "file with --overlay",
            file=str(path.parent),
        ) from None


LOCK_NAME = ".tsa-sidecar.lock"
"""The lock file in the overlay's directory.

Two sidecars there would undo each other's work.  The whole directory is locked,
since ``suspended.json`` and ``bounced.json`` are in it as well.
"""


@contextlib.contextmanager
def locked_overlay(overlay: Path, log: Log) -> Iterator[None]:
    """Lock the overlay's directory against other sidecars.  ProblemError where one has it.

    Where no lock can be made (a full or read-only disk), a warning says so.
    """
    directory = Path(os.path.realpath(overlay)).parent
    try:
        lock = FileLock(directory / LOCK_NAME, mode=0o600)
    except LockHeld as held:
        message = (
            f"{held} keeps an overlay in this directory: stop it first, or name a file in a "
            "directory of its own with --overlay or TSA_SIDECAR_OVERLAY"
        )
        raise ProblemError.one("overlay-in-use", message, file=str(overlay)) from None
    except OSError as error:
        log.warning(
            "the overlay's directory can't be locked against a second sidecar",
            file=str(directory / LOCK_NAME),
            reason=error.strerror,
        )
        yield
        return
    lock.announce()
    try:
        yield
    finally:
        lock.release()
