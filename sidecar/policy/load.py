"""Run a policy file in a process of its own and hand back what it said.

In: a Lua file and an environment.  Out: a :class:`Policy`, made of plain data
that came through a pipe and was checked here.  Whatever the policy does to its
process (:mod:`sidecar.policy.child`), this side waits for it little longer than
`Limits.seconds`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

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
from sidecar.problems import ProblemError
from sidecar.settings import DEFAULT_POLICY, Settings, policy_path, resolve_settings, setting
from sidecar.settings.said import Policy, Said

_CLEANING_SECONDS = 5.0  # what the child may take beyond the limit, to end what it started


def load_policy(path: Path, *, env: Mapping[str, str], limits: Limits | None = None) -> Policy:
    """Run the policy at `path` with `env` as its environment variables.

    As kumo-tsa-daemon does: the file itself, then its handler of
    ``tsa_load_shaping_data``, then the one of ``tsa_init``.  Nothing of a
    former run is kept, so calling it again is how a policy is reloaded.  No
    process that the policy started is left behind.

    Blocks until the policy has ended, so not to be called on an event loop.
    When this process ends meanwhile, so does the policy's.  Raises
    ProblemError when the file can't be read or its code fails or exceeds
    `limits`; warnings so far come behind the error.
    """
    request = Request(str(path), dict(env), limits or Limits())
    data = _ask_child(request)
    try:
        answer = unpack(data, Answer)
        values = {name: _checked(name, said) for name, said in answer.values.items()}
    except ValueError as error:
        reason = f"the process that ran it gave no answer ({error}); is there enough memory?"
        raise ProblemError.one("policy-died", reason, file=str(path)) from None
    if answer.problems:
        raise ProblemError(answer.problems)
    return Policy(
        path=path,
        values=MappingProxyType(values),
        dns=answer.dns,
        tsa_db_path=answer.tsa_db_path,
        messages=answer.messages,
        warnings=answer.warnings,
        files=tuple(map(Path, answer.files)),
    )


def load_settings(
    options: Mapping[str, object],
    env: Mapping[str, str],
    *,
    require: Sequence[str] = ("shaping", "log_dir"),
    default_policy: Path = DEFAULT_POLICY,
) -> tuple[Settings, Policy | None]:
    """Find the policy, run it if there is one, and settle all settings.

    See :func:`sidecar.settings.resolve_settings` for `options` and `require`.
    Raises ProblemError with everything that is wrong.
    """
    path = policy_path(options, env, default=default_policy)
    policy = None if path is None else load_policy(path, env=env)
    return resolve_settings(options, env, policy, require=require), policy


def _checked(name: str, said: Said) -> Said:
    return replace(said, value=setting(name).check(said.value))


def _ask_child(request: Request) -> bytes:
    """The answer's bytes, fewer than there should be if it did not come whole."""
    until = time.monotonic() + request.limits.seconds + _CLEANING_SECONDS
    with _child() as (requests, answers):
        with contextlib.suppress(BrokenPipeError):
            os.write(requests, pack(request))
        data = bytearray()
        while len(data) <= MAX_ANSWER and (left := until - time.monotonic()) > 0:
            if select.select([answers], [], [], left)[0]:
                chunk = os.read(answers, 1 << 16)
                if not chunk:
                    break
                data += chunk
    return bytes(data)


@contextlib.contextmanager
def _child() -> Iterator[tuple[int, int]]:
    """A process that waits for a request: where to write that, where to read the answer.

    At the end it and all that it started are gone.
    """
    requests_end, requests = os.pipe()
    answers, answers_end = os.pipe()
    pid = _start(requests_end, answers_end, (requests, answers))
    os.close(requests_end)
    os.close(answers_end)
    try:
        yield requests, answers
    finally:
        os.close(requests)  # which the child takes for the order to end
        os.close(answers)
        ended = os.pidfd_open(pid)
        if not select.select([ended], [], [], _CLEANING_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(ended)
        os.waitpid(pid, 0)


def _start(requests: int, answers: int, others: tuple[int, int]) -> int:
    """Start the child; its process id.

    A process without threads forks, which saves the imports at the start of the
    service.  With threads that is not safe: a lock may be held that nobody opens.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        # The child imports from where we do, and nothing from the current directory.
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "sidecar.policy.child"],
            {**os.environ, "PYTHONPATH": path},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, requests, REQUESTS),
                (os.POSIX_SPAWN_DUP2, answers, ANSWERS),
            ],
            setsid=True,
        )
    pid = os.fork()
    if pid:
        return pid
    try:
        from sidecar.policy.child import serve  # noqa: PLC0415 - Lua is not for this process

        os.setsid()
        for fd in others:
            os.close(fd)
        serve(requests, answers)
    finally:
        os._exit(0)
