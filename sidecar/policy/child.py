"""The process that a policy runs in: ``python -m sidecar.policy.child``, or a fork.

In: a :class:`Request` on a pipe that stays open for as long as the answer is
wanted.  Out: an :class:`Answer` on another, after everything was ended that
the policy started.

There are two processes.  This one only watches; it starts no thread, so it may fork.
The policy runs in the other, which can be killed whatever it does.  A process that
the policy's commands leave behind becomes a child of this one, however it detached
itself.  So this one knows when none is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sidecar.policy.exchange import (
    ANSWERS,
    MAX_ANSWER,
    REQUESTS,
    Answer,
    Limits,
    Request,
    pack,
    unpack,
)
from sidecar.policy.lua import run_policy
from sidecar.problems import Problem, ProblemError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MORE_MEMORY = 256 << 20  # beyond what Lua may take: values on their way between it and Python


def serve(requests: int, answers: int) -> None:
    """Read the request, have the policy run, end what it started, write the answer."""
    os.set_inheritable(answers, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    line = _read_line(requests)
    if line is None:
        return
    request = unpack(line, Request)
    read, write = os.pipe()
    runner = os.fork()
    if not runner:
        for fd in (answers, read):
            os.close(fd)
        _run(request, write)
    os.close(write)
    answer = _wait(runner, read, requests, request)
    _end_all()
    with contextlib.suppress(BrokenPipeError):
        view = memoryview(answer)
        while view:
            view = view[os.write(answers, view) :]


def _read_line(fd: int) -> bytes | None:
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _run(request: Request, write: int) -> None:
    """Run the policy and write the answer; does not return."""
    status = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _limit(request.limits)
        try:
            answer = run_policy(Path(request.policy), env=request.env, limits=request.limits)
        except ProblemError as error:
            answer = Answer(problems=error.problems)
        ctypes.CDLL(None).fflush(None)  # what the policy wrote with io.write
        with open(write, "wb", closefd=False) as pipe:
            pipe.write(pack(answer))
        status = 0
    finally:
        os._exit(status)


def _limit(limits: Limits) -> None:
    # The system may refuse a limit (a seccomp filter).  Lua counts its own memory, and the
    # watching process has its clock, so the policy is bounded all the same.
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    for what, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory + _MORE_MEMORY),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(what)
            resource.setrlimit(what, (most, hard))


def _wait(runner: int, read: int, requests: int, request: Request) -> bytes:
    """The answer; where the policy's process ends or is ended without one, why."""
    limits = request.limits
    until = time.monotonic() + limits.seconds
    data = bytearray()
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([requests, read], [], [], left)
        if requests in ready:  # nobody waits for the answer any more
            return b""
        chunk = os.read(read, 1 << 16) if ready else b"."
        if not chunk and data.endswith(b"\n"):
            return bytes(data)
        if not chunk:
            return _no_answer(request, *_ended(os.waitpid(runner, 0)[1], limits))
        data += chunk if ready else b""
        if len(data) > MAX_ANSWER:
            reason = f"the policy says more than {MAX_ANSWER >> 20} MiB; is there a loop?"
            return _no_answer(request, "policy-too-much", reason)
    return _no_answer(
        request,
        "policy-endless",
        f"the policy did not come to an end within {limits.seconds:g} seconds; does it wait for "
        "something (a FIFO, a command), or is there an endless loop?",
    )


def _ended(status: int, limits: Limits) -> tuple[str, str]:
    """Why a policy ended without an answer: code and message."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return "policy-endless", (
            f"the policy computed for {limits.cpu_seconds} seconds without coming to an end; is "
            "there an endless loop, a huge table.move, or a string pattern that backtracks?"
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "policy-died", (
        f"the policy's process ended early ({how}); is there enough memory on this machine?"
    )


def _no_answer(request: Request, code: str, message: str) -> bytes:
    return pack(Answer(problems=(Problem("error", code, message, file=request.policy),)))


def _end_all() -> None:
    """Kill every descendant of this process.

    The children of a killed process become our own.  So none is left when there is
    nothing more to wait for.
    """
    while True:
        for pid in _children():
            with contextlib.suppress(OSError):  # another user's (sudo): wait for it in vain
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _children() -> Iterator[int]:
    me = str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[1] == me:
                yield int(name)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    serve(REQUESTS, ANSWERS)
