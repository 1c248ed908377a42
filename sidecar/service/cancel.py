"""Taking an entry back by hand: asked for by a file, so that it needs no listener.

In: keys of entries, from ``tsa-sidecar cancel``.  Out: a request file in a
directory beside the state file (``STATE.cancel``), which the running service
carries out, commits and then deletes.  One that is found again, after a crash,
does no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from .flow import Flow


def requests_path(state: Path) -> Path:
    """The directory of requests to the service with this state file."""
    return state.with_name(state.name + ".cancel")


def ask(state: Path, keys: Iterable[str]) -> Path:
    """Ask for the entries with these keys to be taken back; the request, gone when it is done.

    OSError where the directory can't be written.
    """
    directory = requests_path(state)
    directory.mkdir(mode=0o750, exist_ok=True)
    request = directory / f"{time.time_ns()}.json"
    hidden = request.with_name("." + request.name)
    hidden.write_text(json.dumps(list(keys)), encoding="utf-8")
    hidden.rename(request)
    return request


def carry_out(directory: Path, flow: Flow) -> list[str]:
    """Take back what is asked for; returns the keys of what was in force.

    While the disk won't have the commit, the requests stay, and so does what is published.
    """
    done = []
    for request, keys in list(_requests(directory)):
        done += flow.cancel(keys)
        if flow.try_commit():
            with contextlib.suppress(OSError):
                request.unlink()
    return done


def _requests(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for request in (directory / name for name in names if fnmatch(name, "[!.]*.json")):
        try:
            keys = json.loads(request.read_bytes())
        except (OSError, ValueError, RecursionError):
            keys = []  # nothing of ours: it asks for nothing
        yield request, [k for k in keys if isinstance(k, str)] if isinstance(keys, list) else []
