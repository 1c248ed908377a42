"""The syntax tree of a pattern: values only.

Flags are resolved while parsing: each node carries what applies to it, so a
tree means the same wherever it is put.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# -- sets of characters ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetRange:
    """The code points from ``low`` to ``high``, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class SetPerl:
    """``\\d``, ``\\s`` or ``\\w`` with Rust's (Unicode) meaning, or the opposite."""

    kind: Literal["d", "s", "w"]
    negated: bool


@dataclass(frozen=True, slots=True)
class SetPosix:
    """``[:alpha:]`` and its like: ASCII only."""

    name: str
    negated: bool


@dataclass(frozen=True, slots=True)
class SetProperty:
    """``\\p{query}`` or ``\\P{query}``; ``query`` is checked."""

    query: str
    negated: bool


@dataclass(frozen=True, slots=True)
class SetUnion:
    """Everything in any of ``items``."""

    items: tuple[SetNode, ...]


@dataclass(frozen=True, slots=True)
class SetBracket:
    """``[…]`` or ``[^…]``.  Under ``(?i)`` it is closed over case before it is negated."""

    item: SetNode
    negated: bool


@dataclass(frozen=True, slots=True)
class SetOperation:
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


@dataclass(frozen=True, slots=True)
class Empty:
    """Matches the empty text."""


@dataclass(frozen=True, slots=True)
class Char:
    """One character; with ``fold`` any character that Unicode's simple case folding equates."""

    value: str
    fold: bool


@dataclass(frozen=True, slots=True)
class AnyChar:
    """``.``: any character; a line feed only with ``newline``."""

    newline: bool


@dataclass(frozen=True, slots=True)
class CharClass:
    """One character out of a set."""

    item: SetNode
    fold: bool


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place rather than a character."""

    kind: AnchorKind


@dataclass(frozen=True, slots=True)
class SearchStart:
    """``\\G``: where the search began, which for a single search is the text's start."""


@dataclass(frozen=True, slots=True)
class KeepOut:
    """``\\K``: the match is reported from here on."""


@dataclass(frozen=True, slots=True)
class Concat:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    """The first of ``items`` that leads to a match."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A capture group, counted from 1 in the order of opening parentheses."""

    index: int
    child: Node


@dataclass(frozen=True, slots=True)
class Repeat:
    """``child`` at least ``low`` and at most ``high`` times (None: no limit)."""

    child: Node
    low: int
    high: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Look-ahead or look-behind."""

    child: Node
    behind: bool
    negative: bool


@dataclass(frozen=True, slots=True)
class Atomic:
    """``(?>…)`` and possessive quantifiers: no way back into it once it matched."""

    child: Node


@dataclass(frozen=True, slots=True)
class BackReference:
    """The text that a group matched, once more."""

    group: int
    fold: bool


@dataclass(frozen=True, slots=True)
class GroupExists:
    """Matches the empty text if the group took part in the match so far."""

    group: int


@dataclass(frozen=True, slots=True)
class Conditional:
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
        case Concat(items) | Alternation(items):
            return items
        case Group(_, child) | Repeat(child, _, _, _) | Look(child, _, _) | Atomic(child):
            return (child,)
        case Conditional(condition, yes, no):
            return (condition, yes, no)
    return ()
