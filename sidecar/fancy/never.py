"""Why a regex can never match a response.

In: a pattern's syntax tree.  Out: a reason, or None when it may match.

A response is matched as one line: its three-digit code, a space, the enhanced
code and the text, in which every line break has become a space.  So whatever
needs a line break, comes behind the end of the text or in front of its start,
or puts something else than a digit first, never matches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import nodes
from .parse import parse


@dataclass(frozen=True, slots=True)
class _Facts:
    """What every match of a node has in common.

    ``never`` is why there is none; ``size`` the fewest characters; ``starts``
    and ``ends``: it begins where the text does, stops where the text does;
    ``first`` the one character it begins with, where that is known.
    """

    never: str | None = None
    size: int = 0
    starts: bool = False
    ends: bool = False
    first: str | None = None


_ANY = "0"
"""For ``first``: it may begin with many things, and a digit may be among them."""

_LINE_BREAK = "it needs a line break, and a response is matched as one line"
_AFTER_END = "it has something behind the end of the text"
_BEFORE_START = "it has something in front of the start of the text"


def why_never(source: str) -> str | None:
    """Why the regex `source` (one that compiles) can match no response; None if it may."""
    facts = _facts(parse(source).root)
    if facts.never is not None:
        return facts.never
    if facts.starts and facts.first is not None and not facts.first.isdigit():
        return f'it wants "{facts.first}" first, and a response begins with its three-digit code'
    return None


def _facts(node: nodes.Node) -> _Facts:
    match node:
        case nodes.Char(value, _):
            if value in "\r\n":
                return _Facts(never=_LINE_BREAK)
            return _Facts(size=1, first=value)
        case nodes.CharClass(item, _):
            return _Facts(never=_LINE_BREAK) if _only_breaks(item) else _Facts(size=1, first=_ANY)
        case nodes.AnyChar():
            return _Facts(size=1, first=_ANY)
        case nodes.Anchor(kind):
            return _Facts(
                starts=kind in ("text_start", "line_start"), ends=kind in ("text_end", "line_end")
            )
        case nodes.Concat(items):
            return _concat([_facts(item) for item in items])
        case nodes.Alternation(items):
            return _alternation([_facts(item) for item in items])
        case nodes.Group(_, child) | nodes.Atomic(child):
            return _facts(child)
        case nodes.Repeat(child, low, _, _):
            return _repeat(_facts(child), low)
        case nodes.Look(child, _, negative):
            return _Facts() if negative else _look(_facts(child))
        case nodes.BackReference() | nodes.Conditional():
            return _Facts(first=_ANY)
    return _Facts()


def _concat(items: Iterable[_Facts]) -> _Facts:
    size, starts, ends, first = 0, False, False, None
    for item in items:
        if item.never is not None:
            return item
        if ends and item.size:
            return _Facts(never=_AFTER_END)
        if item.starts and size:
            return _Facts(never=_BEFORE_START)
        if first is None and not size:
            first = item.first
        size += item.size
        starts = starts or item.starts
        ends = ends or item.ends
    return _Facts(size=size, starts=starts, ends=ends, first=first)


def _alternation(items: Iterable[_Facts]) -> _Facts:
    items = list(items)
    possible = [item for item in items if item.never is None]
    if not possible:
        return items[0]
    return _Facts(
        size=min(item.size for item in possible),
        starts=all(item.starts for item in possible),
        ends=all(item.ends for item in possible),
        first=_ANY,
    )


def _repeat(child: _Facts, low: int) -> _Facts:
    if low == 0:
        return _Facts(first=_ANY)
    if child.never is not None or low == 1:
        return child
    if child.size and child.starts:
        return _Facts(never=_BEFORE_START)
    if child.size and child.ends:
        return _Facts(never=_AFTER_END)
    return _Facts(size=child.size * low, starts=child.starts, ends=child.ends, first=child.first)


def _look(child: _Facts) -> _Facts:
    if child.never is not None:
        return child
    if child.size:
        return _Facts(first=_ANY)
    return _Facts(starts=child.starts, ends=child.ends)


def _only_breaks(item: nodes.SetNode) -> bool:
    match item:
        case nodes.SetRange(low, high):
            return all(point in (10, 13) for point in {low, high}) and high - low in (0, 3)
        case nodes.SetUnion(items):
            return bool(items) and all(_only_breaks(inner) for inner in items)
        case nodes.SetBracket(inner, negated):
            return not negated and _only_breaks(inner)
    return False
