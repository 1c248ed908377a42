"""Each target is told all that it is to be told, in its own time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sidecar.notify import pace
from sidecar.notify.delivery import Delivery
from sidecar.notify.event import Event
from sidecar.notify.message import Message
from sidecar.notify.outbox import Outbox, Rows, restore
from sidecar.notify.program import NotSent
from sidecar.notify.targets import CommandTarget, Target, Targets

DAY = 86400


def event(number: int) -> Event:
    return Event(f"{number}.began", "began", number, "episode", "throttled", f"thing {number}")


def target(name: str, **more: Any) -> CommandTarget:
    return CommandTarget(name=name, argv=("/bin/true",), **{"wait": 0.0, "every": 0.0, **more})


@dataclass
class World:
    """Targets that take messages or not, and a state file that commits at once or not."""

    down: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    committing: bool = True
    kept: dict[str, str] = field(default_factory=dict)
    pending: list[tuple[Rows, asyncio.Future[None]]] = field(default_factory=list)
    sent: dict[str, list[Any]] = field(default_factory=dict)
    attempts: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def commit(self, rows: Rows) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self.pending.append((rows, future))
        if self.committing:
            self.commit_all()
        return future

    def commit_all(self) -> None:
        pending, self.pending = self.pending, []
        for rows, future in pending:
            for key, row in rows.items():
                if row is None:
                    self.kept.pop(key, None)
                else:
                    self.kept[key] = row
            if not future.done():
                future.set_result(None)

    async def send(self, target: Target, message: Message) -> None:
        assert f"message {target.name}" in self.kept
        self.attempts.append((target.name, message.id))
        self.changed.set()
        if target.name in self.hanging:
            await asyncio.Event().wait()
        if target.name in self.down:
            raise NotSent("nobody there")
        self.sent.setdefault(target.name, []).append(json.loads(message.body))

    def ids(self, name: str) -> list[str]:
        return [one["id"] for message in self.sent.get(name, []) for one in message["events"]]

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not what():
                self.changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await self.changed.wait()

    @asynccontextmanager
    async def delivering(self, *targets: Target, outbox: Outbox | None = None) -> Any:
        one = Delivery(
            outbox or Outbox(),
            Targets({t.name: t for t in targets}),
            host="mx1",
            commit=self.commit,
            clock=lambda: DAY * 10**9,
            sender=self.send,
        )
        task = asyncio.create_task(one.run())
        try:
            yield one
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds: what is tested is what comes when, not how long it takes."""
    monkeypatch.setattr(pace, "_FIRST_RETRY", 0.001)
    monkeypatch.setattr(pace, "_LAST_RETRY", 0.002)


def play(scene: Callable[[World], Awaitable[None]]) -> World:
    async def run() -> World:
        world = World()
        await scene(world)
        return world

    return asyncio.run(run())


def begin(one: Delivery, world: World, numbers: Iterable[int], names: tuple[str, ...] = ()) -> None:
    for number in numbers:
        world.commit(one.begin(str(number), event(number), names))


def test_a_target_that_comes_back_is_told_everything_in_two_messages() -> None:
    async def scene(world: World) -> None:
        world.down = {"oncall"}
        async with world.delivering(target("oncall", default=True)) as one:
            begin(one, world, [0])
            await world.until(lambda: len(world.attempts) > 5)
            begin(one, world, range(1, 50))
            await world.until(lambda: len(world.attempts) > 10)
            world.down = set()
            await world.until(lambda: len(world.ids("oncall")) == 50)

    world = play(scene)
    assert world.ids("oncall") == [f"{n}.began" for n in range(50)]
    assert len(world.sent["oncall"]) == 2
    first, second = dict.fromkeys(id_ for _, id_ in world.attempts)
    assert [m["id"] for m in world.sent["oncall"]] == [first, second]
    assert not any(key.startswith(("event", "group", "message")) for key in world.kept)
    fate = json.loads(world.kept["fate oncall"])
    assert (fate["sent"], fate["failures"], fate["failing_since_ns"]) == (2, 0, 0)
    assert fate["last_error"] == "nobody there"


def test_a_target_that_hangs_holds_up_no_other() -> None:
    async def scene(world: World) -> None:
        world.hanging = {"slow"}
        both = target("slow", default=True), target("quick", default=True)
        async with world.delivering(*both) as one:
            begin(one, world, [0])
            await world.until(lambda: "slow" in dict(world.attempts))
            begin(one, world, [1])
            await world.until(lambda: world.ids("quick") == ["0.began", "1.began"])

    assert play(scene).ids("slow") == []


def test_nothing_is_sent_before_it_is_committed() -> None:
    async def scene(world: World) -> None:
        world.committing = False
        async with world.delivering(target("oncall", default=True)) as one:
            begin(one, world, [0])
            await world.until(lambda: len(world.pending) == 2)  # the event, the sealed message
            await asyncio.sleep(0.05)
            assert world.attempts == []
            world.commit_all()
            await world.until(lambda: world.ids("oncall") == ["0.began"])

    play(scene)


def test_what_was_sealed_goes_out_again_with_the_same_id_after_a_crash() -> None:
    async def scene(world: World) -> None:
        world.hanging = {"oncall"}
        async with world.delivering(target("oncall", default=True)) as one:
            begin(one, world, [0])
            await world.until(lambda: world.attempts)
            begin(one, world, [1])
        world.hanging = set()
        outbox, _, reasons = restore(world.kept)
        assert reasons == []
        async with world.delivering(target("oncall", default=True), outbox=outbox):
            await world.until(lambda: world.ids("oncall") == ["0.began", "1.began"])

    world = play(scene)
    first, again, _ = world.attempts
    assert first == again


def test_rules_name_who_is_told() -> None:
    async def scene(world: World) -> None:
        targets = target("oncall", default=True), target("mail"), target("chat")
        async with world.delivering(*targets) as one:
            begin(one, world, [0])
            begin(one, world, [1], ("mail", "chat"))
            begin(one, world, [2], ("nobody",))
            for number in range(3):
                end = replace_kind(event(number))
                world.commit(one.end(str(number), end))
            await world.until(lambda: all(world.ids(t.name)[-1:] for t in targets))
            await world.until(lambda: len(world.ids("oncall")) == 4)

    world = play(scene)
    assert world.ids("oncall") == ["0.began", "2.began", "0.ended", "2.ended"]
    assert world.ids("mail") == world.ids("chat") == ["1.began", "1.ended"]


def replace_kind(began: Event) -> Event:
    number = began.id.partition(".")[0]
    return Event(f"{number}.ended", "ended", 1, "episode", began.label, began.what)


def test_other_targets_take_effect_at_once_and_those_gone_leave_nothing() -> None:
    async def scene(world: World) -> None:
        world.hanging = {"old"}
        world.down = {"kept"}
        old, kept = target("old", default=True), target("kept", default=True)
        async with world.delivering(old, kept) as one:
            begin(one, world, [0, 1])
            await world.until(lambda: {"old", "kept"} <= {name for name, _ in world.attempts})
            new = target("new", default=True)
            rows, given_up = one.replace(Targets({"kept": replace(kept, listed=7), "new": new}))
            world.commit(rows)
            assert given_up == {"old": 2}
            world.down = set()
            begin(one, world, [2])
            await world.until(lambda: world.ids("new") and len(world.ids("kept")) == 3)

    world = play(scene)
    assert world.ids("kept") == ["0.began", "1.began", "2.began"]
    assert world.ids("new") == ["2.began"]
    assert not any(key.endswith(" old") for key in world.kept)


def test_what_nobody_takes_is_given_up_in_the_end() -> None:
    async def scene(world: World) -> None:
        world.down = {"oncall"}
        async with world.delivering(target("oncall", default=True, keep=3600.0)) as one:
            begin(one, world, [0])  # a day ago
            await world.until(lambda: '"dropped":1' in world.kept.get("fate oncall", ""))
            assert "message oncall" not in world.kept

    play(scene)


def test_a_mistake_of_our_own_ends_the_delivery() -> None:
    async def broken(_target: Target, _message: Message) -> None:
        raise RuntimeError("a mistake")

    async def scene(world: World) -> None:
        one = Delivery(
            Outbox(),
            Targets({"oncall": target("oncall", default=True)}),
            host="mx1",
            commit=world.commit,
            clock=lambda: 0,
            sender=broken,
        )
        begin(one, world, [0])
        with pytest.raises(RuntimeError, match="a mistake"):
            await one.run()

    play(scene)


def test_a_storm_waits_for_its_group() -> None:
    async def scene(world: World) -> None:
        async with world.delivering(target("oncall", default=True, wait=0.2)) as one:
            for number in range(20):
                begin(one, world, [number])
                await asyncio.sleep(0)
            await world.until(lambda: len(world.ids("oncall")) == 20)

    assert len(play(scene).sent["oncall"]) == 1
