"""kumod is told everything over its admin API, whatever happens to either side."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.problems import Problem, ProblemError
from sidecar.publish import obey
from sidecar.publish.admin_api import parse_api_url
from sidecar.publish.holds import Changes, Hold, HoldKind, Target, cancelled_target, kind_of
from sidecar.publish.holds import marker_domain as marker_of
from sidecar.publish.kumod import KumodClient
from sidecar.publish.link import Pace
from sidecar.publish.metrics import Metrics
from sidecar.publish.obey import Place, Setting
from sidecar.times import NS, format_rfc3339
from tests.kumod_standin import (
    BOUNCE,
    BUMP,
    READY_Q,
    RESOLVE,
    SCHED_Q,
    Fault,
    KumodStandin,
    KumodState,
)

FAST = Pace(
    bump=0.05, first_retry=0.01, last_retry=0.1, refused=0.1, reconcile=0.1, answer=2.0,
    inspect=0.01, sum_up=0.02,
)  # fmt: skip
QUEUE = "ip1->(mx1|mx2).comcast.net@smtp_client"


@dataclass(frozen=True)
class State:
    """All that kumod should know, for a test: holds are told apart by their contents."""

    overlay_version: int
    ready_q: tuple[Hold, ...] = ()
    sched_q: tuple[Hold, ...] = ()
    bounces: tuple[Hold, ...] = ()

    def holds(self) -> dict[str, Hold]:
        kinds: tuple[tuple[HoldKind, tuple[Hold, ...]], ...] = (
            ("ready_q", self.ready_q),
            ("sched_q", self.sched_q),
            ("bounce", self.bounces),
        )
        found = {}
        for kind, holds in kinds:
            for hold in holds:
                of_kind = replace(hold, target=replace(hold.target, kind=kind))
                found[repr(of_kind)] = of_kind
        return found


class World:
    """A client with the store that keeps its ids, and what it reported."""

    def __init__(self, url: str, *, ids: Mapping[str, str] | None = None, pace: Pace = FAST):
        self.stored: dict[str, str] = dict(ids or {})
        self.desired: dict[str, Hold] = {}
        self.problems: list[Problem] = []
        self.metrics = Metrics.create()
        self.client = KumodClient(
            url,
            ids=dict(self.stored),
            on_ids=self._store,
            on_problem=self.problems.append,
            metrics=self.metrics,
            pace=pace,
        )

    def _store(self, changes: Mapping[str, str | None]) -> None:
        for key, entry_id in changes.items():
            if entry_id is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = entry_id

    def want(self, state: State) -> None:
        """`state` is in force from now on, instead of what was."""
        old, self.desired = self.desired, state.holds()
        changes: dict[str, Hold | None] = dict.fromkeys(old.keys() - self.desired.keys())
        changes |= {k: h for k, h in self.desired.items() if k not in old}
        self.client.take(Changes(state.overlay_version, changes))

    def ids(self) -> list[str]:
        """The ids kept of entries."""
        return [text.split()[0] for key, text in self.stored.items() if kind_of(key) is not None]

    async def settle(self, seconds: float = 10.0) -> None:
        await eventually(lambda: self.client.settled, seconds=seconds)


@contextlib.asynccontextmanager
async def running(
    url: str, *, ids: Mapping[str, str] | None = None, pace: Pace = FAST
) -> AsyncIterator[World]:
    world = World(url, ids=ids, pace=pace)
    task = asyncio.create_task(world.client.run())
    try:
        yield world
    finally:
        await world.client.close()
        await task


@pytest.fixture(params=[True, False], ids=["replaces", "piles-up"])
def kumod(request: pytest.FixtureRequest) -> Iterator[KumodStandin]:
    """Either kind of kumod; never told anything that applies to everything."""
    with KumodStandin(replaces_criteria=request.param) as standin:
        yield standin
        assert standin.state.disasters == []


def until(state: KumodState, what: Callable[[KumodState], object]) -> Awaitable[None]:
    return asyncio.to_thread(state.wait_for, what)


async def eventually(what: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Until `what` holds, of things that tell nobody when they change."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def later(seconds: float) -> int:
    return time.time_ns() + round(seconds * NS)


def ready(name: str = QUEUE, *, seconds: float = 3600, reason: str = "r", strike: int = 1) -> Hold:
    return Hold(Target("ready_q", name=name), reason, later(seconds), strike)


def sched(
    domain: str = "gmail.com",
    tenant: str | None = "t",
    campaign: str | None = None,
    *,
    seconds: float = 3600,
    reason: str = "r",
    strike: int = 1,
) -> Hold:
    target = Target("sched_q", domain=domain, tenant=tenant, campaign=campaign)
    return Hold(target, reason, later(seconds), strike)


def held(state: KumodState) -> dict[str, list[dict[str, Any]]]:
    return {path: state.listed(path) for path in (READY_Q, SCHED_Q, BOUNCE)}


# -- the epoch ----------------------------------------------------------------


async def _bumps(kumod: KumodStandin) -> None:
    async with running(kumod.url, pace=Pace(bump=600, reconcile=600)) as world:
        world.want(State(1))
        await until(kumod.state, lambda s: s.epoch == 1)  # the first at once
    async with running(kumod.url, pace=Pace(bump=0.3, reconcile=60)) as world:
        began = time.monotonic()
        for version in range(2, 40):
            world.want(State(version))
            await asyncio.sleep(0.01)
        await world.settle()
        moments = [s.at for s in kumod.state.seen if s.path == BUMP][1:]
        # Not 39 bumps, and the last change is not left waiting.
        assert 2 <= len(moments) <= 2 + (time.monotonic() - began) / 0.3
        world.want(State(39))
        await asyncio.sleep(0.35)
        assert 1 + len(moments) == kumod.state.epoch


def test_bumps_are_at_once_but_not_too_often_and_the_last_change_is_told(
    kumod: KumodStandin,
) -> None:
    asyncio.run(_bumps(kumod))


def test_a_bump_is_repeated_until_kumod_takes_it(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", BUMP, status=500, times=3))
        async with running(kumod.url) as world:
            world.want(State(1))
            await world.settle()
            assert kumod.state.epoch == 1
            assert [p.code for p in world.problems] == ["kumod-unreachable"]
            await eventually(lambda: world.metrics.kumod_up._value.get() == 1)

    asyncio.run(go())


def test_a_bump_that_is_refused_is_reported_and_left_until_the_next_change(
    kumod: KumodStandin,
) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", BUMP, status=400))
        async with running(kumod.url) as world:
            world.want(State(1))
            await world.settle()
            assert [p.code for p in world.problems] == ["kumod-bump"]
            assert kumod.state.count("POST", BUMP) == 1
            world.want(State(2))
            await world.settle()
            assert kumod.state.epoch == 1

    asyncio.run(go())


def test_a_change_while_a_bump_is_under_way_is_bumped_again(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", BUMP, delay=0.2))
        async with running(kumod.url) as world:
            world.want(State(1))
            await asyncio.sleep(0.1)
            world.want(State(2))
            await world.settle()
            assert kumod.state.epoch == 2

    asyncio.run(go())


def test_bumps_do_not_wait_for_a_long_list_of_suspensions(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", READY_Q, delay=0.05, times=10_000))
        async with running(kumod.url) as world:
            queues = tuple(ready(f"q{n}") for n in range(40))
            world.want(State(1, ready_q=queues))
            await until(kumod.state, lambda s: s.epoch == 1)
            assert kumod.state.count("POST", READY_Q) < 20

    asyncio.run(go())


# -- suspensions and bounces --------------------------------------------------


def test_everything_desired_is_told_once_and_its_ids_are_kept(kumod: KumodStandin) -> None:
    async def go() -> None:
        desired = State(
            1,
            ready_q=(ready(), ready("ip2->x@smtp_client")),
            sched_q=(sched(), sched(campaign="c")),
            bounces=(sched(), sched(tenant=None)),
        )
        async with running(kumod.url) as world:
            world.want(desired)
            await world.settle()
            told = kumod.state.count("POST", READY_Q), kumod.state.count("POST", SCHED_Q)
            assert told == (2, 2)
            assert kumod.state.names(BOUNCE) == [
                {"campaign": None, "tenant": "t", "domain": "gmail.com"},
                {"campaign": None, "tenant": None, "domain": "gmail.com"},
            ]
            assert set(world.ids()) == set(kumod.state.held)
            (first, *_) = kumod.state.listed(READY_Q)
            assert (first["name"], first["reason"]) == (QUEUE, "r")
            assert first["expires"][:22] == format_rfc3339(desired.ready_q[0].expires_ns)[:22]
            # Several looks at the lists later, nothing was told twice.
            looks = kumod.state.count("GET", BOUNCE)
            await until(kumod.state, lambda s: s.count("GET", BOUNCE) > looks + 2)
            assert kumod.state.count("POST", READY_Q) == 2
            assert kumod.state.count("POST", BOUNCE) == 2
        assert world.problems == []

    asyncio.run(go())


def test_an_entry_that_is_cancelled_is_taken_back(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            both = State(1, ready_q=(ready(),), sched_q=(sched(),), bounces=(sched(),))
            world.want(both)
            await world.settle()
            assert len(kumod.state.held) == 3
            world.want(State(1, sched_q=both.sched_q))
            await world.settle()
            assert [h.path for h in kumod.state.held.values()] == [SCHED_Q]
            assert len(world.ids()) == 1
            assert kumod.state.count("DELETE", READY_Q) == kumod.state.count("DELETE", BOUNCE) == 1

    asyncio.run(go())


def test_the_longest_counts_and_after_it_the_next(kumod: KumodStandin) -> None:
    async def go() -> None:
        short, long = ready(seconds=600, reason="short"), ready(seconds=900, reason="long")
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(long, short)))
            await world.settle()
            assert [e["reason"] for e in kumod.state.listed(READY_Q)] == ["long"]
            world.want(State(1, ready_q=(short,)))
            await world.settle()
            assert [e["reason"] for e in kumod.state.listed(READY_Q)] == ["short"]

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["sched_q", "bounces"])
def test_what_is_replaced_is_taken_back(kumod: KumodStandin, kind: str) -> None:
    """Whether or not kumod replaces by itself, one is left, and one id is stored."""

    async def go() -> None:
        async with running(kumod.url) as world:
            for seconds in (900, 600, 1200):
                desired = {kind: (sched(seconds=seconds, reason=str(seconds)),)}
                world.want(State(1, **desired))
                await world.settle()
                reason = [str(seconds)]
                await eventually(
                    lambda r=reason: [h.reason for h in kumod.state.held.values()] == r  # type: ignore[misc]
                )
                await eventually(lambda: list(world.ids()) == list(kumod.state.held))

    asyncio.run(go())


def test_a_storm_of_extensions_is_told_now_and_then(kumod: KumodStandin) -> None:
    async def go() -> None:
        began = time.monotonic()
        async with running(kumod.url) as world:
            for n in range(60):
                world.want(State(1, ready_q=(ready(seconds=600 + 2 * n),)))
                await asyncio.sleep(0.01)
            # One a second, not one a change.
            assert kumod.state.count("POST", READY_Q) <= 2 + time.monotonic() - began
            last = ready(seconds=5000)
            world.want(State(1, ready_q=(last,)))
            await until(
                kumod.state,
                lambda s: [h.expires_ns // NS for h in s.held.values()] == [last.expires_ns // NS],
            )

    asyncio.run(go())


def test_a_storm_does_not_hold_up_what_is_to_be_taken_back(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            world.want(State(1, sched_q=(sched(),)))
            await world.settle()
            storm, seconds = asyncio.create_task(asyncio.sleep(60)), itertools.count(1000, 2)
            while kumod.state.names(SCHED_Q) and not storm.done():
                longer = next(seconds)
                queues = tuple(ready(f"q{n}", seconds=longer) for n in range(100))
                world.want(State(1, ready_q=queues))
                await asyncio.sleep(0)
            assert not storm.done()
            storm.cancel()

    asyncio.run(go())


def test_what_expires_by_itself_is_not_taken_back(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            hold = ready(seconds=2)
            world.want(State(1, ready_q=(hold,)))
            await world.settle()
            assert world.ids()
            await eventually(lambda: time.time_ns() > hold.expires_ns)
            world.want(State(1))
            await world.settle()
            assert world.ids() == []
            assert kumod.state.count("DELETE", READY_Q) == 0

    asyncio.run(go())


def test_nothing_without_a_domain_or_a_queue_is_ever_told(kumod: KumodStandin) -> None:
    async def go() -> None:
        desired = State(
            1,
            ready_q=(ready(""),),
            sched_q=(sched(""), sched()),
            bounces=(sched("", None), sched("", "t", "c")),
        )
        async with running(kumod.url) as world:
            world.want(desired)
            await world.settle()
            assert len(kumod.state.held) == 1
            assert [p.code for p in world.problems] == ["kumod-dangerous"]

    asyncio.run(go())


# -- restarts -----------------------------------------------------------------


def test_what_kumod_forgot_in_a_restart_is_told_again(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),), sched_q=(sched(),), bounces=(sched(),)))
            await world.settle()
            before = set(kumod.state.held)
            await asyncio.to_thread(kumod.restart)
            await until(kumod.state, lambda s: len(s.held) == 3)
            assert not before & set(kumod.state.held)
            await eventually(lambda: set(world.ids()) == set(kumod.state.held))

    asyncio.run(go())


def test_a_kumod_that_is_down_is_told_when_it_comes_up(kumod: KumodStandin) -> None:
    async def go() -> None:
        await asyncio.to_thread(kumod.stop)
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),)))
            await eventually(lambda: world.problems)
            assert world.metrics.kumod_up._value.get() == 0
            assert not world.client.settled
            await asyncio.to_thread(kumod.start)
            await world.settle()
            assert kumod.state.names(READY_Q) == [{"name": QUEUE}]
            assert kumod.state.epoch == 1
            assert [p.code for p in world.problems] == ["kumod-unreachable"]  # once, not per try

    asyncio.run(go())


def test_a_restarted_sidecar_goes_on_with_the_stored_ids(kumod: KumodStandin) -> None:
    async def go() -> None:
        desired = State(
            1, ready_q=(ready(),), sched_q=(sched(),), bounces=(sched(),)
        )  # fmt: skip
        async with running(kumod.url) as first:
            first.want(desired)
            await first.settle()
        posts = len([s for s in kumod.state.seen if s.method == "POST" and s.path != BUMP])
        async with running(kumod.url, ids=first.stored) as second:
            second.want(State(1, ready_q=desired.ready_q))
            await second.settle()
            assert [h.path for h in kumod.state.held.values()] == [READY_Q]
            assert list(second.ids()) == list(kumod.state.held)
        assert posts == len([s for s in kumod.state.seen if s.method == "POST" and s.path != BUMP])

    asyncio.run(go())


def test_a_sidecar_that_lost_its_state_finds_its_entries_again(kumod: KumodStandin) -> None:
    async def go() -> None:
        desired = State(1, ready_q=(ready(),), sched_q=(sched(),), bounces=(sched(),))
        async with running(kumod.url) as first:
            first.want(desired)
            await first.settle()
        async with running(kumod.url) as second:
            second.want(desired)
            await second.settle()
            assert sorted(second.ids()) == sorted(first.ids())
            assert kumod.state.count("POST", BOUNCE) == 1

    asyncio.run(go())


def test_stored_ids_of_other_things_are_no_harm(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url, ids={"odd": "x", '["ready_q","gone"]': "y"}) as world:
            world.want(State(1))
            await world.settle()
            assert '["ready_q","gone"]' not in world.stored

    asyncio.run(go())


# -- others' entries ----------------------------------------------------------


@pytest.mark.parametrize("path", [READY_Q, SCHED_Q, BOUNCE])
def test_an_operators_longer_entry_is_left_alone(kumod: KumodStandin, path: str) -> None:
    async def go() -> None:
        criteria = {"name": QUEUE} if path == READY_Q else {"domain": "gmail.com", "tenant": "t"}
        theirs = kumod.state.add(
            path, {**criteria, "reason": "by hand", "expires": format_rfc3339(later(86400))}
        )
        kind = {READY_Q: "ready_q", SCHED_Q: "sched_q", BOUNCE: "bounces"}[path]
        ours = (ready(),) if path == READY_Q else (sched(),)
        async with running(kumod.url) as world:
            world.want(State(1, **{kind: ours}))
            await world.settle()
            world.want(State(2))
            await world.settle()
            assert list(kumod.state.held) == [theirs]
            # Once it is gone, ours is told.
            world.want(State(3, **{kind: ours}))
            kumod.state.remove(path, theirs)
            await until(kumod.state, lambda s: [h.reason for h in s.held.values()] == ["r"])

    asyncio.run(go())


def test_an_operators_shorter_entry_for_a_queue_is_replaced(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.state.add(READY_Q, {"name": QUEUE, "reason": "by hand"})
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),)))
            await world.settle()
            assert [e["reason"] for e in kumod.state.listed(READY_Q)] == ["r"]

    asyncio.run(go())


# -- deletions by hand --------------------------------------------------------


async def looked(kumod: KumodStandin, times: int = 2) -> None:
    """Until kumod's lists have been read so many times more."""
    looks = kumod.state.count("GET", SCHED_Q)
    await until(kumod.state, lambda s: s.count("GET", SCHED_Q) >= looks + times)


def of(path: str, **more: Any) -> dict[str, tuple[Hold, ...]]:
    """One hold of the kind that is told at `path`."""
    if path == READY_Q:
        return {"ready_q": (ready(**more),)}
    return {"sched_q" if path == SCHED_Q else "bounces": (sched(**more),)}


def effects(world: World) -> list[str]:
    pusher = world.client._pusher
    return sorted(v.effect for t in pusher.targets() for v in pusher.verdicts(t).values())


@pytest.mark.parametrize("path", [READY_Q, SCHED_Q, BOUNCE])
def test_what_somebody_deletes_stays_deleted_until_the_rule_strikes_anew(
    kumod: KumodStandin, path: str
) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            world.want(State(1, **of(path, strike=5)))
            await world.settle()
            await looked(kumod)
            assert effects(world) == ["in effect"]
            (entry,) = kumod.state.held
            kumod.state.remove(path, entry)
            await eventually(lambda: effects(world) == ["cancelled in kumod"])
            await looked(kumod, 3)
            assert kumod.state.held == {}
            assert kumod.state.count("POST", path) == 1
            # Another entry changes: this one is none the wiser.
            holds = of(path, strike=5)
            world.want(State(2, **holds, **({} if path == READY_Q else {"ready_q": (ready(),)})))
            await looked(kumod, 2)
            assert kumod.state.names(path) == []
            world.want(State(3, **of(path, strike=6)))
            await until(kumod.state, lambda s: len(s.names(path)) == 1)
            await eventually(lambda: effects(world) == ["in effect"])
            assert not any(map(cancelled_target, world.stored))
        assert world.problems == []

    asyncio.run(go())


def test_a_restart_of_ours_undoes_no_deletion(kumod: KumodStandin) -> None:
    async def go() -> None:
        state = State(1, ready_q=(ready(strike=5),), bounces=(sched(strike=6),))
        async with running(kumod.url) as first:
            first.want(state)
            await first.settle()
            kumod.state.remove(
                READY_Q, next(i for i, h in kumod.state.held.items() if h.path == READY_Q)
            )
            await eventually(lambda: any(map(cancelled_target, first.stored)))
        # Deleted while we are away: noticed at the first look.
        (bounce,) = kumod.state.held
        kumod.state.remove(BOUNCE, bounce)
        async with running(kumod.url, ids=first.stored) as second:
            second.want(state)
            await second.settle()
            assert effects(second) == ["cancelled in kumod"] * 2
            assert kumod.state.held == {}
            second.want(State(2))
            await second.settle()
            await looked(kumod)
            assert [k for k in second.stored if marker_of(k) is None] == []

    asyncio.run(go())


def test_a_kumod_that_forgot_everything_is_told_all_but_what_was_deleted(
    kumod: KumodStandin,
) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready("a"), ready("b")), bounces=(sched(),)))
            await world.settle()
            deleted = next(i for i, h in kumod.state.held.items() if h.criteria == {"name": "a"})
            kumod.state.remove(READY_Q, deleted)
            await eventually(lambda: "cancelled in kumod" in effects(world))
            await asyncio.to_thread(kumod.restart)
            await until(kumod.state, lambda s: len(s.held) == 2)
            await looked(kumod)
            assert kumod.state.names(READY_Q) == [{"name": "b"}]
            # Without a restart, whoever deletes the marker has everything told again.
            (marker,) = kumod.state.markers
            kumod.state.remove(SCHED_Q, marker)
            for entry, hold in list(kumod.state.held.items()):
                kumod.state.remove(hold.path, entry)
            await until(kumod.state, lambda s: len(s.held) == 2)
            assert kumod.state.names(READY_Q) == [{"name": "b"}]

    asyncio.run(go())


def test_a_deletion_covers_all_entries_of_the_target_and_no_later_strike(
    kumod: KumodStandin,
) -> None:
    async def go() -> None:
        long = ready(seconds=9000, reason="long", strike=3)
        short = ready(seconds=600, reason="short", strike=4)
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(long, short)))
            await world.settle()
            await looked(kumod)
            (entry,) = kumod.state.held
            kumod.state.remove(READY_Q, entry)
            await eventually(lambda: effects(world) == ["cancelled in kumod"] * 2)
            assert kumod.state.held == {}
            again = replace(short, strike=5)
            world.want(State(1, ready_q=(long, again)))
            await until(kumod.state, lambda s: [h.reason for h in s.held.values()] == ["short"])
            await looked(kumod)
            assert [h.reason for h in kumod.state.held.values()] == ["short"]
            assert effects(world) == ["cancelled in kumod", "in effect"]

    asyncio.run(go())


@pytest.mark.parametrize("path", [READY_Q, SCHED_Q, BOUNCE])
def test_an_entry_that_shaping_lua_told_again_is_ours_to_have_deleted(
    kumod: KumodStandin, path: str
) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            holds = of(path)
            world.want(State(1, **holds))
            await world.settle()
            ((hold,),) = holds.values()
            ours = next(iter(kumod.state.held))
            kumod.state.remove(path, ours)
            theirs = kumod.state.add(
                path, {**hold.request, "reason": f"{hold.reason} (rule_hash=abc)"}
            )
            await eventually(lambda: world.ids() == [theirs])
            await looked(kumod)
            kumod.state.remove(path, theirs)
            await eventually(lambda: effects(world) == ["cancelled in kumod"])
            assert kumod.state.held == {}

    asyncio.run(go())


def test_a_kumod_that_refuses_the_marker_is_told_the_entries(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", SCHED_Q, status=500, times=1000, holding=".invalid"))
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),), sched_q=(sched(),)))
            await world.settle()
            assert len(kumod.state.held) == 2
            kumod.state.remove(READY_Q, next(iter(kumod.state.held)))
            await until(kumod.state, lambda s: len(s.held) == 2)  # as after a restart

    asyncio.run(go())


# -- what is said of it -------------------------------------------------------


def test_what_kumod_has_not_been_told_is_pending_even_if_it_was_never_reached(
    kumod: KumodStandin,
) -> None:
    async def go() -> None:
        await asyncio.to_thread(kumod.stop)
        async with running(kumod.url) as world:
            pending = world.metrics.kumod_pending._value.get
            world.want(State(1, ready_q=(ready("a"), ready("b")), bounces=(sched(),)))
            assert pending() == 3
            await eventually(world.client.conditions)
            assert [p.code for p in world.client.conditions()] == ["kumod-unreachable"]
            assert pending() == 3
            assert effects(world) == ["not obeyed"] * 3
            await asyncio.to_thread(kumod.start)
            await world.settle()
            assert pending() == 0
            await eventually(lambda: not world.client.conditions())
            await asyncio.to_thread(kumod.stop)
            world.want(State(1, ready_q=(ready("c"),)))
            await eventually(lambda: pending() == 4)  # one to tell, three to take back

    asyncio.run(go())


def test_gauges_of_kumod_are_absent_where_none_is_configured(kumod: KumodStandin) -> None:
    assert b"kumod-api" not in Metrics.create().render()
    shown = World(kumod.url).metrics.render()
    assert b'tsa_sidecar_road_up{road="kumod-api"} 0.0' in shown
    assert b'tsa_sidecar_road_pending{road="kumod-api"} 0.0' in shown


def test_a_change_costs_that_change() -> None:
    """Counted in calls, not seconds: as many with a thousand holds as with ten."""

    def calls(holds: int) -> int:
        world, count = World("http://127.0.0.1:1"), 0

        def note(_frame: object, event: str, _arg: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        world.client.take(Changes(1, {str(n): ready(f"q{n}") for n in range(holds)}))
        sys.setprofile(note)
        try:
            world.client.take(Changes(2, {"0": ready("q0", strike=2)}))
        finally:
            sys.setprofile(None)
        return count

    assert calls(1000) == calls(10)


# -- whether it obeys ---------------------------------------------------------


def limit(value: int = 3, *, domain: str = "hotmail.com", strike: int = 1) -> Setting:
    return Setting(Place(domain, "ip1"), False, "connection_limit", value, strike)


def summed_up(world: World) -> dict[str, str]:
    return {key: v.effect for key, v in world.client.obedience.verdicts.items()}


def test_kumod_is_asked_whether_it_does_what_was_published(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.state.options["hotmail.com", "ip1"] = {
            "connection_limit": {"limit": 3, "force_local": False}
        }
        async with running(kumod.url) as world:
            hold = ready()
            settings = {"good": limit(), "bad": limit(domain="x.example")}
            world.client.take(Changes(1, {"queue": hold}, settings))
            wanted = {"good": "in effect", "bad": "unknown", "queue": "in effect"}
            await eventually(lambda: summed_up(world) == wanted)
            effects = world.metrics.kumod_entries
            assert effects.labels("in effect")._value.get() == 2
            assert world.client.conditions() == []
            world.client.take(Changes(1, {"queue": None}, {"good": None, "bad": None}))
            await eventually(lambda: summed_up(world) == {})

    asyncio.run(go())


def test_that_kumod_does_not_obey_is_a_condition(
    kumod: KumodStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obey, "GRACE_NS", 0)

    async def go() -> None:
        async with running(kumod.url) as world:
            world.client.take(Changes(1, {}, {"bad": limit()}))
            await eventually(world.client.conditions)
            (problem,) = world.client.conditions()
            assert (problem.level, problem.code) == ("error", "kumod-not-obeyed")
            assert "connection_limit" in problem.message
            assert "not among kumod's shaping files" in problem.message
            kumod.state.options["hotmail.com", "ip1"] = {"connection_limit": 3}
            await eventually(lambda: not world.client.conditions())

    asyncio.run(go())


def test_of_an_older_kumod_nothing_is_known_and_nothing_is_wrong(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.state.resolves = False
        async with running(kumod.url) as world:
            world.client.take(Changes(1, {"queue": ready()}, {"a": limit()}))
            await until(kumod.state, lambda s: any(RESOLVE in seen.path for seen in s.seen))
            await eventually(lambda: summed_up(world) == {"queue": "in effect", "a": "unknown"})
            await world.settle()
            assert world.problems == []
            assert world.client.conditions() == []

    asyncio.run(go())


def test_a_question_that_kumod_is_slow_to_answer_is_no_trouble(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("GET", Place("hotmail.com", "ip1").path, delay=30, times=100))
        pace = replace(FAST, answer=3.0)
        async with running(kumod.url, pace=pace) as world:
            world.client.take(Changes(1, {}, {"slow": limit()}))
            await eventually(lambda: summed_up(world) == {"slow": "not obeyed"})
            began = time.monotonic()
            world.client.take(Changes(2, {"queue": ready()}))
            await world.settle()
            assert time.monotonic() - began < pace.answer
            assert world.problems == []
            kumod.stopping.set()

    asyncio.run(go())


def test_a_kumod_that_is_down_does_not_obey(kumod: KumodStandin) -> None:
    async def go() -> None:
        await asyncio.to_thread(kumod.stop)
        async with running(kumod.url) as world:
            world.client.take(Changes(1, {"queue": ready()}, {"a": limit()}))
            await eventually(lambda: summed_up(world) == {"queue": "not obeyed", "a": "not obeyed"})
            assert [p.code for p in world.client.conditions()] == ["kumod-unreachable"]

    asyncio.run(go())


# -- faults -------------------------------------------------------------------


@pytest.mark.parametrize("path", [READY_Q, SCHED_Q, BOUNCE])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"lost": True}, {"status": 503}, {"status": 429}, {"status": 302}],
    ids=str,
)  # fmt: skip
def test_after_any_fault_kumod_has_what_it_should(
    kumod: KumodStandin, path: str, method: str, fault: dict[str, Any]
) -> None:
    async def go() -> None:
        kumod.fail(Fault(method, path, times=2, **fault))
        async with running(kumod.url) as world:
            keep = ready(), sched(domain="keep.example"), sched(domain="keep.example")
            go_ = ready("x"), sched(), sched()
            world.want(
                State(
                    1,
                    ready_q=(keep[0], go_[0]),
                    sched_q=(keep[1], go_[1]),
                    bounces=(keep[2], go_[2]),
                )
            )
            await world.settle()
            assert len(kumod.state.held) == 6
            kumod.fail(Fault(method, path, times=2, **fault))
            world.want(State(1, ready_q=keep[:1], sched_q=keep[1:2], bounces=keep[2:]))
            await world.settle()
            assert len(kumod.state.held) == 3
            assert sorted(world.ids()) == sorted(kumod.state.held)

    asyncio.run(go())


@pytest.mark.parametrize("then", ["nothing", "shorter"])
@pytest.mark.parametrize("had", [False, True], ids=["", "prolonged"])
def test_what_was_told_without_an_answer_is_taken_back_though_nobody_wants_it_now(
    kumod: KumodStandin, had: bool, then: str
) -> None:
    """Else mail would wait, or bounce, until the end that nobody wants any more."""

    async def go() -> None:
        def wanted(n: int, minutes: float) -> State:
            hold = Hold(Target("sched_q", domain="d", tenant="t"), "r", later(60 * minutes), n)
            queue = Hold(Target("ready_q", name=QUEUE), "r", later(60 * minutes), n)
            return State(n, ready_q=(queue,), sched_q=(hold,), bounces=(hold,))

        async with running(kumod.url) as world:
            world.want(wanted(1, 10) if had else State(1))
            await world.settle()
            kumod.fail(Fault("POST", SCHED_Q, lost=True))
            kumod.fail(Fault("POST", BOUNCE, lost=True))
            kumod.fail(Fault("POST", READY_Q, lost=True))
            # So that it is wanted no more when the lists can be read again.
            kumod.fail(Fault("GET", status=500, times=6))
            world.want(wanted(2, 60))
            await until(
                kumod.state,
                lambda state: sum((s.method, s.status) == ("GET", 500) for s in state.seen) >= 2,
            )
            last = wanted(3, 5) if then == "shorter" else State(3)
            world.want(last)
            await world.settle()
            found = {(h.path, h.expires_ns // NS) for h in kumod.state.held.values()}
            ends = [h.expires_ns // NS for h in last.ready_q]
            assert found == {(path, end) for path in (READY_Q, SCHED_Q, BOUNCE) for end in ends}
            assert sorted(world.ids()) == sorted(kumod.state.held)

    asyncio.run(go())


def test_an_answer_that_is_not_kumods_is_no_answer(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("GET", READY_Q, body=b"<html>"))
        kumod.fail(Fault("GET", READY_Q, body=b'{"a": 1}'))
        kumod.fail(Fault("GET", READY_Q, body=b"[" * 100_000))
        kumod.fail(Fault("POST", READY_Q, body=b'{"a": 1}'))
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),)))
            await world.settle()
            assert kumod.state.names(READY_Q) == [{"name": QUEUE}]
            assert list(world.ids()) == list(kumod.state.held)

    asyncio.run(go())


def test_a_kumod_that_hangs_is_given_up_in_time(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", READY_Q, delay=30))
        pace = Pace(bump=0.05, first_retry=0.01, last_retry=0.1, reconcile=0.1, answer=0.3)
        async with running(kumod.url, pace=pace) as world:
            began = time.monotonic()
            world.want(State(1, ready_q=(ready(),)))
            await world.settle()
            assert 0.3 < time.monotonic() - began < 25
            assert "0.3 seconds" in world.problems[0].message
            kumod.stopping.set()

    asyncio.run(go())


def test_one_entry_that_kumod_refuses_is_reported_once_and_holds_up_no_other(
    kumod: KumodStandin,
) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", SCHED_Q, status=422, times=1000, holding="refused.example"))
        refused = sched(domain="refused.example")
        async with running(kumod.url) as world:
            world.want(State(1, sched_q=(refused, sched())))
            await world.settle()
            assert len(kumod.state.held) == 1
            looks = kumod.state.count("GET", SCHED_Q)
            await until(kumod.state, lambda s: s.count("GET", SCHED_Q) > looks + 3)
            assert [s.status for s in kumod.state.seen].count(422) == 1  # not tried for ever
            (problem,) = world.problems
            assert problem.code == "kumod-entry"
            assert "refused.example" in problem.message
            kumod.heal()
            world.want(State(1, sched_q=(sched(domain="refused.example", seconds=10), sched())))
            await until(kumod.state, lambda s: len(s.held) >= 2)

    asyncio.run(go())


def test_an_entry_that_is_no_unicode_is_kumods_to_refuse(kumod: KumodStandin) -> None:
    async def go() -> None:
        # As an imported state, or a rule file in JSON, may have it.
        kumod.fail(Fault("POST", READY_Q, status=400, times=1000, holding="\\ud800"))
        async with running(kumod.url) as world:
            holds = ready("x", reason="\ud800"), ready("y")
            world.want(State(1, ready_q=holds))
            await world.settle()
            assert kumod.state.names(READY_Q) == [{"name": "y"}]
            assert [p.code for p in world.problems] == ["kumod-entry"]

    asyncio.run(go())


def _reported(world: World, times: int) -> bool:
    return len(world.problems) == times


@pytest.mark.parametrize("between", ["gone", "taken"])
def test_an_entry_that_is_refused_anew_is_reported_anew(kumod: KumodStandin, between: str) -> None:
    async def go() -> None:
        fault = Fault("POST", SCHED_Q, status=422, times=1000, holding="refused.example")
        kumod.fail(fault)
        async with running(kumod.url) as world:
            for reports in (1, 2):
                refused = sched(domain="refused.example", seconds=1000 * reports)
                world.want(State(1, sched_q=(refused,)))
                await eventually(partial(_reported, world, reports))
                if between == "taken":
                    kumod.heal()
                    taken = sched(domain="refused.example", seconds=1500)
                    world.want(State(1, sched_q=(taken,)))
                    await world.settle()
                    kumod.fail(fault)
                else:
                    world.want(State(1))
                    await world.settle()

    asyncio.run(go())


def test_what_nobody_foresaw_ends_the_client_loudly(kumod: KumodStandin) -> None:
    async def go() -> None:
        world = World(kumod.url)
        task = asyncio.create_task(world.client.run())

        def fail(_changes: Mapping[str, str | None]) -> None:
            raise RuntimeError("not foreseen")

        world.client._pusher._on_ids = fail
        world.want(State(1, ready_q=(ready(),)))
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="not foreseen"):
                await task

    asyncio.run(go())


def test_one_entry_that_makes_kumod_fail_holds_up_no_other(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault("POST", READY_Q, status=500, times=1000, holding="bad"))
        async with running(kumod.url) as world:
            queues = tuple(ready(name) for name in ("a", "bad", "c", "d"))
            world.want(State(1, ready_q=queues))
            await until(kumod.state, lambda s: len(s.held) == 3)
            kumod.heal()
            await until(kumod.state, lambda s: len(s.held) == 4)

    asyncio.run(go())


def test_a_kumod_that_does_not_trust_us_is_reported_once_and_asked_seldom() -> None:
    async def go(kumod: KumodStandin) -> None:
        async with running(kumod.url) as world:
            began = time.monotonic()
            world.want(State(1, ready_q=(ready(),)))
            await asyncio.sleep(0.35)
            # Each of the two tasks every 0.1 s.
            assert 2 <= len(kumod.state.seen) <= 4 + 20 * (time.monotonic() - began)
            assert [p.code for p in world.problems] == ["kumod-refused"]
            assert "trusted_hosts" in world.problems[0].message
            kumod.trusts_us = True
            await world.settle()
            assert len(kumod.state.held) == 1

    with KumodStandin(trusts_us=False) as standin:
        asyncio.run(go(standin))


def test_another_service_at_the_address_is_reported(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url + "/elsewhere") as world:
            world.want(State(1))
            await eventually(lambda: world.problems)
            assert "is this kumod's HTTP listener?" in world.problems[0].message

    asyncio.run(go())


def test_random_changes_and_faults_end_in_the_desired_state(kumod: KumodStandin) -> None:
    """Many decisions, restarts and faults later, kumod has what is in force."""

    async def go(seed: int) -> None:
        rng = random.Random(seed)
        expires = {n: later(1000 + 100 * n) for n in range(8)}

        def some(n: int) -> State:
            def chosen() -> list[int]:
                return rng.sample(range(8), rng.randrange(8))

            return State(
                n,
                ready_q=tuple(
                    Hold(Target("ready_q", name=f"q{i % 4}"), f"r{i}", expires[i], i)
                    for i in chosen()
                ),
                sched_q=tuple(
                    Hold(Target("sched_q", domain=f"d{i % 4}", tenant="t"), f"r{i}", expires[i], i)
                    for i in chosen()
                ),
                bounces=tuple(
                    Hold(Target("bounce", domain=f"d{i % 4}"), f"r{i}", expires[i], i)
                    for i in chosen()
                ),
            )

        async with running(kumod.url) as world:
            for n in range(60):
                world.want(some(n))
                event = rng.randrange(10)
                if event == 0:
                    await asyncio.to_thread(kumod.restart)
                elif event < 4:
                    kumod.fail(Fault(lost=rng.random() < 0.5, status=rng.choice([None, 500])))
                elif event < 8:
                    await asyncio.sleep(rng.random() * 0.03)
            kumod.heal()
            last = some(1000)
            world.want(last)
            await world.settle()
            wanted: dict[tuple[str, str], int] = {}
            for r in last.ready_q:
                key = (READY_Q, str(r.target.name))
                wanted[key] = max(wanted.get(key, 0), r.expires_ns)
            for path, holds in ((SCHED_Q, last.sched_q), (BOUNCE, last.bounces)):
                for h in holds:
                    key = (path, str(h.target.domain))
                    wanted[key] = max(wanted.get(key, 0), h.expires_ns)

            def as_wanted(state: KumodState) -> bool:
                found: dict[tuple[str, str], int] = {}
                for entry in state.held.values():
                    key = (entry.path, str(entry.criteria.get("name") or entry.criteria["domain"]))
                    found[key] = max(found.get(key, 0), entry.expires_ns)
                # Within what counts as the same end.
                return found.keys() == wanted.keys() and all(
                    abs(found[k] - wanted[k]) <= NS for k in wanted
                )

            await until(kumod.state, as_wanted)

    for seed in range(3):
        kumod.state.forget()
        asyncio.run(go(seed))


# -- the way there ------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://kumo.example/mta/", "https://kumo.example/mta"),
        ("http://user:secret@[::1]/", "http://[::1]"),
    ],
)
def test_api_urls(given: str, url: str) -> None:
    address = parse_api_url(given)
    assert address.url == url
    assert (address.authorization == "Basic dXNlcjpzZWNyZXQ=") is ("secret" in given)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://[::1",
        "http://x?y",
        "http://x/\u00e9",
        "http://k\u00fcmo/",
        "http://\udcff@x/",
        "http://x/a b",
        "http://x\x7f/",
    ],
)
def test_what_is_no_api_url_is_explained(url: str) -> None:
    with pytest.raises(ProblemError, match=r"http://127\.0\.0\.1:8000"):
        parse_api_url(url)


def test_https_with_a_certificate_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parent.parent / "data/tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data / "cert.pem", data / "key.pem")

    async def go(url: str) -> list[str]:
        async with running(url) as world:
            world.want(State(1, ready_q=(ready(),)))
            await eventually(lambda: world.client.settled or world.problems)
            return [p.message for p in world.problems]

    with KumodStandin(tls=context) as kumod:
        (problem,) = asyncio.run(go(kumod.url))
        assert "certificate verify failed" in problem
        monkeypatch.setenv("SSL_CERT_FILE", str(data / "cert.pem"))
        assert asyncio.run(go(kumod.url)) == []
        assert len(kumod.state.held) == 1


def test_closing_is_prompt_whatever_is_under_way(kumod: KumodStandin) -> None:
    async def go() -> None:
        kumod.fail(Fault(delay=60, times=100))
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),)))
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 30

    asyncio.run(go())
    kumod.stopping.set()


def test_ids_are_stored_under_names_that_tell_their_kind(kumod: KumodStandin) -> None:
    async def go() -> None:
        async with running(kumod.url) as world:
            world.want(State(1, ready_q=(ready(),), bounces=(sched(),)))
            await world.settle()
            kinds = sorted(str(kind_of(k)) for k in world.stored if marker_of(k) is None)
            assert kinds == ["bounce", "ready_q"]

    asyncio.run(go())
