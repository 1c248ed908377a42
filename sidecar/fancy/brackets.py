"""Parser of ``[…]``: nested sets, POSIX classes, ``&&``, ``--`` and ``~~``.

fancy-regex finds where a bracket ends and rewrites the escapes; Rust's
regex-syntax then parses what is between.  So it is done in two steps here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeAlias, cast

from . import nodes
from .charset import POSIX_NAMES
from .errors import PatternError
from .escapes import CONTROL_ESCAPES, HEX_DIGIT_SET, HEX_ESCAPES, parse_hex, parse_property

_META: Final = frozenset("\\.+*?()|[]{}^$#&-~")
"""What stays escaped when fancy-regex hands an escaped character on."""

_LITERAL_LETTERS: Final = frozenset("kAzBKG")
"""Letters whose escapes stand for themselves inside brackets."""

_OPERATORS: Final = {"&": "&&", "-": "--", "~": "~~"}

_Operator = Literal["&&", "--", "~~"]


@dataclass(frozen=True, slots=True)
class _Plain:
    """A character that may have a meaning of its own."""

    char: str


@dataclass(frozen=True, slots=True)
class _Escaped:
    """A character that stands for itself."""

    char: str


_Part: TypeAlias = "_Plain | _Escaped | nodes.SetPerl | nodes.SetProperty | nodes.SetBracket"


def parse_bracket(source: str, opening: int) -> tuple[int, nodes.SetNode]:
    """The offset behind the bracket at ``opening``, and the set it stands for."""
    end, tokens = _parts(source, opening)
    return end, _BracketParser(tokens, opening).parse()


def _parts(source: str, opening: int) -> tuple[int, list[_Part]]:
    """What is between the brackets, both included, with escapes resolved."""
    tokens: list[_Part] = [_Plain("[")]
    at = opening + 1
    for optional in ("^", "]"):  # a ] right after the opening is an ordinary character
        if source.startswith(optional, at):
            tokens.append(_Plain(optional))
            at += 1
    depth = 1
    while depth:
        char = source[at : at + 1]
        if char == "":
            raise PatternError("[ is never closed", opening)
        if char == "\\":
            at, token = _escape(source, at)
            tokens.append(token)
            continue
        depth += {"[": 1, "]": -1}.get(char, 0)
        tokens.append(_Plain(char))
        at += 1
    return at, tokens


def _escape(source: str, at: int) -> tuple[int, _Part]:
    char = source[at + 1 : at + 2]
    end = at + 2
    match char:
        case "":
            raise PatternError("a backslash with nothing after it", at)
        case "d" | "s" | "w":
            return end, nodes.SetPerl(char, negated=False)
        case "D" | "S" | "W":
            return end, nodes.SetPerl(cast(Literal["d", "s", "w"], char.lower()), negated=True)
        case "h" | "H":
            return end, nodes.SetBracket(HEX_DIGIT_SET, negated=char == "H")
        case "p" | "P" if end < len(source):
            return parse_property(source, at)
        case "b":
            return end, _literal("\x08")
    if char in HEX_ESCAPES:
        end, value = parse_hex(source, at)
        return end, _literal(value)
    if char in CONTROL_ESCAPES:
        return end, _literal(CONTROL_ESCAPES[char])
    if char in "0123456789" or (char.isascii() and char.isalpha() and char not in _LITERAL_LETTERS):
        raise PatternError(f"unknown escape \\{char} between [ and ]", at)
    return end, _literal(char)


def _literal(char: str) -> _Part:
    return _Escaped(char) if char in _META else _Plain(char)


@dataclass(slots=True)
class _Open:
    """A bracket being read: the items of the current operand, and what is to its left."""

    negated: bool
    items: list[nodes.SetNode] = field(default_factory=list)
    left: nodes.SetNode | None = None
    operator: _Operator = "&&"

    def operand(self) -> nodes.SetNode:
        """Everything so far, as one set; operators bind equally and to the left."""
        right: nodes.SetNode = nodes.SetUnion(tuple(self.items))
        if self.left is None:
            return right
        return nodes.SetOperation(self.operator, self.left, right)

    def operate(self, operator: _Operator) -> None:
        self.left = self.operand()
        self.operator = operator
        self.items = []


@dataclass(slots=True)
class _BracketParser:
    tokens: list[_Part]
    opening: int
    at: int = 0
    stack: list[_Open] = field(default_factory=list)

    def parse(self) -> nodes.SetNode:
        self.open()
        while True:
            char = self.plain(0)
            if self.at >= len(self.tokens):
                self.fail("[ is never closed")
            if char == "[":
                posix = self.posix()
                if posix is not None:
                    self.stack[-1].items.append(posix)
                else:
                    self.open()
            elif char == "]":
                closed = self.stack.pop()
                self.at += 1
                item = nodes.SetBracket(closed.operand(), closed.negated)
                if not self.stack:
                    break
                self.stack[-1].items.append(item)
            elif char in _OPERATORS and self.plain(1) == char:
                self.stack[-1].operate(cast(_Operator, _OPERATORS[char]))
                self.at += 2
            elif isinstance(self.tokens[self.at], nodes.SetBracket):  # \h is a nested set
                self.stack[-1].items.append(self.item())
            else:
                self.stack[-1].items.append(self.range())
        if self.at < len(self.tokens):
            self.fail("a [ between [ and ] has to be escaped here")
        return item

    def open(self) -> None:
        self.at += 1
        negated = self.plain(0) == "^"
        if negated:
            self.at += 1
        opened = _Open(negated)
        while self.plain(0) == "-":
            opened.items.append(nodes.SetRange(ord("-"), ord("-")))
            self.at += 1
        if not opened.items and self.plain(0) == "]":
            opened.items.append(nodes.SetRange(ord("]"), ord("]")))
            self.at += 1
        self.stack.append(opened)

    def posix(self) -> nodes.SetPosix | None:
        """``[:name:]`` at the current place; a wrong name makes it an ordinary nested set."""
        if self.plain(1) != ":":
            return None
        negated = self.plain(2) == "^"
        start = end = self.at + (3 if negated else 2)
        while end < len(self.tokens) and self.plain(end - self.at) != ":":
            end += 1
        name = "".join(t.char if isinstance(t, _Plain) else "?" for t in self.tokens[start:end])
        if name not in POSIX_NAMES or self.plain(end + 1 - self.at) != "]":
            return None
        self.at = end + 2
        return nodes.SetPosix(name, negated)

    def range(self) -> nodes.SetNode:
        low = self.item()
        if self.plain(0) != "-" or self.plain(1) in ("]", "-"):
            return low
        self.at += 1
        if self.at >= len(self.tokens):
            self.fail("[ is never closed")
        high = self.item()
        if not isinstance(low, nodes.SetRange) or not isinstance(high, nodes.SetRange):
            self.fail("a range needs a single character at both ends")
        if low.low > high.high:
            self.fail(f"a range that ends before it starts: {chr(low.low)}-{chr(high.high)}")
        return nodes.SetRange(low.low, high.high)

    def item(self) -> nodes.SetNode:
        token = self.tokens[self.at]
        self.at += 1
        if isinstance(token, _Plain | _Escaped):
            return nodes.SetRange(ord(token.char), ord(token.char))
        return token

    def plain(self, ahead: int) -> str:
        """The character ``ahead`` tokens on if it can have a meaning of its own, else ""."""
        at = self.at + ahead
        if at < len(self.tokens):
            token = self.tokens[at]
            if isinstance(token, _Plain):
                return token.char
        return ""

    def fail(self, reason: str) -> NoReturn:
        raise PatternError(reason, self.opening)
