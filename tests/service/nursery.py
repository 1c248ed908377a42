"""Starts sidecars by the dozen: a process that has everything loaded and forks on request.

In, on stdin: a JSON object a line.  ``{"args": …, "env": …, "out": FILE}`` starts
the command line in a child of its own; ``fault`` arms a fault point, ``prepare``
(``MODULE:FUNCTION``) is called in the child first.  ``{"poll": PID}`` asks for
its end.  Out: the pid; the exit status (negative: the signal) or null.

What a start costs then is what the program does, not what Python loads.  They end
with it, and it ends with the tests, however those end.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import traceback
from typing import Any

import sidecar
from sidecar.cli import main
from sidecar.faults import reached

_PR_SET_PDEATHSIG = 1

LATE = ("concurrent.futures.thread", "dns.asyncresolver", "watchdog.observers")
"""What the program loads only when it needs it, which takes a while.

And it may be when the files of Python can't be read any more.
"""


def load() -> None:
    """All of the program: each command of ours is loaded only when it is asked for."""
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        # Lua is for the process that runs a policy.
        if module.name not in ("sidecar.__main__", "sidecar.policy.child"):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)


def start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    code = 70
    try:
        out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2):
            os.dup2(out, fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["env"])
        reached.arm(request.get("fault"))
        if request.get("prepare"):
            module, _, function = request["prepare"].partition(":")
            getattr(importlib.import_module(module), function)()
        main(request["args"], prog_name="tsa-sidecar")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - a child of a fork must end here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve() -> None:
    load()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        answer = poll(request["poll"]) if "poll" in request else start(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
