"""A flow without its surroundings: for tests that hand it batches."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.publish.metrics import Metrics
from sidecar.service.flow import Flow
from sidecar.service.ledger import Ledger
from sidecar.service.logging import Log
from sidecar.service.published import Published
from sidecar.service.publisher import Publisher
from sidecar.service.rules import RuleBook, Settled, load_rules
from sidecar.shaping.mx import OfflineResolver, Resolver
from sidecar.store import Store


@dataclass
class Parts:
    """What a flow works with."""

    flow: Flow
    ledger: Ledger
    book: RuleBook
    view: Published
    publisher: Publisher


async def parts(
    store: Store,
    settled: Settled,
    *,
    overlay: Path,
    log: Log | None = None,
    clock: Callable[[], int] = time.time_ns,
    resolver: Resolver | None = None,
) -> Parts:
    """A flow by the rules that `settled` names; nothing is published, the view apart."""
    log = log or Log(stream=io.StringIO())
    resolver = resolver or OfflineResolver()
    metrics = Metrics.create()
    ledger = Ledger(store, store.load(), resolver=resolver, log=log, clock=clock)
    view = Published(ledger.automation.entries)
    publisher = Publisher(view, overlay=overlay, endpoint=None, log=log, metrics=metrics)
    rules = await load_rules(settled.settings.reloaded, resolver)
    book = RuleBook(lambda: settled, resolver, settled, rules, seen={}, copies={})
    flow = Flow(
        settings=settled.settings.fixed,
        book=book,
        ledger=ledger,
        publisher=publisher,
        resolver=resolver,
        log=log,
        metrics=metrics,
        clock=clock,
    )
    return Parts(flow, ledger, book, view, publisher)
