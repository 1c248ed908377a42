"""The status document: how the service is, for people and for ``tsa-sidecar status``.

In: the service and what goes with it.  Out: a JSON document, at
``/tsa/sidecar/status`` and in a file beside the state file (``STATE.status.json``),
so that there is one without a listener, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter

from sidecar import __version__
from sidecar.log.tail import Tail
from sidecar.publish.metrics import Metrics
from sidecar.shaping.mx import DnsResolver
from sidecar.times import NS, format_rfc3339, until_tick

from .clock import GuardedClock
from .publisher import Publisher
from .service import Service

if TYPE_CHECKING:  # not loaded where nothing listens
    from sidecar.publish.http import Endpoint

_EVERY_SECONDS = 2.0

Document = Mapping[str, Any]


def status_path(state: Path) -> Path:
    """Where the document of the service with this state file is."""
    return state.with_name(state.name + ".status.json")


class Status:
    """Makes the document and keeps it up to date in its places."""

    def __init__(
        self,
        service: Service,
        publisher: Publisher,
        *,
        metrics: Metrics,
        endpoint: Endpoint | None,
        file: Path,
    ) -> None:
        self._service = service
        self._publisher = publisher
        self._metrics = metrics
        self._endpoint = endpoint
        self._file = file
        self._started_ns = service.clock()
        self._said: Document | None = None
        self._counted: dict[Counter, int] = {}
        self.state = "starting"
        """``starting``, ``running``, ``stopped``."""
        self.tail: Tail | None = None

    def document(self) -> dict[str, Any]:
        """How things are now."""
        service, publisher = self._service, self._publisher
        overlay = service.view.overlay
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": self.state,
            "started": format_rfc3339(self._started_ns),
            "newest_record": format_rfc3339(service.newest_ns) if service.newest_ns else None,
            "entries": {kind: n for kind, n in service.view.counts().items() if n},
            "thresholds": len(service.automation.thresholds),
            "overlay_version": publisher.version,
            "reserved_names": dict(overlay.reserved),
            "left_out": list(overlay.rejected.values()),
            "counters": dict(sorted(service.counters.items())),
            **self._rules(),
            "errors": self._errors(),
            "segments_lost": list(service.lost_names),
            **self._log(),
            "clock_behind_seconds": self._behind(),
        }

    def _rules(self) -> Document:
        book = self._service.book
        if book is None:
            return {"rules": 0, "files": [], "warnings": []}
        rules = book.rules
        return {
            "rules": rules.count,
            "files": [f.name for f in rules.shaping.files],
            "warnings": [str(p) for p in rules.problems],
        }

    def _errors(self) -> list[str]:
        service = self._service
        failures = [p for p in (service.commits.failure, self._publisher.failure) if p is not None]
        if service.book is not None:
            failures += [*service.book.failure, *service.book.rules.switched_off]
        return [str(p) for p in failures]

    def _log(self) -> Document:
        if self.tail is None:
            return {"segments_waiting": None, "bytes_waiting": None}
        return {
            "segments_waiting": self.tail.waiting,
            "bytes_waiting": self.tail.bytes_waiting,
        }

    def _behind(self) -> int:
        clock = self._service.clock
        return clock.behind_ns // NS if isinstance(clock, GuardedClock) else 0

    async def run(self) -> None:
        """Keep the document and the gauges up to date, for ever."""
        while True:
            await self.tell()
            await asyncio.sleep(until_tick(time.monotonic(), _EVERY_SECONDS))

    async def tell(self) -> None:
        """Put the document where it is read, if it has changed."""
        document = self.document()
        self._set_gauges(document)
        if document == self._said and self._file.exists():
            return
        self._said = document
        said = {**document, "at": format_rfc3339(self._service.clock())}
        data = json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._publisher.status = data
        if self._endpoint is not None:
            self._endpoint.set_status(data)
        # The document says how things are; if it can't be written, it says so elsewhere.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_replace, self._file, data)

    def _set_gauges(self, document: Document) -> None:
        metrics = self._metrics
        for kind, count in self._service.view.counts().items():
            metrics.entries.labels(kind).set(count)
        metrics.threshold_scopes.set(document["thresholds"])
        metrics.rules.set(document["rules"])
        resolver = self._service.resolver
        if isinstance(resolver, DnsResolver):
            self._count(metrics.dns_failures, resolver.failures)
        book = self._service.book
        if book is not None:
            struck = sum(pattern.timeouts for pattern in book.rules.patterns)
            self._count(metrics.regex_timeouts, struck)
            metrics.regexes_switched_off.set(len(book.rules.switched_off))
            for problem in book.newly_switched_off():
                self._service.say(problem)

    def _count(self, counter: Counter, total: int) -> None:
        """Have `counter` follow a count kept elsewhere, which a reload may begin anew."""
        last = self._counted.get(counter, 0)
        if total > last:
            counter.inc(total - last)
        self._counted[counter] = total


def _replace(file: Path, data: bytes) -> None:
    """A whole document, though not a durable one: after a crash it says nothing anyway."""
    new = file.with_name(file.name + ".new")
    new.write_bytes(data)
    new.rename(file)
