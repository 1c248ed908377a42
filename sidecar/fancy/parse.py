"""Parser of fancy-regex patterns.

In: the pattern's text.  Out: :class:`Parsed`, or :class:`PatternError`.

It follows fancy-regex 0.16 in what it accepts, oddities included, because a
rule file that KumoMTA loads has to load here with the same meaning:

- ``{`` that begins no valid repetition is a literal ``{``; ``{,3}`` is ``{0,3}``.
- ``(?#…)`` is a comment everywhere, with or without ``(?x)``.
- Flags set by ``(?i)`` hold until the end of the enclosing ``(?flags:…)``, not of the
  enclosing ordinary group.
- An escaped character (``\\-``, ``\\é``) ignores ``(?i)``; ``\\x``/``\\u`` escapes do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from . import nodes
from .brackets import parse_bracket
from .errors import PatternError
from .escapes import (
    CONTROL_ESCAPES,
    HEX_DIGIT_SET,
    HEX_ESCAPES,
    parse_decimal,
    parse_hex,
    parse_property,
)

MAX_DEPTH = 64
"""Nesting of parentheses at which fancy-regex gives up."""

_VERBOSE_SPACE = " \r\n\t"
_FLAG_NAMES = {
    "i": "ignore_case",
    "m": "multi_line",
    "s": "dot_newline",
    "U": "swap_greed",
    "x": "verbose",
}
_ANCHOR_ESCAPES: dict[str, nodes.AnchorKind] = {
    "A": "text_start",
    "z": "text_end",
    "b": "word_boundary",
    "B": "not_word_boundary",
    "<": "word_start",
    ">": "word_end",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A pattern's tree; ``groups``: how many capture; ``referenced``: those referred to."""

    root: nodes.Node
    groups: int
    referenced: frozenset[int]


def parse(source: str) -> Parsed:
    """Parse ``source``; raises :class:`PatternError` where fancy-regex would."""
    parser = _Parser(source)
    end, root = parser.alternation(0, 0)
    if end < len(source):
        raise PatternError("unmatched )", end)
    return Parsed(root, parser.groups, frozenset(parser.referenced))


@dataclass(frozen=True, slots=True)
class _Flags:
    ignore_case: bool = False
    multi_line: bool = False
    dot_newline: bool = False
    swap_greed: bool = False
    verbose: bool = False


@dataclass(slots=True)
class _Parser:
    """Recursive descent; each method takes an offset and returns the offset behind what it read."""

    source: str
    flags: _Flags = field(default_factory=_Flags)
    groups: int = 0
    referenced: set[int] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    by_number: bool = False

    def alternation(self, at: int, depth: int) -> tuple[int, nodes.Node]:
        begin = at
        at, first = self.branch(at, depth)
        at = self.skip(at)
        if not self.source.startswith("|", at):
            if self.by_number and self.names:
                raise PatternError("a group must be referred to by name once any group has a name")
            return at, first
        items, sources = [first], [self.source[begin:at]]
        while self.source.startswith("|", at):
            begin = at + 1
            at, item = self.branch(begin, depth)
            items.append(item)
            at = self.skip(at)
            sources.append(self.source[begin:at])
        return at, nodes.Alternation(tuple(items), tuple(sources))

    def branch(self, at: int, depth: int) -> tuple[int, nodes.Node]:
        items: list[nodes.Node] = []
        while at < len(self.source):
            end, item = self.piece(at, depth)
            if end == at:
                break
            if not isinstance(item, nodes.Empty):
                items.append(item)
            at = end
        if not items:
            return at, nodes.Empty()
        return at, items[0] if len(items) == 1 else nodes.Concat(tuple(items))

    def piece(self, at: int, depth: int) -> tuple[int, nodes.Node]:
        at, child = self.atom(at, depth)
        at = self.skip(at)
        bounds = self.quantifier(at)
        if bounds is None:
            return at, child
        behind, low, high = bounds
        if not _repeatable(child):
            raise PatternError("nothing to repeat", at)
        at = self.skip(behind)
        greedy = not self.source.startswith("?", at)
        if not greedy:
            at += 1
        node: nodes.Node = nodes.Repeat(child, low, high, greedy != self.flags.swap_greed)
        if self.source.startswith("+", at):
            at += 1
            node = nodes.Atomic(node)
        return at, node

    def quantifier(self, at: int) -> tuple[int, int, int | None] | None:
        """The offset behind a quantifier and its bounds; None when there is none."""
        match self.source[at : at + 1]:
            case "?":
                return at + 1, 0, 1
            case "*":
                return at + 1, 0, None
            case "+":
                return at + 1, 1, None
            case "{":
                return self.counted(at)
        return None

    def counted(self, at: int) -> tuple[int, int, int | None] | None:
        at = self.skip(at + 1)
        low = 0
        if not self.source.startswith(",", at):
            number = parse_decimal(self.source, at)
            if number is None:
                return None
            at, low = number
        at = self.skip(at)
        high: int | None = low
        if self.source.startswith(",", at):
            at = self.skip(at + 1)
            number = parse_decimal(self.source, at)
            high = None
            if number is not None:
                at, high = number
        at = self.skip(at)
        return (at + 1, low, high) if self.source.startswith("}", at) else None

    def atom(self, at: int, depth: int) -> tuple[int, nodes.Node]:
        at = self.skip(at)
        char = self.source[at : at + 1]
        match char:
            case "" | "+" | "*" | "?" | "|" | ")":
                return at, nodes.Empty()
            case ".":
                return at + 1, nodes.AnyChar(self.flags.dot_newline)
            case "^":
                return at + 1, nodes.Anchor("line_start" if self.flags.multi_line else "text_start")
            case "$":
                return at + 1, nodes.Anchor("line_end" if self.flags.multi_line else "text_end")
            case "(":
                return self.group(at, depth)
            case "[":
                end, item = parse_bracket(self.source, at)
                return end, nodes.CharClass(item, self.flags.ignore_case)
            case "\\":
                return self.escape(at)
        return at + 1, nodes.Char(char, self.flags.ignore_case)

    def escape(self, at: int) -> tuple[int, nodes.Node]:
        char = self.source[at + 1 : at + 2]
        end = at + 2
        if char == "":
            raise PatternError("a backslash with nothing after it", at)
        if char in "0123456789":
            return self.numbered_reference(at + 1)
        if char in _ANCHOR_ESCAPES:
            if char in "bB" and self.source.startswith("{", end):
                raise PatternError(f"\\{char}{{…}} is not supported", at)
            return end, nodes.Anchor(_ANCHOR_ESCAPES[char])
        fold = self.flags.ignore_case
        match char:
            case "k":
                quote = self.source.startswith("'", end)
                return self.reference(end, *("''" if quote else "<>"), relative=True)
            case "Z":
                feeds = nodes.Repeat(nodes.Char("\n", fold=False), 0, None, greedy=True)
                rest = nodes.Concat((feeds, nodes.Anchor("text_end")))
                return end, nodes.Look(rest, behind=False, negative=False)
            case "d" | "s" | "w":
                return end, nodes.CharClass(nodes.SetPerl(char, negated=False), fold)
            case "D":
                return end, nodes.CharClass(nodes.SetPerl("d", negated=True), fold)
            case "S":
                return end, nodes.CharClass(nodes.SetPerl("s", negated=True), fold)
            case "W":
                return end, nodes.CharClass(nodes.SetPerl("w", negated=True), fold)
            case "h" | "H":
                return end, nodes.CharClass(
                    nodes.SetBracket(HEX_DIGIT_SET, negated=char == "H"), fold=False
                )
            case "p" | "P" if end < len(self.source):
                end, item = parse_property(self.source, at)
                return end, nodes.CharClass(item, fold)
            case "K":
                return end, nodes.KeepOut()
            case "G":
                return end, nodes.SearchStart()
            case "O":
                return end, nodes.AnyChar(newline=True)
            case "g":
                raise PatternError("subroutine calls (\\g) are not supported", at)
        if char in HEX_ESCAPES:
            end, value = parse_hex(self.source, at)
            return end, nodes.Char(value, fold)
        if char in CONTROL_ESCAPES:
            return end, nodes.Char(CONTROL_ESCAPES[char], fold=False)
        if char.isascii() and char.isalpha():
            raise PatternError(f"unknown escape \\{char}", at)
        return end, nodes.Char(char, fold=False)

    # -- references ---------------------------------------------------------------

    def numbered_reference(self, at: int) -> tuple[int, nodes.Node]:
        number = parse_decimal(self.source, at)
        if number is None or number[1] >= len(self.source.encode()) // 2:
            raise PatternError("a reference to a group that does not exist", at)
        self.by_number = True
        return number[0], self.refer(number[1])

    def refer(self, group: int) -> nodes.Node:
        self.referenced.add(group)
        return nodes.BackReference(group, self.flags.ignore_case)

    def reference(
        self, at: int, opening: str, closing: str, *, relative: bool
    ) -> tuple[int, nodes.Node]:
        """A reference by name, number or distance, between ``opening`` and ``closing``."""
        found = self.identifier(at, opening, closing, relative=relative)
        if found is None:
            raise PatternError("not a group's name", at)
        end, name, distance = found
        if name in self.names:
            group: int | None = self.names[name]
        elif name.isascii() and name.isdigit():
            group = int(name)
        elif distance is not None and not name:
            group = self.groups + (distance + 1 if distance < 0 else distance)
            distance = None
        else:
            group = None
        if group is None or group < 0:
            raise PatternError(f"no group before this is called {name!r}", at)
        if distance is not None:
            raise PatternError("references at a recursion level are not supported", at)
        return end, self.refer(group)

    def identifier(
        self, at: int, opening: str, closing: str, *, relative: bool
    ) -> tuple[int, str, int | None] | None:
        source = self.source
        if not source.startswith(opening, at) or len(source) - at <= len(opening) + len(closing):
            return None
        start = end = at + len(opening)
        while end < len(source) and (source[end].isalnum() or source[end] == "_"):
            end += 1
        if end == len(source) and closing:
            return None
        if end > start and source.startswith(closing, end):
            return end + len(closing), source[start:end], None
        sign = source[end : end + 1]
        if not relative or sign not in ("+", "-"):
            return None
        number = parse_decimal(source, end + 1)
        if number is None or not source.startswith(closing, number[0]):
            return None
        if number[1] == 0 and end == start:
            return None
        distance = -number[1] if sign == "-" else number[1]
        return number[0] + len(closing), source[start:end], distance

    # -- groups -------------------------------------------------------------------

    def group(self, opening: int, depth: int) -> tuple[int, nodes.Node]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise PatternError("nested too deeply", opening)
        at = self.skip(opening + 1)
        source = self.source
        for mark, behind, negative in (
            ("?=", False, False),
            ("?!", False, True),
            ("?<=", True, False),
            ("?<!", True, True),
        ):
            if source.startswith(mark, at):
                end, child = self.enclosed(at + len(mark), depth, opening)
                return end, nodes.Look(child, behind, negative)
        for mark, delimiters in (("?<", "<>"), ("?'", "''"), ("?P<", "<>")):
            if source.startswith(mark, at):
                return self.named_group(at + len(mark) - 1, delimiters, depth, opening)
        if source.startswith("?P=", at):
            return self.reference(at + 3, "", ")", relative=False)
        if source.startswith("?>", at):
            end, child = self.enclosed(at + 2, depth, opening)
            return end, nodes.Atomic(child)
        if source.startswith("?(", at):
            return self.conditional(at + 2, depth, opening)
        if source.startswith("?P>", at):
            raise PatternError("subroutine calls (?P>…) are not supported", opening)
        if source.startswith("?", at):
            return self.flag_group(at + 1, depth, opening)
        return self.capture(at, depth, opening)

    def named_group(
        self, at: int, delimiters: str, depth: int, opening: int
    ) -> tuple[int, nodes.Node]:
        found = self.identifier(at, delimiters[0], delimiters[1], relative=False)
        if found is None:
            raise PatternError("not a group's name", at)
        self.names[found[1]] = self.groups + 1
        return self.capture(found[0], depth, opening)

    def capture(self, at: int, depth: int, opening: int) -> tuple[int, nodes.Node]:
        self.groups += 1
        index = self.groups
        end, child = self.enclosed(at, depth, opening)
        return end, nodes.Group(index, child)

    def enclosed(self, at: int, depth: int, opening: int) -> tuple[int, nodes.Node]:
        end, child = self.alternation(at, depth)
        return self.close(end, opening), child

    def close(self, at: int, opening: int) -> int:
        at = self.skip(at)
        if at == len(self.source):
            raise PatternError("( is never closed", opening)
        if self.source[at] != ")":
            raise PatternError("expected )", at)
        return at + 1

    def flag_group(self, start: int, depth: int, opening: int) -> tuple[int, nodes.Node]:
        """``(?flags)`` and ``(?flags:…)``, from behind the question mark."""
        outer, off, at = self.flags, False, start
        while True:
            at = self.skip(at)
            char = self.source[at : at + 1]
            bare = off and at == start + 1
            if char == "":
                raise PatternError("( is never closed", opening)
            if char in _FLAG_NAMES:
                self.flags = replace(self.flags, **{_FLAG_NAMES[char]: not off})
            elif char == "u":
                if off:
                    raise PatternError("Unicode cannot be switched off", at)
            elif char == "-" and not off:
                off = True
            elif char == ")" and at != start and not bare:
                return at + 1, nodes.Empty()
            elif char == ":" and not bare:
                end, child = self.enclosed(at + 1, depth, opening)
                self.flags = outer
                return end, child
            else:
                raise PatternError(f"unknown flag {self.source[start : at + 1]!r}", at)
            at += 1

    def conditional(self, at: int, depth: int, opening: int) -> tuple[int, nodes.Node]:
        """``(?(…)…|…)``, from behind the second parenthesis."""
        first = self.source[at : at + 1]
        condition: nodes.Node
        if first == "":
            raise PatternError("( is never closed", opening)
        if first == "'":
            at, condition = self.reference(at, "'", "')", relative=True)
        elif first == "<":
            at, condition = self.reference(at, "<", ">)", relative=True)
        elif first in "+-0123456789":
            at, condition = self.reference(at, "", ")", relative=True)
        else:
            at, condition = self.enclosed(at, depth, opening)
        if isinstance(condition, nodes.BackReference):
            condition = nodes.GroupExists(condition.group)
        end, child = self.alternation(at, depth)
        if end == at and not isinstance(condition, nodes.GroupExists):
            raise PatternError("a condition must be followed by what it is the condition for", end)
        behind = self.close(end, opening)
        yes: nodes.Node = child
        no: nodes.Node = nodes.Empty()
        if isinstance(child, nodes.Alternation):
            yes, *rest = child.items
            no = rest[0] if len(rest) == 1 else nodes.Alternation(tuple(rest), child.sources[1:])
        if isinstance(yes, nodes.Empty) and isinstance(no, nodes.Empty):
            return behind, condition
        return behind, nodes.Conditional(condition, yes, no)

    # -- what means nothing -------------------------------------------------------

    def skip(self, at: int) -> int:
        """The offset behind comments, and behind white space and ``#`` comments in ``(?x)``."""
        source = self.source
        while at < len(source):
            char = source[at]
            if self.flags.verbose and char in _VERBOSE_SPACE:
                at += 1
            elif self.flags.verbose and char == "#":
                feed = source.find("\n", at)
                at = len(source) if feed < 0 else feed + 1
            elif source.startswith("(?#", at):
                at = self.skip_comment(at)
            else:
                break
        return at

    def skip_comment(self, opening: int) -> int:
        at = opening + 3
        while at < len(self.source):
            if self.source[at] == ")":
                return at + 1
            at += 2 if self.source[at] == "\\" else 1
        raise PatternError("(?# is never closed", opening)


def _repeatable(node: nodes.Node) -> bool:
    return not isinstance(
        node,
        nodes.Look
        | nodes.Empty
        | nodes.Anchor
        | nodes.KeepOut
        | nodes.SearchStart
        | nodes.GroupExists,
    )
