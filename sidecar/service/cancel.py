"""Taking an entry back by hand: asked for by a file, so that it needs no listener.

In: keys of entries, from ``tsa-sidecar cancel``.  Out: a request file in a
directory beside the state file (``STATE.cancel``), which the running service
carries out, commits and then deletes.  One that is found again, after a crash,
does no harm.  Where it can't be carried out, a file ``NAME.failed`` says why.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.problems import Problem

from .own_files import read_regular

if TYPE_CHECKING:  # a command line that asks needs none of it
    from .flow import Flow

_REQUEST_BYTES = 1 << 20
_AT_ONCE = 64
_FAILED = ".failed"


@dataclass(frozen=True, slots=True)
class Request:
    """A request file, and where the service says why it could not be carried out."""

    path: Path

    def is_waiting(self) -> bool:
        """Whether the service has not dealt with it yet."""
        return self.path.exists()

    def failure(self) -> str | None:
        """Why it was not carried out, once; None where it was."""
        answer = _answer(self.path)
        try:
            text = read_regular(answer, limit=4096).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            answer.unlink()
        return text


def requests_path(state: Path) -> Path:
    """The directory of requests to the service with this state file."""
    return state.with_name(state.name + ".cancel")


def ask(state: Path, keys: Iterable[str]) -> Request:
    """Ask for the entries with these keys to be taken back.

    The service can read the request whoever asks: it belongs to the state file's
    owner where root asks.  OSError where the directory can't be written.
    """
    directory = requests_path(state)
    owner = state.stat()
    if not directory.exists():
        directory.mkdir(mode=0o750)
        _give(directory, owner)
    request = directory / f"{time.time_ns()}.json"
    hidden = request.with_name("." + request.name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(hidden, flags, 0o640), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o640)  # whatever the umask
        file.write(json.dumps(list(keys)))
    _give(hidden, owner)
    hidden.rename(request)
    return Request(request)


def _give(path: Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


class Requests:
    """The service's side: the directory, what is asked for in it, and what is wrong with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._failure: Problem | None = None

    def conditions(self) -> Iterator[Problem]:
        """Why requests can't be carried out."""
        if self._failure is not None:
            yield self._failure

    def prepare(self) -> None:
        """Make the directory, so that it belongs to the service whoever asks first.

        Answers that nobody waited for go.
        """
        try:
            self._directory.mkdir(mode=0o750, exist_ok=True)
            for name in fnmatch.filter(os.listdir(self._directory), f"*{_FAILED}"):
                (self._directory / name).unlink()
        except OSError as error:
            self._failed("can't be made", error)

    def carry_out(self, flow: Flow) -> list[str]:
        """Take back what is asked for; returns the keys of what was in force.

        While the disk won't have the commit, the requests stay, and so does what is published.
        """
        done: list[str] = []
        self._failure = None
        for request in self._waiting():
            try:
                keys = _keys(request)
            except (OSError, ValueError, RecursionError) as error:
                self._refuse(request, error)
                continue
            done += flow.cancel(keys)
            if flow.try_commit():
                self._remove(request)
        return done

    def _waiting(self) -> list[Path]:
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            self.prepare()
            return []
        except OSError as error:
            self._failed("can't be read by the service's user", error)
            return []
        return [self._directory / n for n in names if fnmatch.fnmatch(n, "[!.]*.json")][:_AT_ONCE]

    def _refuse(self, request: Path, error: Exception) -> None:
        """Answer a request that asks for nothing that can be understood."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with contextlib.suppress(OSError):
            _answer(request).write_text(f"can't be read by the service: {reason}", "utf-8")
        self._remove(request)

    def _remove(self, request: Path) -> None:
        try:
            request.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed("can't be written by the service's user", error)

    def _failed(self, what: str, error: OSError) -> None:
        message = (
            f"{what} ({error.strerror}), so `tsa-sidecar cancel` has no effect: remove it, and "
            "the service makes it anew"
        )
        self._failure = Problem("error", "cancel", message, file=str(self._directory))


def _answer(request: Path) -> Path:
    return request.with_name(request.name + _FAILED)


def _keys(request: Path) -> list[str]:
    keys = json.loads(read_regular(request, limit=_REQUEST_BYTES))
    if not isinstance(keys, list):
        raise ValueError("it is no list of keys")
    return [key for key in keys if isinstance(key, str)]
