"""The items of a group's stream: as values, as arguments of the script, and back.

In: portions of this host's log; entries that XREAD answers.  Out: the script's
arguments; items of others, or why an entry is none.

An entry has these fields, in this order; a sum has ``since`` besides::

    v 1  host mx1  segment 20261127-06  line 131  kind line  n 4711  data {...}

``n`` is its number in the group, counted from 1: a reader whom the trimming overtook
knows by it how much was missed.

**Names.**  Segments of a host are compared by their names, byte by byte.  A *watermark* is
a name: of the segments with lesser ones everything is told.  It travels as an entry of kind
``told``.  What begins with a slash is never covered: words, and late segments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, cast, get_args

import msgspec

Kind = Literal["line", "attempts", "word"]
"""``line``: a log line as it is.  ``attempts``: JSON, summed up over the lines behind
``since``.  ``word``: JSON, what an operator said."""

VERSION: Final = b"1"
"""The format of entries.  Another one is for other sidecars, and is passed over."""

WORDS: Final = "/word/"
"""Before the id of a word, in place of a segment: no file name has a slash."""

_LATE: Final = "/late/"
_LATE_PARTS: Final = 4

_KINDS: Final[dict[bytes, Kind | Literal["told"]]] = {
    **{kind.encode(): cast(Kind, kind) for kind in get_args(Kind)},
    b"told": "told",
}
_MOST_LINE: Final = 10**15
_LONGEST_NAME: Final = 512


@dataclass(frozen=True, slots=True)
class Item:
    """What was found at a line (counted from 1) of a segment."""

    line: int
    kind: Kind
    data: bytes


@dataclass(frozen=True, slots=True)
class Portion:
    """What was found among the lines `from_line` + 1 to `to_line` of a segment.

    In the order of lines, at most one item of a kind at each.  No items: there was
    nothing to tell.  An ``attempts`` item sums up lines of this portion only.  The
    engine does nothing else while it appends a portion: keep it to some 1,000 items.
    """

    segment: str
    from_line: int
    to_line: int
    items: tuple[Item, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about."""
        return 200 + len(self.segment) + sum(150 + len(item.data) for item in self.items)

    @property
    def sums(self) -> bool:
        """Whether it holds sums, so that a part of it can't be told."""
        return any(item.kind == "attempts" for item in self.items)


class Received(msgspec.Struct, frozen=True, gc=False):
    """An item of another host.

    ``segment`` is a word's id where ``kind`` is ``word``.  ``fresh``: the part of a sum
    that was not received before; below 1 only after the engine lost data.
    """

    host: str
    segment: str
    line: int
    kind: Kind
    data: bytes
    fresh: float = 1.0


class Entry(NamedTuple):
    """An entry of the stream, taken apart.  ``number`` is 0 where it has none."""

    host: str
    segment: str
    line: int
    kind: Kind | Literal["told"]
    data: bytes
    since: int
    number: int


def name_bytes(name: str) -> bytes:
    """A segment's name as bytes; file names need not be UTF-8."""
    return os.fsencode(name)


def late_name(segment: str, line: int) -> str:
    """What a segment is called from `line` on, where a watermark covers its own name.

    It appeared, or grew, after everything under such names had been told.
    """
    return f"{_LATE}{line}/{segment}"


def own_name(name: str) -> str:
    """The segment's own name; `name` may be one of :func:`late_name`."""
    return name.split("/", _LATE_PARTS - 1)[-1] if name.startswith(_LATE) else name


def first_line(name: str) -> int:
    """The line before the first one that is told under this name."""
    return int(name.split("/", _LATE_PARTS - 1)[2]) if name.startswith(_LATE) else 0


def comes_before(segment: str, other: str) -> bool:
    """Whether a name is the lesser one, as the engine compares them."""
    return name_bytes(segment) < name_bytes(other)


def is_covered(segment: str, watermark: str) -> bool:
    """Whether everything of this segment is told, by the watermark of its host."""
    return not segment.startswith("/") and comes_before(segment, watermark)


def arguments(portion: Portion, *, longest: int) -> list[bytes]:
    """Four arguments for each item: line, kind, data, since.  What is too long is left out."""
    found: list[bytes] = []
    since = b"%d" % portion.from_line
    for item in portion.items:
        if len(item.data) <= longest:
            found += (b"%d" % item.line, item.kind.encode(), item.data, since)
    return found


def read_entry(fields: object, *, longest: int) -> Entry | str:
    """Take apart what XREAD answers for an entry: flat field names and values.

    Returns why it is no item of ours where it is none.
    """
    # The fields are looked for where our script puts them: others are a stranger's.
    if not isinstance(fields, list) or len(fields) not in (14, 16):
        return "it has not the fields of an item"
    if fields[0:14:2] != _NAMES or (len(fields) == 16 and fields[14] != b"since"):
        return "it has not the fields of an item"
    version, host, segment, line, kind, number, data = fields[1:14:2]
    if version != VERSION:
        return f"its format is {version[:20]!r}, not {VERSION!r}: another release wrote it"
    if kind not in _KINDS:
        return f"its kind is {kind[:20]!r}"
    if len(data) > longest:
        return f"it has {len(data)} bytes, more than {longest}"
    names = _host_and_segment(host, segment)
    if isinstance(names, str):
        return names
    at, count = _number(line), _number(number)
    since = _number(fields[15]) if len(fields) == 16 else 0
    if at < 0 or count < 0 or since < 0:
        return "its line is no number"
    if kind == b"word" and not names[1].isprintable():
        return "its word has no usable name"
    if kind == b"told" and not 0 < len(data) <= _LONGEST_NAME:
        return "its watermark is no name"
    return Entry(*names, at, _KINDS[kind], data, since, count)


@lru_cache(maxsize=1024)
def _host_and_segment(host: bytes, segment: bytes) -> tuple[str, str] | str:
    """The names; why they can't be where they can't."""
    if not 0 < len(host) <= _LONGEST_NAME or not 0 < len(segment) <= _LONGEST_NAME:
        return "its host or segment has no usable name"
    try:
        name = host.decode()
    except UnicodeDecodeError:
        return "its host's name is not UTF-8"
    return unfit_host(name) or (name, os.fsdecode(segment))


_NAMES: Final = [b"v", b"host", b"segment", b"line", b"kind", b"n", b"data"]


def _number(text: bytes) -> int:
    """The number, -1 where it is none."""
    return int(text) if text.isdigit() and len(text) <= 15 else -1


def unfit_host(name: str) -> str | None:
    """Why a host can't have this name; None where it can."""
    if not name or not name.isprintable() or " " in name or len(name) > 255:
        return "a host's name is 1 to 255 printable characters without a space"
    return None


def check(portion: Portion) -> None:
    """Raise ValueError where a portion is none: a mistake of the caller."""
    last: dict[str, int] = {}
    if not 0 <= portion.from_line <= portion.to_line < _MOST_LINE:
        raise ValueError(f"{portion.from_line} to {portion.to_line} is no range of lines")
    for item in portion.items:
        if not max(portion.from_line, last.get(item.kind, 0)) < item.line <= portion.to_line:
            raise ValueError(f"line {item.line} is not in its place in the portion")
        last[item.kind] = item.line


def count_too_long(items: Sequence[Item], *, longest: int) -> int:
    """How many of the items are longer than may be told."""
    return sum(len(item.data) > longest for item in items)
