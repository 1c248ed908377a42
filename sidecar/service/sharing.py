"""Several hosts, one memory: this service's part in its group.

In: portions and words of this host, to be told; what the other hosts told.  Out: portions
offered, segments read again that the engine has lost, and the others' lines as a log
beside the own one: matched by this host's rules, decided by the same core, committed
with the place behind them.

Why nothing is told or heard twice, nor left out:

- A portion is offered when its batch has been decided, perhaps before the commit.  A
  service that is killed in between reads these lines again and offers them again.  The
  engine knows by the lines' numbers that it has them.  Rules that were changed meanwhile
  match other lines then: those of the portion that was told stay told.
- A portion that the engine does not get (it is away, it lost its data, too much waits) makes
  its segment one that is behind.  Such a segment is read again from the log, by a reader
  of its own, and matched by the rules in force.  A segment that is gone, or older than
  what the rules look back to, is given up.
- What is heard is decided batch by batch.  Each is committed with the place in the stream
  behind it; what comes before a word in it, with the lines up to which its segments were heard.

The own log comes first: a batch of others' lines is no larger than an own one, and waits for
one that is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from sidecar import __version__
from sidecar.automation.pipeline import Tally
from sidecar.faults import reached
from sidecar.log.blocks import START, Block, Position
from sidecar.log.file import SegmentFile
from sidecar.log.identity import fingerprint_fits
from sidecar.private_file import read_private
from sidecar.problems import Problem, ProblemError
from sidecar.settings import Fixed
from sidecar.share import (
    Batch,
    Behind,
    Mark,
    Place,
    Portion,
    Received,
    Share,
    ShareSettings,
    connect,
    first_line,
    own_name,
)
from sidecar.share.items import WORDS
from sidecar.share.place import Origin
from sidecar.store import Transaction
from sidecar.times import NS, format_rfc3339

from .flow import Flow
from .ledger import Ledger
from .logging import Log
from .places import batch_rows, mark_rows
from .portions import Matching
from .rules import Rules
from .told import floor_row

_REST_SECONDS: Final = 0.05
"""How long more lines are waited for, at most, while they come faster than one by one."""

_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of this machine that pass, and say nothing of the segment that was to be read."""

_AGAIN_SECONDS: Final = 0.5
"""Between two looks at the segments that are behind."""

_PRUNE_MS: Final = 600_000
_SLACK_MS: Final = 3 * 3_600_000
"""How much longer than it should the engine may keep lines, at most."""

_PASSWORD_BYTES: Final = 4096
_OTHERS_NAMED: Final = 5


def share_settings(settings: Fixed) -> ShareSettings:
    """What the share room must know, the rules left out.  Raises ProblemError."""
    address = settings.share
    assert address is not None
    if settings.share_password_file is not None:
        file = settings.share_password_file
        try:
            text = read_private(file, largest=_PASSWORD_BYTES).decode()
        except UnicodeDecodeError:
            message = "the password is not UTF-8 text"
            raise ProblemError.one("share-password", message, file=str(file)) from None
        except OSError as error:
            message = f"the password can't be read: {error.strerror or error}"
            raise ProblemError.one("share-password", message, file=str(file)) from None
        except ValueError as error:
            raise ProblemError.one("share-password", str(error), file=str(file)) from None
        address = address.with_password(text, where=str(file))
    return ShareSettings(
        address,
        name=settings.share_name,
        host=host_name(settings),
        age=0.0,
        version=__version__,
        most=settings.share_most,
        tells=not settings.simulate,  # the service beside it has the same name
    )


def host_name(settings: Fixed) -> str:
    """What this host is called in its group."""
    return settings.share_host or socket.gethostname()


class Sharing:
    """This service's part in its group.  Made by :func:`sharing_with`."""

    def __init__(
        self,
        share: Share,
        *,
        settings: Fixed,
        flow: Flow,
        ledger: Ledger,
        rules: Callable[[], Rules],
        log: Log,
        clock: Callable[[], int],
    ) -> None:
        self._share = share
        self._directory = settings.log_dir
        self.host = host_name(settings)
        """What this host is called in its group."""
        self._group = settings.share_name
        self._tells = not settings.simulate
        self._flow = flow
        self._ledger = ledger
        self._rules = rules
        self._log = log
        self._clock = clock
        self._told_rules = ""
        self._said: set[str] = set()
        self._bad_told = False
        self._logged: set[str] = set()
        self._connected = False
        self._pruned_ms = 0

    # What is told.

    def begin(self) -> None:
        """Say how far the own log has been read: so far the engine should have it."""
        self.rules_changed()
        if not self._tells:
            return
        since_ns = self._since_ns()
        for name, row in self._ledger.checkpoints.items():
            if row.lines and _younger(self._directory / name, since_ns):
                told = self._name(name)
                if before := row.lines if told == name else first_line(told):
                    self._share.expect(name, before)
                if told != name:
                    self._share.expect(told, row.lines)
        self._finish()
        self.say_words()

    def offer(self, portions: Iterable[Portion]) -> None:
        """Offer what was found in an own batch that has been decided."""
        if not self._tells:
            return
        for portion in portions:
            self._share.offer(replace(portion, segment=self._name(portion.segment)))
        self._finish()
        reached("portions-offered")

    def _name(self, segment: str) -> str:
        told = self._ledger.told
        return segment if told is None else told.name(segment)

    def _finish(self) -> None:
        """Hand on up to which name all is read, once it is committed, and have more committed."""
        told = self._ledger.told
        if told is None:
            return
        self._share.finish(told.floor)
        if (floor := told.next_floor()) is not None:
            self._ledger.commits.add(floor_row(floor))
            told.stage(floor, self._ledger.commits.committed())

    def say_words(self) -> None:
        """Say the words of this host's operators, once they are committed."""
        if not self._tells:
            return
        for name, text in self._ledger.words.items():
            if name not in self._said and self._share.say(name, text):
                self._said.add(name)
                reached("word-said")
        self._said &= self._ledger.words.keys()

    def rules_changed(self) -> None:
        """Have the group know which rules this host has, and how long lines matter to it."""
        rules = self._rules()
        self._share.tell(rules=rules.shaping.hash, age=rules.shaping.horizon_ns / NS)

    async def tell_again(self) -> None:
        """Read again and offer what the engine lacks, for ever."""
        while True:
            await self._share.wait_behind()
            for word in self._share.unsaid():
                text = self._ledger.words.get(word)
                if text is None:
                    self._share.forget(WORDS + word)
                else:
                    self._share.say(word, text)
            for segment, behind in sorted(self._share.behind().items()):
                try:
                    told = await self._tell_segment(segment, behind)
                except OSError as error:
                    if error.errno in _PASSING:
                        continue  # it stays behind, and is tried again
                    told = False
                if not told:
                    self._share.forget(segment)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _tell_segment(self, segment: str, behind: Behind) -> bool:
        """Offer what a segment has behind a line; False where it does not have it any more."""
        name = own_name(segment)
        path, row = self._directory / name, self._ledger.checkpoints.get(name)
        if row is None or not _younger(path, self._since_ns()):
            return False
        file = await SegmentFile.open(path, final=True)
        try:
            if fingerprint_fits(row.fingerprint, file.first_chunk) is False:
                return False  # another file has its name
            await file.begin(name, START)
            line = behind.from_line
            async for block in _blocks(file):
                # A half of the time at most: the own log comes first.
                began = time.perf_counter()
                await self._flow.idle()
                if not await self._offer_again(_cut(block, line, behind.to_line), segment):
                    return True
                line = min(block.position.lines, behind.to_line)
                if line >= behind.to_line:
                    return True
                await asyncio.sleep(time.perf_counter() - began)
        finally:
            await file.close()
        return False

    async def _offer_again(self, block: Block | None, segment: str) -> bool:
        """Offer what the rules match in a block, as of `segment`; False: it is not taken now."""
        if block is None:
            return True
        rules = self._rules()
        data, numbers = rules.sift_numbered(block.data)
        matching = Matching(rules, Tally())
        for _ in matching.parts(replace(block, data=data, numbers=numbers)):
            await asyncio.sleep(0)
        for portion in matching.portions:
            if not await self._share.offer_when_room(replace(portion, segment=segment)):
                return False
        return True

    def _since_ns(self) -> int:
        """What was logged before this moment is of no use to anybody."""
        return self._clock() - self._rules().shaping.horizon_ns - 3600 * NS

    # What is heard.

    async def hear(self) -> None:
        """Decide what the others tell, for ever."""
        async with contextlib.aclosing(self._share.receive(self._ledger.place)) as batches:
            async for batch in batches:
                began = time.perf_counter()
                await self._take(batch)
                if not batch.more:
                    # Lines that are decided, committed and published together cost less.
                    await asyncio.sleep(min(time.perf_counter() - began, _REST_SECONDS))

    async def _take(self, batch: Batch) -> None:
        """Decide a batch, and have it committed with the place behind it."""
        behind = self._prune(self._ledger.place)
        behind.add(batch_rows(batch))
        slices = list(_slices(batch.items))
        for number, items in enumerate(slices, 1):
            last, marks = number == len(slices), _marks(items, batch)
            bad = await self._flow.hear(
                items,
                behind if last else mark_rows(marks),
                move=partial(self._move, None if last else marks, batch),
                more=batch.more or not last,
            )
            if bad and not self._bad_told:
                self._bad_told = True
                message = (
                    f"{bad} of the lines that others told are no log records, and were passed "
                    "over; further ones are only counted (peers_bad in `tsa-sidecar status --json`)"
                )
                self._log.problem(Problem("warning", "bad-peer-line", message, where="--share"))
        if not slices:
            self._move(None, batch)
            await self._flow.note_place(behind, more=batch.more)

    def _move(self, marks: Mapping[Origin, Mark] | None, batch: Batch) -> None:
        """Be behind `batch`, or behind the items in it up to these marks."""
        if marks is None:
            self._ledger.place = self._ledger.place.behind(batch)
        else:
            self._ledger.place.marks.update(marks)

    def _prune(self, place: Place) -> Transaction:
        """Now and then, forget how far segments were heard that the stream has nothing of any more.

        A state file with a row for each segment of a week is slow to read.
        """
        age_ms = self._rules().shaping.horizon_ns // 10**6 + _SLACK_MS
        until_ms = self._clock() // 10**6 - age_ms
        if until_ms - self._pruned_ms < _PRUNE_MS:
            return Transaction()
        old = [
            origin
            for origin, mark in place.marks.items()
            if self._pruned_ms <= mark.at_ms < until_ms and origin[2] != "word"
        ]
        self._pruned_ms = until_ms
        return mark_rows({}, old)

    # How it is.

    def conditions(self) -> Iterator[Problem]:
        """What is wrong between this host and its group."""
        health, where = self._share.health, "--share"
        if health.namesake:
            message = (
                f"another sidecar of the group calls itself {self.host} as well: lines of both are "
                "lost to the group until one of them has another name (--share-host)"
            )
            yield Problem("error", "share-namesake", message, where=where)
        if health.problem is not None:
            since = format_rfc3339(health.since_ns // NS * NS)
            waiting = f"; {health.queued:,} lines wait to be told" if health.queued else ""
            message = (
                f"{health.problem}. Since {since} this host decides by its own log alone{waiting}. "
                "What is missing is caught up with, as far as the logs have it"
            )
            yield Problem("error", "share-away", message, where=where)
        elif health.behind:
            message = f"{health.behind} segments are read again for the group"
            yield Problem("warning", "share-behind", message, where=where)
        for note in health.notes:
            yield Problem("warning", "share-note", note, where=where)
        others = [seen.host for seen in self._others() if self._other_rules(seen.said.rules)]
        if others:
            some = ", ".join(others[:_OTHERS_NAMED])
            more = (
                "" if len(others) <= _OTHERS_NAMED else f" and {len(others) - _OTHERS_NAMED} more"
            )
            message = f"other rules than here: {some}{more}. Each host decides by its own"
            yield Problem("warning", "share-rules", message, where=where)

    def watch(self) -> None:
        """Have the log say what of that is new, and when the group is there."""
        health, wrong = self._share.health, {}
        for problem in self.conditions():
            if problem.code != "share-behind":
                text = health.problem if problem.code == "share-away" else problem.message
                wrong[problem.code + re.sub("[0-9]+", "", text or "")] = problem
        for key in wrong.keys() - self._logged:
            self._log.problem(wrong[key])
        self._logged = set(wrong)
        if health.connected and not self._connected:
            self._log.info("deciding together with the group", group=self._group, host=self.host)
        if health.connected or health.problem is not None:
            self._connected = health.connected

    def _others(self) -> list[Any]:
        return [seen for seen in self._share.hosts() if not seen.own]

    def _other_rules(self, rules: str) -> bool:
        # Rules that are simulated are others by that alone.
        return self._tells and rules not in ("", self._rules().shaping.hash)

    def document(self) -> dict[str, Any]:
        """The same for programs, and who is in the group."""
        health = self._share.health
        return {
            "group": self._group,
            "host": self.host,
            "connected": health.connected,
            "since": format_rfc3339(health.since_ns),
            "problem": health.problem,
            "lines_appended": health.counts.appended,
            "lines_received": health.counts.received,
            "bad_entries": health.counts.bad,
            "missed": health.counts.missed,
            "given_up": health.counts.forgotten,
            "waiting": health.queued,
            "segments_behind": health.behind,
            "unread": health.unread,
            "delay_seconds": health.delay,
            "hosts": [
                {
                    "host": seen.host,
                    "own": seen.own,
                    "version": seen.said.version,
                    "silent_seconds": round(seen.silent, 1),
                    "unread": seen.unread,
                    "late_seconds": round(seen.late, 1),
                    "waiting": seen.said.queued,
                    "segments_behind": seen.said.behind,
                    "same_rules": not self._other_rules(seen.said.rules),
                }
                for seen in self._share.hosts()
            ],
        }


@contextlib.asynccontextmanager
async def sharing_with(
    settings: Fixed,
    *,
    flow: Flow,
    ledger: Ledger,
    rules: Callable[[], Rules],
    log: Log,
    clock: Callable[[], int],
) -> AsyncIterator[Sharing | None]:
    """Take part in the group of `settings`; None where there is none.  Raises ProblemError."""
    if settings.share is None:
        yield None
        return
    async with connect(share_settings(settings), clock=clock) as share:
        yield Sharing(
            share, settings=settings, flow=flow, ledger=ledger, rules=rules, log=log, clock=clock
        )


def _slices(items: Sequence[Received]) -> Iterator[Sequence[Received]]:
    """The items, those without a word between them at once; a word stands alone."""
    first = 0
    for at, item in enumerate(items):
        if item.kind == "word":
            if at > first:
                yield items[first:at]
            yield items[at : at + 1]
            first = at + 1
    if first < len(items):
        yield items[first:]


def _marks(items: Sequence[Received], batch: Batch) -> dict[Origin, Mark]:
    """The lines up to which the segments of `items` are heard with them."""
    lines: dict[Origin, int] = {}
    for item in items:
        segment = WORDS + item.segment if item.kind == "word" else item.segment
        lines[item.host, segment, item.kind] = item.line
    return {
        origin: Mark(line, batch.moved[origin].at_ms)
        for origin, line in lines.items()
        if origin in batch.moved
    }


def _younger(path: Path, since_ns: int) -> bool:
    """Whether there is such a file that was written to since then."""
    try:
        return path.stat().st_mtime_ns >= since_ns
    except OSError:
        return False


async def _blocks(file: SegmentFile) -> AsyncIterator[Block]:
    """All blocks of a file, to the end that it has now."""
    while True:
        block = await file.next_block()
        if block is not None:
            yield block
        elif file.at_end or not file.more:
            return


def _cut(block: Block, line: int, to_line: int) -> Block | None:
    """The lines of `block` behind `line` and up to `to_line`; None where it has none."""
    first = block.first - 1  # so many lines come before `data`
    before, last = max(block.before, line), min(block.position.lines, to_line)
    if last <= before:
        return None
    start = max(before, first)
    lines = block.data.split(b"\n")[start - first : max(last - first, 0)]
    data = b"\n".join((*lines, b""))
    bad = last - before - len(lines)
    return Block(block.segment, data, Position(lines=last), len(lines), len(data), bad)
