"""The share: tells what is offered, reads what the others tell, keeps at it.

In: portions and words from the service, the engine.  Out: batches of the others' items,
health.  Telling and reading have a connection each, so that neither waits for the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from sidecar.problems import ProblemError

from .health import Counts, Health
from .items import Portion, arguments, count_too_long
from .outgoing import Behind, Outgoing
from .place import BEGINNING, Batch, Engine, Follower, Place, id_key
from .presence import HostSeen, Presence, read_hosts, read_presence, write_presence
from .settings import ShareSettings
from .troubles import EngineError, Trouble, explain
from .wire import Wire, open_wire, script

_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 1024 * 1024
_MOST_ENTRIES: Final = 1000
_FIRST_ENTRIES: Final = 50
_QUIET: Final = 1.0
"""Seconds between two batches that have nothing but a place that moved."""

_NOTED_NS: Final = 3600 * 10**9
"""Nanoseconds for which a note is shown after it happened last."""

_NAMESAKES: Final = 3
"""So many times in a row something else is said under this host's name until there is another."""
_NAMESAKE_SECONDS: Final = 20.0
"""For so long after the last time."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_NS: Final = 1_000_000

NO_CLIENT: Final = (
    "sharing needs redis-py beside tsa-sidecar: pip install 'kumo-tsa-sidecar[share]'"
)
"""Why nothing can be shared."""


def has_client() -> bool:
    """Whether redis-py is installed."""
    return importlib.util.find_spec("redis") is not None


@asynccontextmanager
async def connect(
    settings: ShareSettings, *, clock: Callable[[], int]
) -> AsyncGenerator[Share, None]:
    """Share with a group.  `clock` gives Unix nanoseconds.

    Does not wait for the engine.  Raises ProblemError where redis-py is not installed.
    """
    if not has_client():
        raise ProblemError.one("share-client", NO_CLIENT, where="--share")
    share = Share(settings, clock=clock)
    task = asyncio.create_task(share.keep_telling(), name="share")
    try:
        yield share
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class _Lost(Exception):  # noqa: N818 - an answer, not an error
    """The engine has another epoch: what it had is gone."""


class _State:
    """What is wrong with one direction, and since when nothing is."""

    def __init__(self, now_ns: int) -> None:
        self.well = False
        self.since_ns = now_ns
        self.problem: str | None = None

    def set(self, problem: str | None, now_ns: int) -> None:
        well = problem is None
        if well != self.well:
            self.well, self.since_ns = well, now_ns
        self.problem = problem


class Share:
    """A group, as this host takes part in it.  Made by :func:`connect`."""

    def __init__(self, settings: ShareSettings, *, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._pace = settings.pace
        self._clock = clock
        self._keys = settings.keys
        self._outgoing = Outgoing(limit=settings.queue)
        self._work = asyncio.Event()
        self._moved = asyncio.Condition()
        self._counts = Counts()
        self._telling = _State(clock())
        self._reading = _State(clock())
        self._hosts: tuple[HostSeen, ...] = ()
        self._added: int | None = None
        self._place = Place()
        self._delay: float | None = None
        self._notes: dict[str, tuple[int, str]] = {}
        self._other_engine = False
        self._life = os.urandom(8).hex()
        self._others_seen = 0
        self._namesake_until_ns = 0
        self._scripts = {name: script(name) for name in ("append", "greet", "told", "presence")}
        self._new_items = True
        self._shas: dict[str, bytes] = {}

    # What the service says.

    def offer(self, portion: Portion) -> bool:
        """Take a portion to be told.

        False: it was not taken, since something before it is not told or too much waits;
        its segment is in :meth:`behind`.  Raises ValueError where it is no portion.
        """
        taken = self._outgoing.offer(portion, now_ms=self._now_ms())
        self._work.set()
        return taken

    async def offer_when_room(self, portion: Portion) -> bool:
        """Take a portion of what is behind, as soon as there is room beside what is new.

        So a catch-up has the pace of the engine.  False as in :meth:`offer`.
        """
        spare = self._settings.queue // 2
        while not self._outgoing.has_room(portion.size, spare=spare):
            await self._change()
        taken = self._outgoing.offer(portion, now_ms=self._now_ms(), spare=spare)
        self._work.set()
        return taken

    def say(self, word: str, text: str) -> bool:
        """Take an operator's word; `word` is its id.  False: it is in :meth:`unsaid`."""
        taken = self._outgoing.say(word, text, now_ms=self._now_ms())
        self._work.set()
        return taken

    def expect(self, segment: str, line: int) -> None:
        """Note that the service has read `segment` up to `line`: so far it should be told."""
        self._outgoing.expect(segment, line, now_ms=self._now_ms())

    def finish(self, before: str) -> None:
        """Note that all segments with names below `before` are read to their ends.

        What was read of them has been offered, or is expected, or need not be told.  From now
        on nothing more is told under such a name: it would count as told.  What comes of
        such a segment yet has another name (``late_name``).
        """
        self._outgoing.finish(before)

    def forget(self, segment: str) -> None:
        """Note that `segment` can't be read again; what is not told of it is given up."""
        if segment in self._outgoing.behind():
            self._count(forgotten=1)
        self._outgoing.forget(segment)

    def tell(self, *, rules: str | None = None, age: float | None = None) -> None:
        """Note that the rules are others, and for how many seconds an item matters now."""
        settings = self._settings
        self._settings = replace(
            settings,
            rules=settings.rules if rules is None else rules,
            age=settings.age if age is None else age,
        )

    # What the service asks.

    def behind(self) -> dict[str, Behind]:
        """The segments to be read again from the log, and offered, and from which line on.

        Empty until the engine has said what it has.
        """
        return self._outgoing.behind()

    def unsaid(self) -> tuple[str, ...]:
        """The ids of the words that must be said again."""
        return self._outgoing.unsaid()

    async def wait_behind(self) -> None:
        """Wait until there is a segment behind, or a word unsaid."""
        while not (self.behind() or self.unsaid()):
            await self._change()

    def hosts(self) -> tuple[HostSeen, ...]:
        """Who is in the group, by name, as of the last look."""
        return self._hosts

    @property
    def health(self) -> Health:
        """How it is."""
        telling, reading = self._telling, self._reading
        ill = [state for state in (telling, reading) if state.problem is not None]
        well = telling.well and reading.well
        sinces = [state.since_ns for state in (telling, reading) if state.well == well]
        unread = None if self._added is None else max(self._added - self._place.number, 0)
        return Health(
            connected=well,
            since_ns=max(sinces) if well else min(sinces),
            problem=ill[0].problem if ill else None,
            notes=tuple(
                text for at_ns, text in self._notes.values() if self._clock() - at_ns < _NOTED_NS
            ),
            counts=self._counts,
            queued=self._outgoing.items,
            queued_bytes=self._outgoing.bytes,
            behind=len(self.behind()),
            unread=unread,
            delay=self._delay,
            namesake=self._clock() < self._namesake_until_ns,
        )

    # Telling.

    async def keep_telling(self) -> None:
        """Tell what is offered, for ever.  :func:`connect` runs it."""
        pause = self._pace.first_retry
        while True:
            try:
                wire = await self._open()
                try:
                    await self._tell_on(wire)
                finally:
                    await wire.close()
            except _Lost:
                pause = self._pace.first_retry
                self._note(
                    "lost",
                    "the engine lost what it had (it was flushed, began without its data, or its "
                    "maxmemory-policy threw it out); it is told again from the log",
                )
            except Exception as error:  # noqa: BLE001 - the engine must not end us
                if self._telling.well:  # until now
                    pause = self._pace.first_retry
                self._telling.set(self._explain(error).text, self._clock())
                # A primary that became a replica is not to be read either.
                self._other_engine = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, self._pace.last_retry)

    async def _open(self) -> Wire:
        return await open_wire(self._settings.address, key=self._keys[0], seconds=self._pace.answer)

    async def _tell_on(self, wire: Wire) -> None:
        """Tell, until the connection is of no more use: then it raises."""
        loop = asyncio.get_running_loop()
        self._shas.clear()
        epoch = await self._greet(wire) if self._settings.tells else ""
        presence_at = sweep_at = watermark_at = pause = 0.0
        while True:
            now = loop.time()
            trouble: Trouble | None = None
            if now >= presence_at:
                presence_at = now + self._pace.presence
                sweep = now >= sweep_at
                sweep_at = now + self._pace.sweep if sweep else sweep_at
                trouble = await self._be_present(wire, epoch, sweep=sweep)
            if self._waits():
                trouble = await self._append(wire, epoch) or trouble
            if now >= watermark_at:
                watermark_at = now + self._pace.watermark
                trouble = await self._move_watermark(wire, epoch) or trouble
            if trouble is not None:
                self._telling.set(trouble.text, self._clock())
                pause = min(max(2 * pause, self._pace.first_retry), self._pace.last_retry)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            pause = 0.0
            self._telling.set(None, self._clock())
            if not self._waits():
                self._work.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(presence_at - loop.time(), 0.0)):
                        await self._work.wait()

    def _waits(self) -> bool:
        return bool(self._outgoing.next_ones(most=1, most_bytes=1))

    async def _greet(self, wire: Wire) -> str:
        """Learn the epoch, and this host's positions and watermark."""
        words = self._eval("greet", os.urandom(12).hex())
        epoch, watermark, found = await wire.call(*words)
        positions = {
            os.fsdecode(segment): int(line)
            for segment, line in zip(found[0::2], found[1::2], strict=True)
            if line.isdigit()
        }
        self._outgoing.meet(positions, os.fsdecode(watermark))
        self._new_items = True
        await self._wake()
        return str(epoch.decode())

    async def _be_present(self, wire: Wire, epoch: str, *, sweep: bool) -> Trouble | None:
        """Say that this host is there; learn who else is."""
        settings = self._settings
        said = Presence(
            version=settings.version,
            rules=settings.rules,
            age=settings.age,
            id=self._place.id,
            number=self._place.number,
            queued=self._outgoing.items,
            behind=len(self.behind()),
            life=self._life,
        )
        keep_ms = self._keep_ms() if sweep else 0
        silent_ms = int(self._pace.silent * 1000)
        text = write_presence(said) if settings.tells else ""
        words = self._eval("presence", settings.host, text, silent_ms, keep_ms)
        answer = (await wire.call_all([words]))[0]
        if isinstance(answer, Exception):
            return self._refusal(answer)
        now_ms, added, hosts = int(answer[0]), int(answer[1]), answer[2]
        self._hosts = read_hosts(now_ms, added, hosts, own=settings.host)
        self._added = added
        if settings.tells:
            self._meet_namesake(answer[3])
            if answer[4] != epoch.encode():
                raise _Lost  # a host that has nothing to tell would not notice otherwise
        if sweep:
            self._outgoing.forget_before(self._now_ms() - keep_ms)
            self._outgoing.forget_past(self._now_ms() - int(self._age() * 1000) - 2 * _HOUR_MS)
        return None

    def _meet_namesake(self, before: bytes) -> None:
        """Notice another process under this host's name: it says something in between."""
        said = read_presence(before.partition(b" ")[2])
        # Once or twice it may be this host's last process, out of an older copy of the data.
        self._others_seen += 1
        if said is None or said.life == self._life:
            self._others_seen = 0
        if self._others_seen >= _NAMESAKES:
            span = max(_NAMESAKE_SECONDS, 4 * self._pace.presence)
            self._namesake_until_ns = self._clock() + int(span * 10**9)

    async def _move_watermark(self, wire: Wire, epoch: str) -> Trouble | None:
        """Have the engine, and those who read, forget what is told wholly."""
        watermark = self._outgoing.watermark()
        if watermark is None:
            return None
        # Those who read remember what has items only: without any there is nothing to forget.
        entry = int(self._new_items)
        words = self._eval("told", epoch, self._settings.host, os.fsencode(watermark), entry)
        answer = (await wire.call_all([words]))[0]
        match answer:
            case Exception():
                return self._refusal(answer)
            case [b"done"]:
                self._outgoing.set_watermark(watermark)
                self._new_items = False
                return None
            case [b"epoch"]:
                raise _Lost
            case _:
                raise EngineError("answers what our script does not: something else is there")

    async def _append(self, wire: Wire, epoch: str) -> Trouble | None:
        """Append some of what waits, in one round trip."""
        # The script is sent whole once, and by its hash from then on.
        most = _AT_ONCE if "append" in self._shas else 1
        portions = self._outgoing.next_ones(most=most, most_bytes=_BYTES_AT_ONCE)
        answers = await wire.call_all([self._append_words(portion, epoch) for portion in portions])
        trouble: Trouble | None = None
        refused: set[str] = set()
        for portion, answer in zip(portions, answers, strict=True):
            if isinstance(answer, Exception):
                refused.add(portion.segment)
                if type(answer).__name__ == "NoScriptError":
                    self._shas.pop("append", None)
                else:
                    trouble = self._refusal(answer)
            # What comes behind a refused one has a gap before it, and waits with it.
            elif portion.segment not in refused:
                self._take_answer(portion, answer)
        if "append" not in self._shas and trouble is None and not isinstance(answers[0], Exception):
            self._shas["append"] = _sha(self._scripts["append"])
        await self._wake()
        return trouble

    def _take_answer(self, portion: Portion, answer: Any) -> None:
        match answer:
            case [b"done", int(appended), int(cut)]:
                self._outgoing.done(portion)
                too_long = count_too_long(portion.items, longest=self._settings.longest)
                self._count(appended=appended, cut=cut, too_long=too_long)
                self._new_items = self._new_items or appended > 0
                if cut:
                    self._note(
                        "cut",
                        f"the stream is full with {self._settings.most} items before they are as "
                        "old as the rules need: raise --share-most",
                    )
            case [b"gap", bytes(position)]:
                self._outgoing.gap(portion.segment, int(position))
            case [b"epoch"]:
                raise _Lost
            case _:
                raise EngineError("answers what our script does not: something else is there")

    def _append_words(self, portion: Portion, epoch: str) -> Sequence[Any]:
        settings = self._settings
        return self._eval(
            "append",
            epoch,
            settings.host,
            os.fsencode(portion.segment),
            portion.from_line,
            portion.to_line,
            int(self._age() * 1000),
            settings.most,
            int(portion.sums),
            *arguments(portion, longest=settings.longest),
        )

    def _eval(self, name: str, *words: Any) -> Sequence[Any]:
        sha = self._shas.get(name)
        head = ("EVAL", self._scripts[name]) if sha is None else ("EVALSHA", sha)
        return (*head, len(self._keys), *self._keys, *words)

    def _refusal(self, error: Exception) -> Trouble:
        """What an answer says; raises it where the connection is of no more use."""
        trouble = self._explain(error)
        if trouble.fatal:
            raise error
        return trouble

    def _age(self) -> float:
        """The longest age of the group, in seconds."""
        return max([self._settings.age, *(seen.said.age for seen in self._hosts)])

    def _keep_ms(self) -> int:
        """How long what did not move is remembered: twice the age, so that nothing that the
        stream may still hold is taken for new."""
        return max(2 * int(self._age() * 1000), 7 * _DAY_MS)

    # Reading.

    async def receive(self, place: Place) -> AsyncGenerator[Batch, None]:
        """What the others told, from `place` on, for ever.

        Reads no further than it is asked.  A batch without items only moves the place:
        it comes at most once a second.
        """
        follower = Follower(
            place,
            host=self._settings.host,
            keep_ms=self._keep_ms(),
            longest=self._settings.longest,
        )
        self._place = follower.place
        pause = self._pace.first_retry
        while True:
            try:
                wire = await self._open()
                try:
                    async with aclosing(self._read_on(wire, follower)) as batches:
                        async for batch in batches:
                            yield batch
                finally:
                    await wire.close()
                pause = self._pace.first_retry
            except Exception as error:  # noqa: BLE001 - the engine must not end us
                if self._reading.well:  # until now
                    pause = self._pace.first_retry
                self._reading.set(self._explain(error).text, self._clock())
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, self._pace.last_retry)

    async def _read_on(self, wire: Wire, follower: Follower) -> AsyncGenerator[Batch, None]:
        loop = asyncio.get_running_loop()
        follower.meet(await self._inspect(wire))
        self._other_engine = False
        stream, listen = self._keys[0], self._pace.listen
        count = _FIRST_ENTRIES
        held: Batch | None = None
        yielded_at = 0.0
        while not self._other_engine:
            answer = await wire.call(
                *("XREAD", "COUNT", count, "BLOCK", int(listen * 1000)),
                *("STREAMS", stream, follower.place.id),
                wait=listen,
            )
            self._reading.set(None, self._clock())
            if answer:
                entries = answer[0][1]
                batch = follower.take(entries)
                self._note_batch(batch, entries)
                held = batch if held is None else _joined(held, batch)
                count = _next_count(entries)
            elif not await self._is_same(wire, follower.place):
                return
            quiet = not answer or loop.time() - yielded_at >= _QUIET
            if held is not None and (held.items or quiet):
                batch, held = held, None
                yielded_at = loop.time()
                yield batch

    async def _inspect(self, wire: Wire) -> Engine:
        """What the engine says of itself."""
        stream, _, group, _ = self._keys
        last, epoch, info = await wire.call_all(
            [
                ("XREVRANGE", stream, "+", "-", "COUNT", 1),
                ("HGET", group, "epoch"),
                ("INFO", "server"),
            ]
        )
        for answer in (last, epoch):
            if isinstance(answer, Exception):
                raise answer
        run = ""
        # A user may lack the right to INFO: then it may be another engine each time.
        if isinstance(info, bytes):
            lines = dict(line.partition(b":")[::2] for line in info.splitlines())
            run = lines.get(b"run_id", b"").decode(errors="replace")
        last_id = last[0][0].decode() if last else BEGINNING
        return Engine((epoch or b"").decode(errors="replace"), run, last_id)

    async def _is_same(self, wire: Wire, place: Place) -> bool:
        """Whether a quiet engine still has what was read from it."""
        engine = await self._inspect(wire)
        ends_before = id_key(engine.last_id) < id_key(place.id) and engine.last_id != BEGINNING
        return engine.epoch == place.epoch and not ends_before

    def _note_batch(self, batch: Batch, entries: Sequence[Any]) -> None:
        self._place = batch.place
        self._count(received=len(batch.items), bad=len(batch.bad), missed=batch.missed)
        if batch.items:
            appended_ms = int(entries[-1][0].partition(b"-")[0])
            self._delay = max(self._now_ms() - appended_ms, 0) / 1000
        if batch.bad:
            self._note("bad", f"the stream holds what is no item of ours: {batch.bad[-1]}")
        if batch.missed:
            self._note(
                "missed",
                f"{self._counts.missed} items were trimmed before they were read here: "
                "raise --share-most where it is too small for the group",
            )

    # For both.

    def _explain(self, error: BaseException) -> Trouble:
        settings = self._settings
        return explain(error, settings.address, group=settings.name, seconds=self._pace.answer)

    def _note(self, code: str, text: str) -> None:
        self._notes[code] = (self._clock(), text)

    def _count(self, **more: int) -> None:
        counts = self._counts
        self._counts = replace(
            counts, **{name: getattr(counts, name) + n for name, n in more.items()}
        )

    def _now_ms(self) -> int:
        return self._clock() // _NS

    async def _change(self) -> None:
        """Wait until what waits, or what is behind, has changed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0), self._moved:
                await self._moved.wait()

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def _sha(text: str) -> bytes:
    """What EVALSHA calls a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()


def _joined(before: Batch, batch: Batch) -> Batch:
    """Two batches, one behind the other, as one."""
    # What was forgotten in the first and moved in the second is remembered.
    again = batch.moved.keys() - set(batch.forgotten)
    hosts = {*before.forgotten_hosts, *batch.forgotten_hosts}
    told = batch.watermarks.keys() - set(batch.forgotten_hosts)
    return Batch(
        before.items + batch.items,
        batch.place,
        {**before.moved, **batch.moved},
        tuple({*before.forgotten, *batch.forgotten} - again),
        {**before.watermarks, **batch.watermarks},
        tuple(hosts - told),
        before.missed + batch.missed,
        (before.bad + batch.bad)[-10:],
    )


def _next_count(entries: Sequence[Any]) -> int:
    """How many entries to ask for, so that they have about `_BYTES_AT_ONCE` bytes."""
    size = sum(len(fields[13]) for _, fields in entries if fields and len(fields) >= 14)
    mean = 200 + size // len(entries)
    return max(1, min(_MOST_ENTRIES, 2 * len(entries), _BYTES_AT_ONCE // mean))
