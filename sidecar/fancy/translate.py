"""A tree written in the syntax of google-re2 or of the ``regex`` module, with the same meaning.

In: a parsed pattern and the alphabet of the texts it will be asked about.
Out: a pattern's text for that engine.  Nothing is left to the engine's own idea of
``\\w``, ``\\b``, ``$``, flags or case: sets become explicit ranges, anchors the
engine's unambiguous ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from . import nodes
from .charset import PERL, Alphabet, AsciiAlphabet, evaluate
from .parse import Parsed

Range = tuple[int, int]
PerlKind = Literal["d", "s", "w"]


class NotInLanguage(Exception):  # noqa: N818 - an answer rather than an error
    """The engine cannot express the pattern."""


def to_re2(parsed: Parsed, alphabet: Alphabet) -> str:
    """``parsed`` for google-re2; raises :class:`NotInLanguage` for look-around and the like.

    The match is the whole match, except that a look-ahead at the very end becomes
    part of it: then group 1 is the match.
    """
    root = parsed.root
    look = _trailing_look(root)
    emitter = _Re2(alphabet)
    if look is None:
        return emitter.emit(root)
    before = nodes.Concat(root.items[:-1]) if isinstance(root, nodes.Concat) else nodes.Empty()
    return f"({emitter.emit(before)})(?:{emitter.emit(look.child)})"


def _trailing_look(root: nodes.Node) -> nodes.Look | None:
    last = root.items[-1] if isinstance(root, nodes.Concat) else root
    if isinstance(last, nodes.Look) and not last.behind and not last.negative:
        return last
    return None


def to_guard(parsed: Parsed, alphabet: Alphabet) -> str:
    """A pattern for google-re2 that matches wherever ``parsed`` does, and maybe elsewhere.

    It keeps the engine that backtracks from texts that it would search in vain.
    """
    return _Guard(alphabet).emit(parsed.root)


def to_regex(parsed: Parsed, alphabet: Alphabet) -> str:
    """``parsed`` for the ``regex`` module (version 0 behaviour, no flags)."""
    return _Regex(alphabet, parsed.referenced).emit(parsed.root)


@dataclass(slots=True)
class _Emitter:
    alphabet: Alphabet

    def emit(self, node: nodes.Node) -> str:
        match node:
            case nodes.Empty():
                return ""
            case nodes.Concat(items):
                return "".join(self.emit(item) for item in items)
            case nodes.Alternation(items):
                return "(?:" + "|".join(self.emit(item) for item in items) + ")"
            case nodes.Char(value, fold):
                return self.chars(self.alphabet.char(ord(value), fold=fold))
            case nodes.AnyChar(newline):
                return "(?s:.)" if newline else "[^\\n]"
            case nodes.CharClass(nodes.SetPerl(kind, negated), _):
                return self.perl(kind, negated=negated)
            case nodes.CharClass(item, fold):
                return self.chars(self.alphabet.ranges(evaluate(item, self.alphabet, fold=fold)))
            case nodes.Repeat():
                return self.repeat(node)
        return self.special(node)

    def chars(self, ranges: list[Range]) -> str:
        if not ranges:
            return self.nothing()
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            return self.code(ranges[0][0])
        return "[" + "".join(self.range(*pair) for pair in ranges) + "]"

    def range(self, low: int, high: int) -> str:
        return self.code(low) if low == high else f"{self.code(low)}-{self.code(high)}"

    def repeat(self, node: nodes.Repeat) -> str:
        low, high = node.low, node.high
        if high is not None and low > high:
            low = high  # only a hard child gets here, and fancy-regex stops at the upper bound
        child = self.emit(node.child)
        if not child:
            return ""
        match low, high:
            case 0, 1:
                mark = "?"
            case 0, None:
                mark = "*"
            case 1, None:
                mark = "+"
            case _:
                upper = "" if high is None else str(high)
                mark = f"{{{low}}}" if low == high else f"{{{low},{upper}}}"
        return f"(?:{child}){mark}{'' if node.greedy else '?'}"

    def perl(self, kind: PerlKind, *, negated: bool) -> str:
        item = nodes.SetPerl(kind, negated)
        return self.chars(self.alphabet.ranges(evaluate(item, self.alphabet, fold=False)))

    def code(self, point: int) -> str:
        raise NotImplementedError

    def nothing(self) -> str:
        raise NotImplementedError

    def special(self, node: nodes.Node) -> str:
        raise NotImplementedError


@dataclass(slots=True)
class _Re2(_Emitter):
    def code(self, point: int) -> str:
        return _plain(point) or f"\\x{{{point:x}}}"

    def nothing(self) -> str:
        return r"[^\x{0}-\x{10ffff}]"

    def special(self, node: nodes.Node) -> str:
        match node:
            case nodes.Group(_, child):
                return f"(?:{self.emit(child)})"
            case nodes.SearchStart():
                return r"\A"
            case nodes.Anchor(kind):
                # RE2 knows ASCII words only, which is all that ASCII texts have.
                if kind.endswith("boundary") and not isinstance(self.alphabet, AsciiAlphabet):
                    raise NotInLanguage
                if kind in _RE2_ANCHORS:
                    return _RE2_ANCHORS[kind]
        raise NotInLanguage


@dataclass(slots=True)
class _Guard(_Re2):
    """What RE2 lacks is left out or, where it can match characters, matches any."""

    def special(self, node: nodes.Node) -> str:
        match node:
            case nodes.Atomic(child):
                return f"(?:{self.emit(child)})"
            case nodes.BackReference():
                return "(?s:.*)"
            case nodes.Conditional(condition, yes, no):
                return f"(?:{self.emit(condition)}{self.emit(yes)}|{self.emit(no)})"
            case nodes.Look() | nodes.KeepOut() | nodes.GroupExists():
                return ""
        try:
            return super(_Guard, self).special(node)
        except NotInLanguage:
            return ""


_RE2_ANCHORS: dict[nodes.AnchorKind, str] = {
    "text_start": r"\A",
    "text_end": r"\z",
    "line_start": r"(?m:^)",
    "line_end": r"(?m:$)",
    "word_boundary": r"\b",
    "not_word_boundary": r"\B",
}


@dataclass(slots=True)
class _Regex(_Emitter):
    referenced: frozenset[int]
    open_groups: list[int] = field(default_factory=list)

    def code(self, point: int) -> str:
        return _plain(point) or (f"\\x{point:02x}" if point < 256 else f"\\U{point:08x}")

    def nothing(self) -> str:
        return r"[^\x00-\U0010ffff]"

    def special(self, node: nodes.Node) -> str:
        match node:
            case nodes.Group(index, child):
                mark = f"?P<g{index}>" if index in self.referenced else "?:"
                self.open_groups.append(index)
                inside = self.emit(child)
                self.open_groups.pop()
                return f"({mark}{inside})"
            case nodes.SearchStart():
                return r"\A"
            case nodes.KeepOut():
                return r"\K"
            case nodes.Anchor(kind):
                return self.anchor(kind)
            case nodes.Atomic(child):
                return f"(?>{self.emit(child)})"
            case nodes.Look(child, behind, negative):
                return f"(?{'<' if behind else ''}{'!' if negative else '='}{self.emit(child)})"
            case nodes.BackReference(group, _) if group in self.open_groups:
                return "(?!)"  # it has matched nothing yet
            case nodes.BackReference(group, fold):
                return f"(?{'i' if fold else ''}:(?P=g{group}))"
            case nodes.GroupExists(group) if group in self.open_groups:
                return ""  # having begun is enough for fancy-regex
            case nodes.Conditional(nodes.GroupExists(group), yes, _) if group in self.open_groups:
                return f"(?:{self.emit(yes)})"
            case nodes.GroupExists(group):
                return f"(?(g{group})|(?!))"
            case nodes.Conditional(nodes.GroupExists(group), yes, no):
                return f"(?(g{group})(?:{self.emit(yes)})|(?:{self.emit(no)}))"
            case nodes.Conditional(condition, yes, no):
                test = self.emit(condition)
                return f"(?:(?>{test}){self.emit(yes)}|(?!{test}){self.emit(no)})"
        raise NotInLanguage

    def perl(self, kind: PerlKind, *, negated: bool) -> str:
        # By property: ranges take 85 KB each in all of Unicode.
        if isinstance(self.alphabet, AsciiAlphabet):
            return super(_Regex, self).perl(kind, negated=negated)
        return f"[{'^' if negated else ''}{PERL[kind]}]"

    def anchor(self, kind: nodes.AnchorKind) -> str:
        word = self.perl("w", negated=False)
        match kind:
            case "text_start":
                return r"\A"
            case "text_end":
                return r"\Z"
            case "line_start":
                return r"(?<![^\n])"
            case "line_end":
                return r"(?![^\n])"
            case "word_start":
                return f"(?<!{word})(?={word})"
            case "word_end":
                return f"(?<={word})(?!{word})"
            case "word_boundary":
                return f"(?:(?<!{word})(?={word})|(?<={word})(?!{word}))"
            case "not_word_boundary":
                return f"(?:(?<!{word})(?!{word})|(?<={word})(?={word}))"


def _plain(point: int) -> str:
    char = chr(point)
    return char if char.isascii() and char.isalnum() else ""
