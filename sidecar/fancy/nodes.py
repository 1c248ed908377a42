"""The syntax tree of a pattern: values only.

Flags are resolved while parsing: each node carries what applies to it, so a
tree means the same wherever it is put.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

# -- sets of characters ---------------------------------------------------------------


class SetRange(msgspec.Struct, frozen=True):
    """The code points from ``low`` to ``high``, both included."""

    low: int
    high: int


class SetPerl(msgspec.Struct, frozen=True):
    """``\\d``, ``\\s`` or ``\\w`` with Rust's (Unicode) meaning, or the opposite."""

    kind: Literal["d", "s", "w"]
    negated: bool


class SetPosix(msgspec.Struct, frozen=True):
    """``[:alpha:]`` and its like: ASCII only."""

    name: str
    negated: bool


class SetProperty(msgspec.Struct, frozen=True):
    """``\\p{query}`` or ``\\P{query}``; ``query`` is checked."""

    query: str
    negated: bool


class SetUnion(msgspec.Struct, frozen=True):
    """Everything in any of ``items``."""

    items: tuple[SetNode, ...]


class SetBracket(msgspec.Struct, frozen=True):
    """``[…]`` or ``[^…]``.  Under ``(?i)`` it is closed over case before it is negated."""

    item: SetNode
    negated: bool


class SetOperation(msgspec.Struct, frozen=True):
    """``left && right``, ``left -- right`` or ``left ~~ right``."""

    kind: Literal["&&", "--", "~~"]
    left: SetNode
    right: SetNode


SetNode: TypeAlias = (
    SetRange | SetPerl | SetPosix | SetProperty | SetUnion | SetBracket | SetOperation
)

# -- patterns -------------------------------------------------------------------------

AnchorKind = Literal[
    "text_start",
    "text_end",
    "line_start",
    "line_end",
    "word_boundary",
    "not_word_boundary",
    "word_start",
    "word_end",
]


class Empty(msgspec.Struct, frozen=True):
    """Matches the empty text."""


class Char(msgspec.Struct, frozen=True):
    """One character; with ``fold`` any character that Unicode's simple case folding equates."""

    value: str
    fold: bool


class AnyChar(msgspec.Struct, frozen=True):
    """``.``: any character; a line feed only with ``newline``."""

    newline: bool


class CharClass(msgspec.Struct, frozen=True):
    """One character out of a set."""

    item: SetNode
    fold: bool


class Anchor(msgspec.Struct, frozen=True):
    """A place rather than a character."""

    kind: AnchorKind


class SearchStart(msgspec.Struct, frozen=True):
    """``\\G``: where the search began, which for a single search is the text's start."""


class KeepOut(msgspec.Struct, frozen=True):
    """``\\K``: the match is reported from here on."""


class Concat(msgspec.Struct, frozen=True):
    """One after the other."""

    items: tuple[Node, ...]


class Alternation(msgspec.Struct, frozen=True):
    """The first of ``items`` that leads to a match; ``sources`` is how each is written."""

    items: tuple[Node, ...]
    sources: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """A capture group, counted from 1 in the order of opening parentheses."""

    index: int
    child: Node


class Repeat(msgspec.Struct, frozen=True):
    """``child`` at least ``low`` and at most ``high`` times (None: no limit)."""

    child: Node
    low: int
    high: int | None
    greedy: bool


class Look(msgspec.Struct, frozen=True):
    """Look-ahead or look-behind."""

    child: Node
    behind: bool
    negative: bool


class Atomic(msgspec.Struct, frozen=True):
    """``(?>…)`` and possessive quantifiers: no way back into it once it matched."""

    child: Node


class BackReference(msgspec.Struct, frozen=True):
    """The text that a group matched, once more."""

    group: int
    fold: bool


class GroupExists(msgspec.Struct, frozen=True):
    """Matches the empty text if the group took part in the match so far."""

    group: int


class Conditional(msgspec.Struct, frozen=True):
    """``(?(condition)yes|no)``.  What a condition matches is consumed before ``yes``."""

    condition: Node
    yes: Node
    no: Node


Node: TypeAlias = (
    Empty
    | Char
    | AnyChar
    | CharClass
    | Anchor
    | SearchStart
    | KeepOut
    | Concat
    | Alternation
    | Group
    | Repeat
    | Look
    | Atomic
    | BackReference
    | GroupExists
    | Conditional
)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below ``node``, in the order of the pattern."""
    match node:
        case Concat(items) | Alternation(items, _):
            return items
        case Group(_, child) | Repeat(child, _, _, _) | Look(child, _, _) | Atomic(child):
            return (child,)
        case Conditional(condition, yes, no):
            return (condition, yes, no)
    return ()
