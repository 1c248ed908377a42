"""Start to end of ``tsa-sidecar run``: what is opened in which order, signals, reload.

In: settings and how to settle them again.  Out: exit, after everything that was
read is committed and published.  The order of the start: the overlay exists
before anything else happens; what was in force is published before rules are
loaded; READY is said when the log is being read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sidecar.automation.overlay import Overlay
from sidecar.log.tail import Tail
from sidecar.problems import ProblemError
from sidecar.publish.http import Endpoint
from sidecar.publish.kumod import KumodClient
from sidecar.publish.metrics import Metrics
from sidecar.publish.overlay_file import write_atomically
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver
from sidecar.store import Store
from sidecar.systemd import Notifier
from sidecar.times import NS

from .checkpoints import tail_for
from .logging import Log
from .progress import progress_on_terminal
from .publisher import Publisher
from .reload import changes
from .rules import RuleBook, Settle, Settled, load_rules
from .service import Service, watchdog


async def serve(
    settled: Settled,
    *,
    settle: Settle,
    make_resolver: Callable[[Mapping[str, str]], Resolver],
    once: bool,
    clock: Callable[[], int] | None,
    env: Mapping[str, str],
) -> None:
    """Run until SIGTERM or SIGINT, or with `once` until all that is there is processed.

    Raises ProblemError for what keeps it from starting, or with `once` from
    publishing.
    """
    settings = settled.settings
    log = Log(log_format=settings.log_format)
    for message in settled.messages:
        log.info("the policy says", text=message)
    for problem in settings.warnings:
        log.problem(problem)
    _ensure_overlay(settings.overlay)
    metrics = Metrics.create(process=True)
    notifier = Notifier(env)
    with Store.open(settings.state) as store:
        for problem in store.problems:
            log.problem(problem)
        saved = store.load()
        resolver = make_resolver(saved.mx)
        service = Service(
            store=store,
            saved=saved,
            resolver=resolver,
            log=log,
            metrics=metrics,
            clock=clock or time.time_ns,
        )
        with _endpoint(settings, metrics=metrics, log=log) as endpoint:
            kumod = _kumod(settings, service, metrics=metrics, log=log) if not once else None
            publisher = Publisher(
                service.view,
                overlay=settings.overlay,
                endpoint=endpoint,
                log=log,
                metrics=metrics,
                status=service.status,
                on_change=None if kumod is None else kumod.set_desired,
            )
            service.publisher = publisher
            await publisher.write(publisher.snapshot())
            rules = await load_rules(settings, resolver, service.copies)
            service.keep_copies()
            for problem in rules.found:
                log.problem(problem)
            service.book = RuleBook(settle, resolver, settled, rules, copies=service.copies)
            tail = tail_for(
                settings,
                saved=saved.checkpoints,
                since_ns=service.clock() - rules.shaping.horizon_ns,
                on_problem=log.problem,
            )
            async with tail, progress_on_terminal(tail):
                if once:
                    await _run_once(service, publisher, tail)
                else:
                    with watchdog(notifier):
                        await _run(
                            service, publisher, tail, kumod=kumod, notifier=notifier, log=log
                        )
            notifier.stopping()


def _ensure_overlay(path: Path) -> None:
    """An empty overlay where there is none: kumod logs an error for a missing file."""
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


@contextlib.contextmanager
def _endpoint(settings: Settings, *, metrics: Metrics, log: Log) -> Iterator[Endpoint | None]:
    if settings.listen is None:
        yield None
        return
    with Endpoint(
        str(settings.listen),
        trusted_hosts=[str(n) for n in settings.trusted_hosts],
        metrics=metrics,
        on_problem=log.problem,
    ) as endpoint:
        log.info("listening", url=endpoint.url)
        yield endpoint


def _kumod(
    settings: Settings, service: Service, *, metrics: Metrics, log: Log
) -> KumodClient | None:
    if settings.kumod_api is None:
        return None
    return KumodClient(
        settings.kumod_api,
        ids=service.kumod_ids,
        on_ids=service.keep_kumod_ids,
        on_problem=log.problem,
        metrics=metrics,
    )


async def _run_once(service: Service, publisher: Publisher, tail: Tail) -> None:
    await service.follow(tail, follow=False)
    service.expire()
    await service.flush()
    await publisher.write(publisher.snapshot())
    if publisher.failure is not None:
        raise ProblemError([publisher.failure])


async def _run(
    service: Service,
    publisher: Publisher,
    tail: Tail,
    *,
    kumod: KumodClient | None,
    notifier: Notifier,
    log: Log,
) -> None:
    book = service.book
    assert book is not None
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    tasks = [
        asyncio.create_task(service.follow(tail, follow=True), name="follow"),
        asyncio.create_task(service.expire_for_ever(), name="expire"),
        asyncio.create_task(publisher.run(), name="publish"),
        asyncio.create_task(_reload(book, hangup, notifier=notifier, log=log), name="reload"),
    ]
    if kumod is not None:
        tasks.append(asyncio.create_task(kumod.run(), name="kumod"))
    ended = asyncio.create_task(stop.wait(), name="stop")
    notifier.ready("reading the log")
    log.info("started", pid=os.getpid(), log_dir=str(book.rules.settings.log_dir))
    try:
        done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ended}:
            task.result()  # a task of these never ends but by an error of ours
    finally:
        for task in (ended, *tasks):
            task.cancel()
        await asyncio.gather(ended, *tasks, return_exceptions=True)
        if kumod is not None:
            await kumod.close()
    await service.flush()
    publisher.changed()
    await publisher.write(publisher.snapshot())
    log.info("stopped")


async def _reload(book: RuleBook, hangup: asyncio.Event, *, notifier: Notifier, log: Log) -> None:
    """Read the rules again when asked to, when their files change, when the ttl has passed."""
    reasons = changes(
        files=lambda: book.settled.files,
        ttl_seconds=lambda: book.rules.settings.ttl_ns / NS,
        hangup=hangup,
    )
    async for reason in reasons:
        notifier.reloading()
        changed = await book.reload()
        for problem in book.failure:
            log.problem(problem)
        if book.failure:
            log.error("the rules were not replaced; the last good ones stay", reason=reason)
        elif changed:
            for problem in book.rules.problems:
                log.problem(problem)
            log.info("the rules were replaced", reason=reason)
        notifier.ready("reading the log")
