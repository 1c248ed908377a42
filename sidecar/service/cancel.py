"""What operators order, asked for by a file, so that it needs no listener.

In: an :class:`Order`, from ``tsa-sidecar cancel``, ``hold`` or ``release``.  Out: a
request file in a directory beside the state file (``STATE.cancel``), which the running
service carries out, commits, and answers in a file ``NAME.answer``.  The answer is
committed with what it tells of, so a request that is found again, after a crash, is
answered and not carried out twice.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sidecar.problems import Problem, ProblemError

from .orders import Answer, Order
from .own_files import read_regular

if TYPE_CHECKING:  # a command line that asks needs none of it
    from .flow import Flow

_REQUEST_BYTES = 1 << 20
_AT_ONCE = 64
_ANSWER = ".answer"
_ANSWER_SECONDS = 600
"""How long an answer is kept for one who may still wait for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request file, and where the service answers it."""

    path: Path

    def answer(self) -> Answer | None:
        """The answer, once; None while there is none."""
        file = _answer(self.path)
        try:
            data = read_regular(file)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            file.unlink()
        try:
            return msgspec.json.decode(data, type=Answer)
        except ValueError:
            return Answer(refused="the answer can't be read: see `tsa-sidecar list`")


def requests_path(state: Path) -> Path:
    """The directory of requests to the service with this state file."""
    return state.with_name(state.name + ".cancel")


def ask(state: Path, order: Order) -> Request:
    """Ask for `order` to be carried out.

    The service can read the request whoever asks: it belongs to the state file's
    owner where root asks.  ProblemError where the directory can't be written.
    """
    directory = requests_path(state)
    try:
        return Request(_write(state, directory, msgspec.json.encode(order)))
    except PermissionError:
        message = "you may not ask the service for anything: do it as root, or as its user"
        raise ProblemError.one("cancel-denied", message, file=str(directory)) from None


def _write(state: Path, directory: Path, data: bytes) -> Path:
    owner = state.stat()
    if not directory.exists():
        directory.mkdir(mode=0o750)
        _give(directory, owner)
    request = directory / f"{time.time_ns()}-{os.getpid()}.json"
    hidden = request.with_name("." + request.name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(hidden, flags, 0o640), "wb") as file:
        os.fchmod(file.fileno(), 0o640)  # whatever the umask
        file.write(data)
    _give(hidden, owner)
    hidden.rename(request)
    return request


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

        Answers that nobody waits for go.
        """
        try:
            self._directory.mkdir(mode=0o750, exist_ok=True)
            for name in fnmatch.filter(os.listdir(self._directory), f"*{_ANSWER}"):
                file = self._directory / name
                if time.time() - file.lstat().st_mtime > _ANSWER_SECONDS:
                    file.unlink()
        except OSError as error:
            self._failed("can't be made", error)

    def carry_out(self, flow: Flow) -> list[tuple[Order, Answer]]:
        """Do what is asked for; returns what was done.

        While the disk won't have the commit, the requests stay, and so does what is published.
        """
        done: list[tuple[Order, Answer]] = []
        self._failure = None
        waiting = self._waiting()
        flow.forget_answers(but={request.name for request in waiting})
        for request in waiting:
            try:
                order = msgspec.json.decode(read_regular(request, limit=_REQUEST_BYTES), type=Order)
            except (OSError, ValueError, RecursionError) as error:
                self._refuse(request, error)
                continue
            answer = flow.carry_out(order, request.name)
            if flow.try_commit() and self._reply(request, answer):
                done.append((order, answer))
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
        self._reply(request, Answer(refused=f"can't be read by the service: {reason}"))

    def _reply(self, request: Path, answer: Answer) -> bool:
        """Answer, then remove the request; False where it could not be removed."""
        file = _answer(request)
        hidden = file.with_name("." + file.name)
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(hidden, flags, 0o640), "wb") as opened:
                opened.write(msgspec.json.encode(answer))
            hidden.rename(file)
        try:
            request.unlink(missing_ok=True)
        except OSError as error:
            self._failed("can't be written by the service's user", error)
            return False
        return True

    def _failed(self, what: str, error: OSError) -> None:
        message = (
            f"{what} ({error.strerror}), so `tsa-sidecar cancel` has no effect: remove it, and "
            "the service makes it anew"
        )
        self._failure = Problem("error", "cancel", message, file=str(self._directory))


def _answer(request: Path) -> Path:
    return request.with_name(request.name + _ANSWER)
