"""The status document: how the service is, for people and for ``tsa-sidecar status``.

In: a :class:`Status`, a value that the service makes.  Out: a JSON document, at
``/tsa/sidecar/status`` and in a file beside the state file (``STATE.status.json``),
so that there is one without a listener, too.  The file's time is the service's
heartbeat: it is set anew every two seconds, by the loop that does all the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sidecar import __version__
from sidecar.problems import Problem
from sidecar.times import NS, format_rfc3339

if TYPE_CHECKING:  # the command line that reads a status needs none of it
    from prometheus_client import Counter

    from sidecar.publish.metrics import Metrics

State = Literal["starting", "running", "stopped"]

HEARTBEAT_SECONDS = 2.0
"""How often the status file's time is set anew."""

Document = Mapping[str, Any]


def status_path(state: Path) -> Path:
    """Where the document of the service with this state file is."""
    return state.with_name(state.name + ".status.json")


@dataclass(frozen=True, slots=True)
class Status:
    """How things are at one moment.

    ``conditions``: what is wrong (level ``error``) or deserves a look
    (``warning``), each with a code that programs may go by.  ``entries``: how
    many are in force, by kind, ``states`` by state.  ``shares``: of each rule whose limits
    adjust themselves, by its label, how much the lowest lets through.
    ``segments_waiting`` and ``bytes_waiting`` are None until the log is read.
    ``records_waiting`` for the MX of their domain are read, but not decided;
    ``dns_look_ups`` are under way;
    ``dns_silent_since_ns`` is 0 while name servers answer.  ``kumod``: whether kumod
    does what was published, by entry's key; None without an admin API.  ``roads``:
    where each road leads that is used, ``overlay`` (a file), ``listener`` and ``kumod``
    (URLs).  ``notify``: the targets of notifications, by name; None without any.
    ``share``: how it is with the group, and who is in it; None without one.
    """

    state: State
    started_ns: int
    newest_ns: int = 0
    entries: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    thresholds: int = 0
    overlay_version: int = 0
    reserved_names: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    rules: int = 0
    files: tuple[str, ...] = ()
    conditions: tuple[Problem, ...] = ()
    segments_lost: tuple[str, ...] = ()
    segments_waiting: int | None = None
    bytes_waiting: int | None = None
    clock_behind_seconds: int = 0
    records_waiting: int = 0
    dns_failures: int = 0
    dns_look_ups: int = 0
    dns_silent_since_ns: int = 0
    regex_timeouts: int = 0
    regexes_switched_off: int = 0
    kumod: Document | None = None
    roads: Mapping[str, str] = field(default_factory=dict)
    notify: Document | None = None
    share: Document | None = None

    def document(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": self.state,
            "started": format_rfc3339(self.started_ns),
            "newest_record": format_rfc3339(self.newest_ns) if self.newest_ns else None,
            "entries": {kind: n for kind, n in self.entries.items() if n},
            "states": {state: n for state, n in self.states.items() if n},
            "thresholds": self.thresholds,
            "overlay_version": self.overlay_version,
            "reserved_names": dict(self.reserved_names),
            "left_out": list(self.left_out),
            "counters": dict(sorted(self.counters.items())),
            "rules": self.rules,
            "files": list(self.files),
            "conditions": [
                {"code": p.code, "level": p.level, "text": str(p)} for p in self.conditions
            ],
            "warnings": [str(p) for p in self.conditions if p.level == "warning"],
            "errors": [str(p) for p in self.conditions if p.level == "error"],
            "segments_lost": list(self.segments_lost),
            "segments_waiting": self.segments_waiting,
            "bytes_waiting": self.bytes_waiting,
            "records_waiting": self.records_waiting,
            "dns_look_ups": self.dns_look_ups,
            "dns_silent_since": (
                format_rfc3339(self.dns_silent_since_ns) if self.dns_silent_since_ns else None
            ),
            "clock_behind_seconds": self.clock_behind_seconds,
            "kumod": self.kumod,
            "roads": dict(self.roads),
            "notify": self.notify,
            "share": self.share,
        }


class StatusFile:
    """Keeps the document in its file, written anew only when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: Document | None = None

    async def tell(self, document: Document, now_ns: int) -> bytes | None:
        """Put `document` into the file; its bytes where it has changed, else None."""
        if document == self._said and await asyncio.to_thread(_beat, self._path):
            return None
        self._said = document
        said = {**document, "at": format_rfc3339(now_ns)}
        data = json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace")
        # The document says how things are; if it can't be written, it says so elsewhere.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_replace, self._path, data)
        return data


class Gauges:
    """Keeps those metrics up to date that say how things are."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: dict[Counter, int] = {}

    def show(self, status: Status, now_ns: int) -> None:
        """Set them as `status` says, which was made at `now_ns`."""
        metrics = self._metrics
        for kind, count in status.entries.items():
            metrics.entries.labels(kind).set(count)
        for state, count in status.states.items():
            metrics.states.labels(state).set(count)
        metrics.show_shares(status.shares)
        metrics.threshold_scopes.set(status.thresholds)
        metrics.rules.set(status.rules)
        waiting, newest_ns = status.bytes_waiting or 0, status.newest_ns
        metrics.bytes_waiting.set(waiting)
        metrics.segments_waiting.set(status.segments_waiting or 0)
        metrics.newest_record_at.set(newest_ns / NS)
        metrics.lag_seconds.set((now_ns - newest_ns) / NS if waiting and newest_ns else 0)
        metrics.records_waiting.set(status.records_waiting)
        metrics.dns_look_ups.set(status.dns_look_ups)
        metrics.dns_silent_since.set(status.dns_silent_since_ns / NS)
        self._follow(metrics.dns_failures, status.dns_failures)
        self._follow(metrics.regex_timeouts, status.regex_timeouts)
        metrics.regexes_switched_off.set(status.regexes_switched_off)
        if status.share is not None:
            self._show_share(status.share)

    def _show_share(self, share: Document) -> None:
        """Show how it is with the group."""
        metrics, group = self._metrics, str(share["group"])
        metrics.share_up.labels(group).set(share["connected"])
        metrics.share_delay.labels(group).set(share["delay_seconds"] or 0)
        waiting = {
            "append": share["waiting"],
            "receive": share["unread"] or 0,
            "segments": share["segments_behind"],
        }
        for what, count in waiting.items():
            metrics.share_waiting.labels(what).set(count)
        for direction in ("appended", "received"):
            self._follow(metrics.share_lines.labels(direction), share[f"lines_{direction}"])
        for reason in ("missed", "given_up", "bad_entries"):
            self._follow(metrics.share_lost.labels(reason), share[reason])
        others = [host["same_rules"] for host in share["hosts"] if not host["own"]]
        for rules, same in (("same", True), ("other", False)):
            metrics.share_hosts.labels(rules).set(others.count(same))

    def _follow(self, counter: Counter, total: int) -> None:
        """Have `counter` follow a count kept elsewhere, which a reload may begin anew."""
        last = self._counted.get(counter, 0)
        if total > last:
            counter.inc(total - last)
        self._counted[counter] = total


def _beat(file: Path) -> bool:
    """Set the file's time; False where there is no such file."""
    try:
        os.utime(file)
    except OSError:
        return False
    return True


def _replace(file: Path, data: bytes) -> None:
    """A whole document, though not a durable one: after a crash it says nothing anyway."""
    new = file.with_name(file.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # whatever it is: a link, a pipe
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o644), "wb") as opened:
        opened.write(data)
    new.rename(file)
