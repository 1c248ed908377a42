"""Start to end of ``tsa-sidecar run``: what is opened in which order, signals, reload.

In: settings and how to settle them again.  Out: exit, after everything that was
read is committed and published.  The order of the start: the overlay exists
before anything else happens; what was in force is published before rules are
loaded; READY is said when the log is being read.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.automation.overlay import FIRST_LINE, Overlay
from sidecar.log.tail import Tail
from sidecar.problems import Problem, ProblemError
from sidecar.publish.metrics import Metrics
from sidecar.publish.overlay_file import write_atomically
from sidecar.settings import Address, Settings
from sidecar.shaping.mx import Resolver
from sidecar.store import Saved, Store, StoreError, state_files
from sidecar.systemd import Notifier
from sidecar.times import NS, until_tick

from .cancel import carry_out, requests_path
from .checkpoints import tail_for
from .clock import GuardedClock
from .logging import Log, everything_to
from .progress import progress_on_terminal
from .publisher import BOUNCED_NAME, SUSPENDED_NAME, Publisher
from .reload import changes, signature
from .retention import Keeper, keep_within
from .rules import RuleBook, Settle, Settled, load_rules
from .service import Service, watchdog
from .status import Status, status_path

if TYPE_CHECKING:  # each is loaded where it is asked for: together they take a while
    from sidecar.publish.http import Endpoint
    from sidecar.publish.kumod import KumodClient

DEBUG = "TSA_SIDECAR_DEBUG"
"""A variable: set, an error of the program's own ends with its traceback."""


_CANCEL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a running sidecar consists of."""

    log: Log
    state: Path
    store: Store
    service: Service
    publisher: Publisher
    status: Status
    notifier: Notifier
    metrics: Metrics
    kumod: KumodClient | None


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
    log = Log(log_format=settings.fixed.log_format)
    for message in settled.messages:
        log.info("the policy says", text=message)
    for problem in settings.warnings:
        log.problem(problem)
    _spare_what_is_read(settings)
    _ensure_overlay(settings.fixed.overlay)
    metrics = Metrics.create(process=True)
    with everything_to(log), Store.open(settings.fixed.state) as store:
        saved = _load(store)
        for problem in store.problems:
            log.problem(problem)
        resolver = make_resolver(saved.mx)
        service = Service(
            store=store,
            saved=saved,
            resolver=resolver,
            log=log,
            metrics=metrics,
            clock=clock or GuardedClock(on_jump=lambda ns: _say_jump(log, ns)),
        )
        listen = None if once else settings.fixed.listen
        with _endpoint(listen, settings, metrics=metrics, log=log) as endpoint:
            kumod = None if once else _kumod(settings, service, metrics=metrics, log=log)
            publisher = Publisher(
                service.view,
                overlay=settings.fixed.overlay,
                endpoint=endpoint,
                log=log,
                metrics=metrics,
                on_change=None if kumod is None else kumod.set_desired,
            )
            service.publisher = publisher
            status = Status(
                service,
                publisher,
                metrics=metrics,
                endpoint=endpoint,
                file=status_path(settings.fixed.state),
            )
            parts = _Parts(
                log=log,
                state=settings.fixed.state,
                store=store,
                service=service,
                publisher=publisher,
                status=status,
                notifier=Notifier(env),
                metrics=metrics,
                kumod=kumod,
            )
            await publisher.write(publisher.snapshot())
            seen = signature(settled.files)
            rules = await load_rules(
                settings.reloaded, resolver, service.copies, warnings=settings.warnings
            )
            service.keep_copies()
            metrics.rules_loaded_at.set(service.clock() / NS)
            for problem in rules.found:
                log.problem(problem)
            service.book = RuleBook(
                settle, resolver, settled, rules, seen=seen, copies=service.copies
            )
            gc.freeze()  # what there is now stays: no need to look through it for garbage
            await _read_log(parts, saved, once=once)


async def _read_log(parts: _Parts, saved: Saved, *, once: bool) -> None:
    service = parts.service
    assert service.book is not None
    settings = service.book.settled.settings
    tail = tail_for(
        settings,
        saved=saved.checkpoints,
        since_ns=service.since_ns(),
        on_problem=parts.log.problem,
        sift=service.sift,
    )
    parts.status.tail = tail
    async with tail, progress_on_terminal(tail):
        if once:
            await _run_once(parts, tail)
        else:
            with watchdog(parts.notifier):
                await _run(parts, tail)


def _load(store: Store) -> Saved:
    try:
        return store.load()
    except StoreError as error:
        raise ProblemError([error.problem]) from None


def _say_jump(log: Log, ns: int) -> None:
    seconds = ns // NS
    if ns > 0:
        log.warning(
            "the clock leapt forward; expiry catches up with it over an hour", seconds=seconds
        )
    else:
        log.warning(
            "the clock was set back; what is in force holds longer by as much", seconds=seconds
        )


def _spare_what_is_read(settings: Settings) -> None:
    """ProblemError where the overlay would take the place of the operator's rules or policy.

    Or of a file of our own, or where it would be read as a log.  The overlay itself may
    well be among the rule files, as it is among kumod's.
    """
    target = os.path.realpath(settings.fixed.overlay)
    overlay, state = Path(target), Path(os.path.realpath(settings.fixed.state))
    ours = {*state_files(state), requests_path(state), status_path(state)}
    if overlay in ours or overlay.name in (SUSPENDED_NAME, BOUNCED_NAME):
        raise _overlay_problem(settings, "another file of tsa-sidecar's own has this name")
    if overlay.parent == Path(os.path.realpath(settings.fixed.log_dir)):
        raise _overlay_problem(settings, "it would be read as a segment of the log")
    read = {os.path.realpath(file) for file in settings.reloaded.shaping}
    read |= {os.path.realpath(file) for file in settings.fixed.dns_zones}
    if settings.reloaded.policy is not None:
        read.add(os.path.realpath(settings.reloaded.policy))
    if target not in read:
        return
    mark = FIRST_LINE.encode()
    with contextlib.suppress(OSError), open(target, "rb") as file:
        if file.read(len(mark)) not in (b"", mark):
            raise _overlay_problem(settings, "the overlay would replace this file, which is read")


def _overlay_problem(settings: Settings, why: str) -> ProblemError:
    message = f"{why}: name another with --overlay or TSA_SIDECAR_OVERLAY"
    return ProblemError.one("overlay-write", message, file=str(settings.fixed.overlay))


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
def _endpoint(
    listen: Address | None, settings: Settings, *, metrics: Metrics, log: Log
) -> Iterator[Endpoint | None]:
    if listen is None:
        yield None
        return
    from sidecar.publish.http import Endpoint  # noqa: PLC0415

    with Endpoint(
        listen,
        trusted=settings.fixed.trusted_hosts,
        names=settings.fixed.allowed_hosts,
        metrics=metrics,
        on_problem=log.problem,
    ) as endpoint:
        log.info("listening", url=endpoint.url)
        yield endpoint


def _kumod(
    settings: Settings, service: Service, *, metrics: Metrics, log: Log
) -> KumodClient | None:
    if settings.fixed.kumod_api is None:
        return None
    from sidecar.publish.kumod import KumodClient  # noqa: PLC0415

    return KumodClient(
        settings.fixed.kumod_api,
        ids=service.kumod_ids,
        on_ids=service.keep_kumod_ids,
        on_problem=log.problem,
        metrics=metrics,
    )


async def _run_once(parts: _Parts, tail: Tail) -> None:
    service, publisher = parts.service, parts.publisher
    service.commits.patient = False
    await service.follow(tail, follow=False)
    service.expire()
    await service.commits.commit()
    await publisher.write(publisher.snapshot())
    parts.status.state = "stopped"
    await parts.status.tell()
    if publisher.failure is not None:
        raise ProblemError([publisher.failure])


async def _run(parts: _Parts, tail: Tail) -> None:
    service, log = parts.service, parts.log
    assert service.book is not None
    settings = service.book.settled.settings
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    parts.status.state = "running"
    works = _works(parts, tail, hangup)
    parts.notifier.ready("reading the log")
    log.info("started", pid=os.getpid(), log_dir=str(settings.fixed.log_dir))
    try:
        await _until(stop, works)
    finally:
        parts.notifier.stopping()
        if parts.kumod is not None:
            await parts.kumod.close()
        await _end(parts)
    log.info("stopped")


def _works(
    parts: _Parts, tail: Tail, hangup: asyncio.Event
) -> dict[str, Coroutine[Any, Any, None]]:
    """What goes on at the same time, for ever, by name."""
    service, log = parts.service, parts.log
    assert service.book is not None
    keeper = _keeper(parts)
    works = {
        "follow": service.follow(
            tail,
            follow=True,
            on_finished=(lambda _names: None) if keeper is None else keeper.note,
        ),
        "expire": service.expire_for_ever(tail),
        "publish": parts.publisher.run(),
        "reload": _reload(parts, service.book, hangup),
        "status": parts.status.run(),
        "cancel": _cancel(parts, requests_path(parts.state)),
    }
    if parts.kumod is not None:
        works["kumod"] = parts.kumod.run()
    if keeper is not None:
        works["retention"] = keep_within(keeper, service, parts.store, log)
    return works


async def _cancel(parts: _Parts, directory: Path) -> None:
    """Take back what an operator asks for, for ever."""
    while True:
        for key in carry_out(directory, parts.service):
            parts.log.info("an entry was taken back by hand", key=key)
        await asyncio.sleep(until_tick(time.monotonic(), _CANCEL_SECONDS))


def _keeper(parts: _Parts) -> Keeper | None:
    service = parts.service
    assert service.book is not None
    settings = service.book.settled.settings
    if settings.fixed.retention is None:
        return None
    keeper = Keeper(
        settings.fixed.log_dir,
        pattern=settings.fixed.pattern,
        retention=settings.fixed.retention,
        clock=service.clock,
        log=parts.log,
    )
    keeper.note_earlier(service.checkpoints, until_ns=service.committed_ns, lost=service.lost_names)
    return keeper


async def _until(stop: asyncio.Event, works: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Let `works` go on until `stop`; ProblemError when one of them ends, which none should."""
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    ended = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ended}:
            _raise_as_problem(task)
    finally:
        for task in (ended, *tasks):
            task.cancel()
        await asyncio.gather(ended, *tasks, return_exceptions=True)


def _raise_as_problem(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    if error is None or isinstance(error, ProblemError) or os.environ.get(DEBUG):
        task.result()
    raise ProblemError(
        [
            Problem(
                "error",
                "internal",
                f"{type(error).__name__}: {error}. This is a mistake in tsa-sidecar: please "
                f"report it, with the traceback that {DEBUG}=1 shows. What is in force stays "
                "published; the next start goes on from the last commit",
                where=task.get_name(),
            )
        ]
    )


async def _end(parts: _Parts) -> None:
    """Commit and publish what there is; if the disk won't have it, say so and end all the same."""
    try:
        await parts.service.commits.last_commit()
    except ProblemError as error:
        parts.log.problem(error.problems[0])
        parts.log.warning("what could not be committed will be read from the log again")
    await parts.publisher.write(parts.publisher.snapshot())
    parts.status.state = "stopped"
    await parts.status.tell()


async def _reload(parts: _Parts, book: RuleBook, hangup: asyncio.Event) -> None:
    """Read the rules again when asked to, when their files change, when the ttl has passed."""
    reasons = changes(
        files=lambda: book.settled.files,
        known=book.seen,
        ttl_seconds=lambda: book.rules.reload_ns(parts.service.clock()) / NS,
        hangup=hangup,
    )
    async for reason in reasons:
        parts.notifier.reloading()
        await _reload_once(parts, book, reason)
        parts.notifier.ready("reading the log")


async def _reload_once(parts: _Parts, book: RuleBook, reason: str) -> None:
    log = parts.log
    changed = await book.reload()
    for problem in book.failure:
        log.problem(problem)
    if book.failure:
        parts.metrics.rule_load_errors.inc()
        log.error("the rules were not replaced; the last good ones stay", reason=reason)
        return
    parts.metrics.rules_loaded_at.set(parts.service.clock() / NS)
    parts.service.keep_copies()
    if changed:
        for problem in book.rules.problems:
            log.problem(problem)
        log.info("the rules were replaced", reason=reason)
