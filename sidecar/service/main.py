"""``tsa-sidecar run`` from start to end: the order of opening things, signals, reload.

In: settings, and a function that settles them again.  Out: it returns when
everything that was read is committed and published.

The start goes in this order.  An overlay exists before anything else happens.
What was in force is published.  The rules are loaded.  Everything else is made.
The log is read, and systemd is told READY.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sidecar.automation.entries import Override
from sidecar.log.tail import Tail
from sidecar.problems import Problem, ProblemError
from sidecar.publish.metrics import Metrics
from sidecar.settings import DEBUG, Fixed
from sidecar.shaping.mx import DnsResolver, Resolver
from sidecar.store import Saved, Store, StoreError, Transaction
from sidecar.systemd import Notifier
from sidecar.times import NS, format_rfc3339, until_tick

from .cancel import Requests, requests_path
from .checkpoints import tail_for
from .clock import GuardedClock
from .deliveries import missing_deliveries
from .flow import Flow
from .ledger import Ledger, refuse_other_kind
from .logging import Log, everything_to
from .orders import said
from .overlay_place import ensure_overlay, locked_overlay, refuse_taken_place
from .progress import progress_on_terminal
from .published import Published
from .publisher import Publisher
from .reload import changes, signature
from .retention import Keeper, keep_within
from .rules import RuleBook, Settle, Settled, load_rules
from .standing import LeastShares, in_states
from .status import HEARTBEAT_SECONDS, Gauges, State, Status, StatusFile, status_path

if TYPE_CHECKING:  # imported where they are used: together they take a while
    from sidecar.publish.http import Endpoint
    from sidecar.publish.kumod import KumodClient

    from .notify import Notifications
    from .sharing import Sharing

_CANCEL_SECONDS = 1.0
_COMMIT_SECONDS = 0.05
_ASIDE_NAMED = 1000
"""How many options that the overlay leaves out, another host's, the status names."""


@dataclass(frozen=True, slots=True)
class _Outside:
    """The parts that need no rules: with them, what was in force is published at the start."""

    settings: Fixed
    log: Log
    metrics: Metrics
    clock: Callable[[], int]
    started_ns: int
    store: Store
    resolver: Resolver
    ledger: Ledger
    view: Published
    endpoint: Endpoint | None
    kumod: KumodClient | None
    notifications: Notifications | None
    publisher: Publisher
    status_file: StatusFile
    gauges: Gauges
    shares: LeastShares

    def status(self, state: State) -> Status:
        """The status as far as it is known without rules."""
        overlay, clock = self.view.overlay, self.clock
        dns = self.resolver if isinstance(self.resolver, DnsResolver) else None
        now_ns = clock()
        return Status(
            state=state,
            started_ns=self.started_ns,
            entries=dict(self.view.counts()),
            states=in_states(self.view.entries, now_ns),
            shares=self.shares.at(self.view.entries, self.ledger.automation.episodes, now_ns),
            thresholds=len(self.ledger.automation.thresholds),
            overlay_version=self.publisher.version,
            reserved_names=dict(overlay.reserved),
            left_out=tuple(overlay.rejected.values()),
            counters=dict(self.ledger.counters),
            conditions=tuple(self._conditions()),
            segments_lost=tuple(self.ledger.lost_names),
            clock_behind_seconds=clock.behind_ns // NS if isinstance(clock, GuardedClock) else 0,
            kumod=None if self.kumod is None else self.kumod.obedience.document(),
            roads=dict(self._roads()),
            notify=None if self.notifications is None else self.notifications.document(),
            dns_failures=0 if dns is None else dns.failures,
            dns_look_ups=0 if dns is None else dns.in_flight,
            dns_silent_since_ns=0 if dns is None else dns.silent_since_ns,
        )

    def _roads(self) -> Iterator[tuple[str, str]]:
        if not self.settings.simulate:
            yield "overlay", str(self.settings.overlay)
        if self.endpoint is not None:
            yield "listener", self.endpoint.url
        if self.settings.kumod_api is not None:
            yield "kumod", str(self.settings.kumod_api)

    def _conditions(self) -> Iterator[Problem]:
        for problem in (self.ledger.commits.failure, self.publisher.failure):
            if problem is not None:
                yield problem
        if isinstance(self.resolver, DnsResolver) and self.resolver.silent_since_ns:
            since = format_rfc3339(self.resolver.silent_since_ns)
            message = (
                f"the name servers have not answered since {since}: rules of providers go by "
                "what was known before; see whether they run and can be reached"
            )
            yield Problem("error", "dns-silent", message)
        if self.kumod is not None:
            yield from self.kumod.conditions()
        if self.notifications is not None:
            yield from self.notifications.conditions()

    async def tell(self, status: Status) -> None:
        """Write `status` into its file, and show it in the metrics and on the page."""
        self.gauges.show(status, self.clock())
        if self.notifications is not None:
            self.notifications.show()
        self.metrics.state_writable.set(self.ledger.commits.failure is None)
        if self.endpoint is not None:
            self._show_page(self.endpoint, status.document())
        data = await self.status_file.tell(status.document(), self.clock())
        if data is not None:
            self.publisher.status = data
            if self.endpoint is not None:
                self.endpoint.set_status(data)

    def _show_page(self, endpoint: Endpoint, document: Mapping[str, Any]) -> None:
        from sidecar.publish import page  # noqa: PLC0415

        entries, at_ns = self.view.entries, self.clock()
        some, total = tuple(islice(entries, page.ENTRIES_MAX)), len(entries)
        some = tuple(e.at(at_ns) if isinstance(e, Override) else e for e in some)
        episodes = self.ledger.automation.episodes
        told = tuple((entry, episodes.get(entry.key)) for entry in some)
        past = self.ledger.past()
        endpoint.set_page_data(
            lambda: page.document(document, told, total=total, at_ns=at_ns, ended=past)
        )


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """A sidecar that has its rules."""

    outside: _Outside
    book: RuleBook
    flow: Flow
    tail: Tail
    requests: Requests
    notifier: Notifier

    def status(self, state: State) -> Status:
        """The whole status."""
        outside, rules = self.outside, self.book.rules
        known = outside.status(state)
        return replace(
            known,
            newest_ns=self.flow.newest_ns,
            records_waiting=self.flow.waiting,
            rules=rules.count,
            files=tuple(f.name for f in rules.shaping.files),
            conditions=(*known.conditions, *self._conditions(), *self.book.conditions()),
            segments_waiting=self.tail.waiting,
            bytes_waiting=self.tail.bytes_waiting,
            regex_timeouts=sum(pattern.timeouts for pattern in rules.patterns),
            regexes_switched_off=len(rules.switched_off),
            share=self._share(),
        )

    def _share(self) -> dict[str, Any] | None:
        if self.flow.sharing is None:
            return None
        aside = self.outside.view.aside()
        document = {"overrides_left_out": len(aside), "left_out": aside[:_ASIDE_NAMED]}
        return {**self.flow.sharing.document(), **document}

    def _conditions(self) -> Iterator[Problem]:
        if self.tail.has_no_directory:
            directory = str(self.tail.directory)
            message = "the log directory can't be read: nothing new is decided"
            yield Problem("error", "log-dir-unreadable", message, file=directory)
        yield from self.requests.conditions()
        if self.flow.sharing is not None:
            yield from self.flow.sharing.conditions()
        missing = missing_deliveries(self.book.rules, self.outside.ledger.counters)
        if missing is not None:
            yield missing
        most, automation = self.book.rules.settings.max_entries, self.outside.ledger.automation
        if automation.entries.places >= most:
            message = (
                f"there is no room for entries beyond the {len(automation.entries)} in force: new "
                "ones are left out. See what causes them, or raise --max-entries "
                "(TSA_SIDECAR_MAX_ENTRIES)"
            )
            yield Problem("error", "entries-full", message)
        if automation.thresholds.places >= most:
            message = (
                "there is no room for counts of thresholds and shares beyond the "
                f"{len(automation.thresholds)} there are: rules with either do not strike on "
                "other ready queues. See what causes them, or raise --max-entries "
                "(TSA_SIDECAR_MAX_ENTRIES)"
            )
            yield Problem("error", "thresholds-full", message)


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
    if settings.fixed.simulate:
        log.info("simulating: nothing is published", state=str(settings.fixed.state))
    else:
        refuse_taken_place(settings)
        ensure_overlay(settings.fixed.overlay)
    guarded = clock or GuardedClock(on_jump=lambda ns: _say_jump(log, ns))
    with (
        everything_to(log),
        _outside(settings.fixed, make_resolver, once=once, clock=guarded, log=log) as outside,
    ):
        await outside.publisher.put_out()
        await outside.tell(outside.status("starting"))
        book = await _load_rules(settled, settle, outside)
        flow = Flow(
            settings=settings.fixed,
            book=book,
            ledger=outside.ledger,
            publisher=outside.publisher,
            resolver=outside.resolver,
            log=log,
            metrics=outside.metrics,
            clock=guarded,
        )
        tail = tail_for(
            settings.fixed,
            saved=outside.ledger.checkpoints,
            since_ns=flow.since_ns(),
            on_problem=log.problem,
            sieve=lambda: book.rules,
            numbered=settings.fixed.share is not None,
        )
        requests = Requests(requests_path(settings.fixed.state))
        if not once:
            requests.prepare()
        sharing = _sharing(settings.fixed, outside, book, flow, once=once)
        async with tail, progress_on_terminal(tail), sharing as flow.sharing:
            sidecar = _Sidecar(outside, book, flow, tail, requests, Notifier(env))
            gc.freeze()  # all of this lives until the end, so the collector need not look at it
            if once:
                await _run_once(sidecar, present=clock is None)
            else:
                with sidecar.notifier.watched():
                    await _run(sidecar)


def _sharing(
    settings: Fixed, outside: _Outside, book: RuleBook, flow: Flow, *, once: bool
) -> contextlib.AbstractAsyncContextManager[Sharing | None]:
    """This service's part in its group.  With `once` it takes none: the next run tells."""
    if settings.share is None or once:
        return contextlib.nullcontext()
    from .sharing import sharing_with  # noqa: PLC0415

    return sharing_with(
        settings,
        flow=flow,
        ledger=outside.ledger,
        rules=lambda: book.rules,
        log=outside.log,
        clock=outside.clock,
    )


@contextlib.contextmanager
def _outside(
    settings: Fixed,
    make_resolver: Callable[[Mapping[str, str]], Resolver],
    *,
    once: bool,
    clock: Callable[[], int],
    log: Log,
) -> Iterator[_Outside]:
    """Open the state and the roads.  With `once` there is no listener and no admin API."""
    metrics = Metrics.create(process=True)
    # The state's lock comes first: its message names the other process.
    with Store.open(settings.state) as store, _locked_overlay(settings, log):
        saved = _load(store)
        refuse_other_kind(saved, settings)
        for problem in store.problems:
            log.problem(problem)
        resolver = make_resolver(saved.mx)
        notifications = _notifications(settings, saved, metrics=metrics, log=log, clock=clock)
        ledger = Ledger(
            store,
            saved,
            resolver=resolver,
            log=log,
            clock=clock,
            took=metrics.commit_seconds.observe,
            simulate=settings.simulate,
            notifications=notifications,
            group=settings.share is not None,
        )
        if notifications is None:
            ledger.commits.add(Transaction(outbox=dict.fromkeys(saved.outbox)))
        own = settings.share is not None and settings.share_sources == "own"
        view = Published(ledger.automation.entries, sources=set(ledger.sources) if own else None)
        view.expire(clock())
        kumod = None if once else _kumod(settings, ledger, metrics=metrics, log=log)
        with _endpoint(settings, metrics=metrics, log=log, once=once) as endpoint:
            publisher = Publisher(
                view,
                overlay=None if settings.simulate else settings.overlay,
                endpoint=endpoint,
                log=log,
                metrics=metrics,
                on_change=None if kumod is None else kumod.take,
            )
            yield _Outside(
                settings=settings,
                log=log,
                metrics=metrics,
                clock=clock,
                started_ns=clock(),
                store=store,
                resolver=resolver,
                ledger=ledger,
                view=view,
                endpoint=endpoint,
                kumod=kumod,
                notifications=notifications,
                publisher=publisher,
                status_file=StatusFile(status_path(settings.state)),
                gauges=Gauges(metrics),
                shares=LeastShares(),
            )


def _locked_overlay(settings: Fixed, log: Log) -> contextlib.AbstractContextManager[None]:
    if settings.simulate:
        return contextlib.nullcontext()
    return locked_overlay(settings.overlay, log)


async def _load_rules(settled: Settled, settle: Settle, outside: _Outside) -> RuleBook:
    """The rules.  Raises ProblemError where they do not load."""
    settings, ledger = settled.settings, outside.ledger
    seen = signature(settled.files)
    rules = await load_rules(
        settings.reloaded,
        outside.resolver,
        ledger.copies,
        warnings=settings.warnings,
        simulate=settings.fixed.simulate,
    )
    ledger.keep_copies(settings.reloaded.shaping)
    if outside.notifications is not None:
        outside.notifications.follow(rules.shaping)
    outside.metrics.rules_loaded_at.set(outside.clock() / NS)
    for problem in rules.found:
        outside.log.problem(problem)
    return RuleBook(settle, outside.resolver, settled, rules, seen=seen, copies=ledger.copies)


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


@contextlib.contextmanager
def _endpoint(
    settings: Fixed, *, metrics: Metrics, log: Log, once: bool
) -> Iterator[Endpoint | None]:
    if settings.listen is None or once:
        yield None
        return
    from sidecar.publish.http import Endpoint  # noqa: PLC0415

    with Endpoint(
        settings.listen,
        trusted=settings.trusted_hosts,
        names=settings.allowed_hosts,
        metrics=metrics,
        on_problem=log.problem,
    ) as endpoint:
        log.info("listening", url=endpoint.url)
        yield endpoint


def _kumod(settings: Fixed, ledger: Ledger, *, metrics: Metrics, log: Log) -> KumodClient | None:
    if settings.kumod_api is None:
        return None
    from sidecar.publish.kumod import KumodClient  # noqa: PLC0415

    return KumodClient(
        settings.kumod_api,
        ids=ledger.kumod_ids,
        on_ids=ledger.keep_kumod_ids,
        on_problem=log.problem,
        metrics=metrics,
    )


def _notifications(
    settings: Fixed, saved: Saved, *, metrics: Metrics, log: Log, clock: Callable[[], int]
) -> Notifications | None:
    if settings.notify is None:
        return None
    from .notify import Notifications  # noqa: PLC0415

    return Notifications(saved.outbox, settings.notify, log=log, metrics=metrics, clock=clock)


async def _run_once(sidecar: _Sidecar, *, present: bool) -> None:
    """Process what is there.  Nobody is told of it where it is not for the `present`."""
    outside, flow, publisher = sidecar.outside, sidecar.flow, sidecar.outside.publisher
    outside.ledger.commits.patient = False
    await flow.follow(sidecar.tail, for_ever=False)
    await flow.decide_what_waited(for_ever=False)
    flow.expire()
    await flow.last_commit()
    await publisher.put_out()
    if outside.notifications is not None and outside.notifications.waiting:
        if present:
            await _send_now(outside.notifications, flow)
        else:
            message = "nobody is told what happened: it is not the present; the next run tells it"
            outside.log.info(message, events=outside.notifications.waiting)
    await outside.tell(sidecar.status("stopped"))
    if publisher.failure is not None:
        raise ProblemError([publisher.failure])


async def _send_now(notifications: Notifications, flow: Flow) -> None:
    """Send what waits; what is sent and what is noted of it is committed meanwhile."""
    sending = asyncio.create_task(notifications.send_now())
    while not sending.done():
        await flow.last_commit()
        await asyncio.wait([sending], timeout=_COMMIT_SECONDS)
    await flow.last_commit()
    sending.result()


async def _run(sidecar: _Sidecar) -> None:
    outside = sidecar.outside
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    works = _works(sidecar, hangup)
    if flow_sharing := sidecar.flow.sharing:
        flow_sharing.begin()
    _carry_out(sidecar)  # what was ordered meanwhile comes before what is read
    sidecar.notifier.ready("reading the log")
    outside.log.info("started", pid=os.getpid(), log_dir=str(outside.settings.log_dir))
    try:
        await _until(stop, works)
    finally:
        sidecar.notifier.stopping()
        if outside.kumod is not None:
            await outside.kumod.close()
        await _end(sidecar)
    outside.log.info("stopped")


def _works(sidecar: _Sidecar, hangup: asyncio.Event) -> dict[str, Coroutine[Any, Any, None]]:
    """The tasks of the service by name.  None of them ends by itself."""
    outside, flow, book = sidecar.outside, sidecar.flow, sidecar.book
    keeper = _keeper(outside)
    works = {
        "follow": flow.follow(sidecar.tail, for_ever=True, keeper=keeper),
        "waiting": flow.decide_what_waited(for_ever=True),
        "expire": flow.keep_time(sidecar.tail),
        "publish": outside.publisher.run(),
        "reload": _reload(sidecar, hangup),
        "status": _tell_status(sidecar),
        "cancel": _obey_operators(sidecar),
    }
    if flow.sharing is not None:
        works["hear"] = flow.sharing.hear()
        works["tell"] = flow.sharing.tell_again()
    if outside.kumod is not None:
        works["kumod"] = outside.kumod.run()
    if outside.notifications is not None:
        works["notify"] = outside.notifications.run()
    if keeper is not None:
        works["retention"] = keep_within(
            keeper,
            book=book,
            flow=flow,
            ledger=outside.ledger,
            store=outside.store,
            log=outside.log,
        )
    return works


async def _tell_status(sidecar: _Sidecar) -> None:
    """Keep the document and the gauges up to date, for ever."""
    while True:
        for problem in sidecar.book.newly_switched_off():
            sidecar.outside.log.problem(problem)
        status = sidecar.status("running")
        await sidecar.outside.tell(status)
        if sidecar.flow.sharing is not None:
            sidecar.flow.sharing.watch()
        if sidecar.outside.notifications is not None:
            sidecar.outside.notifications.watch(status.conditions)
        await asyncio.sleep(until_tick(time.monotonic(), HEARTBEAT_SECONDS))


async def _obey_operators(sidecar: _Sidecar) -> None:
    """Do what operators order, for ever."""
    while True:
        _carry_out(sidecar)
        await asyncio.sleep(until_tick(time.monotonic(), _CANCEL_SECONDS))


def _carry_out(sidecar: _Sidecar) -> None:
    for order, answer in sidecar.requests.carry_out(sidecar.flow):
        about: dict[str, object] = {
            "order": order.verb,
            "selected": said(order.selection),
            "by": order.by,
            "reason": order.reason,
            "cancelled": len(answer.cancelled),
            "hold": answer.held,
            "until": format_rfc3339(answer.until_ns) if answer.until_ns else "",
            "released": len(answer.released),
            "refused": answer.refused,
        }
        sidecar.outside.log.info(
            "an operator's order", **{name: value for name, value in about.items() if value}
        )


def _keeper(outside: _Outside) -> Keeper | None:
    settings, ledger = outside.settings, outside.ledger
    if settings.retention is None:
        return None
    keeper = Keeper(
        settings.log_dir,
        pattern=settings.pattern,
        retention=settings.retention,
        clock=outside.clock,
        log=outside.log,
    )
    keeper.note_earlier(ledger.checkpoints, until_ns=ledger.committed_ns, lost=ledger.lost_names)
    return keeper


async def _until(stop: asyncio.Event, works: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run `works` until `stop` is set.  Raises ProblemError when one of them ends before that."""
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


async def _end(sidecar: _Sidecar) -> None:
    """Commit and publish what is left.  A disk that takes no more is said, and does not stop it."""
    outside = sidecar.outside
    try:
        await sidecar.flow.last_commit()
    except ProblemError as error:
        outside.log.problem(error.problems[0])
        outside.log.warning("what could not be committed will be read from the log again")
    await outside.publisher.put_out()
    await outside.tell(sidecar.status("stopped"))


async def _reload(sidecar: _Sidecar, hangup: asyncio.Event) -> None:
    """Read the rules again: on SIGHUP, when a file of theirs changes, when the ttl is over."""
    book, notifier = sidecar.book, sidecar.notifier
    reasons = changes(
        files=lambda: book.settled.files,
        known=book.seen,
        ttl_seconds=lambda: book.rules.reload_ns(sidecar.outside.clock()) / NS,
        hangup=hangup,
    )
    async for reason in reasons:
        notifier.reloading()
        await _reload_once(sidecar, reason)
        notifier.ready("reading the log")


async def _reload_once(sidecar: _Sidecar, reason: str) -> None:
    book, outside = sidecar.book, sidecar.outside
    log = outside.log
    waiting = book.awaiting_restart
    notifications = outside.notifications
    changed = await book.reload()
    if notifications is not None:
        await notifications.reload()
    for problem in book.failure:
        log.problem(problem)
    if book.failure:
        outside.metrics.rule_load_errors.inc()
        log.error("the rules were not replaced; the last good ones stay", reason=reason)
        return
    outside.metrics.rules_loaded_at.set(outside.clock() / NS)
    outside.ledger.keep_copies(book.settled.settings.reloaded.shaping)
    if notifications is not None:
        notifications.follow(book.rules.shaping)
    restart = book.restart_problem
    if restart is not None and book.awaiting_restart != waiting:
        log.problem(restart)
    if changed:
        for problem in book.rules.problems:
            log.problem(problem)
        log.info("the rules were replaced", reason=reason)
        if sidecar.flow.sharing is not None:
            sidecar.flow.sharing.rules_changed()
        if gone := sidecar.flow.rules_changed():
            log.info("entries whose rule is gone stay until they expire", entries=gone)
