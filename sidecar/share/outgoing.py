"""What waits to be told, and what must be read again to be told.  Pure.

In: portions in the order in which the service read them; the engine's positions and
answers.  Out: portions to send; the segments that are behind.

For each segment two lines are known: up to which the service has *read*, and up to
which it is *told*: appended, or waiting here without a hole before it.  A segment is
behind where it is read further than told.  That is all there is to an engine that is
away, a queue that is full and data that was lost: the log has it, and is read again.

Of the segments below the *watermark* everything is told.  How far they are read is remembered
apart, for an engine that lost its data, and nothing else is: what is done for each
portion costs what is under way, not what there was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from .items import WORDS, Item, Portion, check, comes_before, first_line, is_covered, name_bytes

_WORDS_BYTES: Final = 1024 * 1024
_WHOLLY: Final = 1 << 62
"""The line up to which a segment is told that is told wholly."""

_Wanted: TypeAlias = Callable[[Portion], bool]


@dataclass(frozen=True, slots=True)
class Behind:
    """A segment that must be read again from the line behind `from_line` up to `to_line`."""

    from_line: int
    to_line: int


@dataclass(slots=True)
class _Read:
    line: int
    at_ms: int


class Outgoing:
    """Portions that wait, bounded by `limit` bytes, and how far each segment is told."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._logs: deque[Portion] = deque()
        self._words: deque[Portion] = deque()
        self._bytes = 0
        self._word_bytes = 0
        self._items = 0
        self._told: dict[str, int] = {}
        self._read: dict[str, _Read] = {}
        self._past: dict[str, _Read] = {}
        self._watermark = ""
        self._finished = ""
        self._met = False

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes + self._word_bytes

    @property
    def items(self) -> int:
        """Items that wait."""
        return self._items

    def behind(self) -> dict[str, Behind]:
        """The segments to be read again, once the engine has said what it has."""
        if not self._met:
            return {}
        return {
            segment: Behind(self._told_of(segment), read.line)
            for segment, read in self._read.items()
            if self._told_of(segment) < read.line and not segment.startswith(WORDS)
        }

    def unsaid(self) -> tuple[str, ...]:
        """The ids of the words that must be said again."""
        return tuple(
            segment.removeprefix(WORDS)
            for segment in self._read
            if segment.startswith(WORDS) and self._met and not self._told.get(segment)
        )

    def expect(self, segment: str, line: int, *, now_ms: int) -> None:
        """Note that the service has read `segment` up to `line`."""
        where = self._past if is_covered(segment, self._watermark) else self._read
        read = where.setdefault(segment, _Read(0, now_ms))
        read.line = max(read.line, line)
        read.at_ms = now_ms

    def forget(self, segment: str) -> None:
        """Note that what is not told of `segment` can't be told any more."""
        self._read.pop(segment, None)
        self._past.pop(segment, None)

    def finish(self, before: str) -> None:
        """Note that segments with names below `before` are read to their ends.

        What is read of them has been offered or expected.
        """
        if comes_before(self._finished, before):
            self._finished = before

    def watermark(self) -> str | None:
        """The watermark that the engine may have now; None where it has it already."""
        names = [portion.segment for portion in self._logs]
        names += self.behind()
        plain = [self._finished, *(name for name in names if not name.startswith("/"))]
        found = min(plain, key=name_bytes)
        return found if self._met and comes_before(self._watermark, found) else None

    def set_watermark(self, name: str) -> None:
        """Note the watermark that the engine has."""
        self._watermark = name
        for segment in [s for s in self._read if is_covered(s, name)]:
            self._past[segment] = self._read.pop(segment)
        for segment in [s for s in self._told if is_covered(s, name)]:
            del self._told[segment]

    def forget_past(self, ms: int) -> None:
        """Forget the wholly told segments that nothing was read of since `ms`."""
        for segment in [s for s, read in self._past.items() if read.at_ms < ms]:
            del self._past[segment]

    def forget_before(self, ms: int) -> None:
        """Forget the segments under way that nothing was read of since `ms`."""
        for segment in [s for s, read in self._read.items() if read.at_ms < ms]:
            del self._read[segment]
            self._told.pop(segment, None)

    def has_room(self, size: int, *, spare: int = 0) -> bool:
        """Whether `size` bytes may wait besides; `spare` bytes are kept for others."""
        return not self._logs or self._bytes + size <= self._limit - spare

    def offer(self, portion: Portion, *, now_ms: int, spare: int = 0) -> bool:
        """Take a portion.  False: it can't be taken now, and its segment is behind.

        Raises ValueError where it is no portion.
        """
        check(portion)
        segment = portion.segment
        # Where it is not known, the engine is believed to have all that came before: else it
        # will say so.
        told = self._told_of(segment, portion.from_line)
        self.expect(segment, portion.to_line, now_ms=now_ms)
        if portion.to_line <= told:
            return True
        if _has_hole(portion, told) or not self.has_room(portion.size, spare=spare):
            self._told[segment] = told
            return False
        self._put(portion)
        return True

    def say(self, word: str, text: str, *, now_ms: int) -> bool:
        """Take a word.  False: too many wait; it is among the unsaid."""
        portion = Portion(WORDS + word, 0, 1, (Item(1, "word", text.encode()),))
        self.expect(portion.segment, 1, now_ms=now_ms)
        if self._told.get(portion.segment):
            return True
        if self._word_bytes + portion.size > _WORDS_BYTES:
            return False
        self._put(portion)
        return True

    def next_ones(self, *, most: int, most_bytes: int) -> list[Portion]:
        """The next portions to send.  They wait on until they are answered."""
        found: list[Portion] = []
        size = 0
        for portion in self._all():
            size += portion.size
            if found and (len(found) == most or size > most_bytes):
                break
            found.append(portion)
        return found

    def done(self, portion: Portion) -> None:
        """Note that it is appended."""
        queue = self._words if portion.segment.startswith(WORDS) else self._logs
        if queue and queue[0] is portion:
            queue.popleft()
            self._leave(portion)
        else:  # one before it was refused, and waits on
            self._keep_if(lambda other: other is not portion)

    def gap(self, segment: str, position: int) -> None:
        """Note that the engine has `segment` up to `position` only, or further than believed."""
        self._keep_if(lambda portion: portion.segment != segment)
        self._told[segment] = position

    def meet(self, positions: Mapping[str, int], watermark: str = "") -> None:
        """Note how far the engine has this host's segments: from now on only that counts."""
        self._met = True
        self._told = dict(positions)
        for segment in [s for s in self._past if not is_covered(s, watermark)]:
            self._read[segment] = self._past.pop(segment)
        self.set_watermark(watermark)

        def still_due(portion: Portion) -> bool:
            line = self._told_of(portion.segment)
            due = portion.to_line > line and not _has_hole(portion, line)
            if due:
                self._told[portion.segment] = portion.to_line
            return due

        self._keep_if(still_due)

    def _told_of(self, segment: str, otherwise: int | None = None) -> int:
        """Up to which line a segment is told; `otherwise` where that is not known."""
        line = self._told.get(segment)
        if line is not None:
            return line
        if is_covered(segment, self._watermark):
            return _WHOLLY
        return first_line(segment) if otherwise is None else otherwise

    def _all(self) -> Iterator[Portion]:
        yield from self._words
        yield from self._logs

    def _put(self, portion: Portion) -> None:
        if portion.segment.startswith(WORDS):
            self._words.append(portion)
            self._word_bytes += portion.size
        else:
            self._logs.append(portion)
            self._bytes += portion.size
        self._items += len(portion.items)
        self._told[portion.segment] = portion.to_line

    def _leave(self, portion: Portion) -> None:
        if portion.segment.startswith(WORDS):
            self._word_bytes -= portion.size
        else:
            self._bytes -= portion.size
        self._items -= len(portion.items)

    def _keep_if(self, wanted: _Wanted) -> None:
        waiting = [*self._all()]
        self._logs.clear()
        self._words.clear()
        for portion in waiting:
            if wanted(portion):
                (self._words if portion.segment.startswith(WORDS) else self._logs).append(portion)
            else:
                self._leave(portion)


def _has_hole(portion: Portion, told: int) -> bool:
    """Whether something is missing before it, or it can't be told in part but would have to."""
    return portion.from_line > told or (portion.from_line < told and portion.sums)
