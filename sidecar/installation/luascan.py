"""Finding calls like ``kumo.configure_local_logs { … }`` in a policy, without running it.

In: Lua source.  Out: the calls with the literal fields of their tables.  kumod's
``init.lua`` can't be run here, since it opens listeners and spools.  What is no
literal is left out.  Text that is no Lua gives no calls.  The grammar is that of
the Lua 5.4 manual, sections 3.1 and 3.4.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "str | float | bool | Table"
Table: TypeAlias = "Mapping[str | int, Value]"
"""Literal fields by name, or by position from 1."""

_TOKEN = re.compile(
    r"""
    (?P<comment> --\[(?P<level>=*)\[ .*? (?:\](?P=level)\]|\Z) | --[^\n]* )
  | (?P<long> \[(?P<stop>=*)\[ \n? (?P<body>.*?) (?:\](?P=stop)\]|\Z) )
  | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
  | (?P<number> (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? )
  | (?P<name> [A-Za-z_]\w* )
  | (?P<other> \S )
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u\{([0-9A-Fa-f]{1,6})\}|([0-9]{1,3})|z\s*|(.))", re.DOTALL
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Call:
    """One call with a table: the function's last name, its 1-based line, and the table's fields."""

    name: str
    line: int
    fields: Table


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def calls(source: str, *names: str) -> list[Call]:
    """The calls of functions called `names` (the last part of ``kumo.shaping.load``), in order."""
    tokens = list(_tokens(source))
    variables = _variables(tokens)
    found = []
    for at, token in enumerate(tokens):
        if token.kind != "name" or token.text not in names:
            continue
        opening = at + 1
        if _is(tokens, opening, "("):
            opening += 1
        if _is(tokens, opening, "{"):
            fields, _ = _Fields(tokens, variables).table(opening + 1, depth=0)
            found.append(Call(token.text, token.line, fields))
    return found


def _tokens(source: str) -> Iterator[_Token]:
    line, done = 1, 0
    for match in _TOKEN.finditer(source):
        line += source.count("\n", done, match.start())
        done = match.start()
        kind = match.lastgroup
        if match["comment"] is not None:
            continue
        if match["long"] is not None:
            yield _Token("string", match["body"], line)
        elif match["string"] is not None:
            yield _Token("string", _unescape(match["string"][1:-1]), line)
        else:
            yield _Token(kind or "other", match[0], line)


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        hexadecimal, unicode, decimal, other = match.groups()
        for digits, base in ((hexadecimal, 16), (unicode, 16), (decimal, 10)):
            if digits is not None:
                code = int(digits, base)
                return chr(code) if code <= 0x10FFFF else "\ufffd"
        return "" if other is None else _ESCAPES.get(other, other)

    return _ESCAPE.sub(one, text)


def _is(tokens: list[_Token], at: int, text: str) -> bool:
    return at < len(tokens) and tokens[at].kind == "other" and tokens[at].text == text


def _variables(tokens: list[_Token]) -> dict[str, str]:
    """Names that are given one text and never anything else (``local LOG_DIR = '…'``)."""
    known: dict[str, str] = {}
    changed: set[str] = set()
    for at, token in enumerate(tokens):
        if token.kind != "name" or not _is(tokens, at + 1, "=") or _is(tokens, at + 2, "="):
            continue
        value = tokens[at + 2] if at + 2 < len(tokens) else None
        whole = not _is(tokens, at + 3, ".")  # no `..` behind it
        if value is None or value.kind != "string" or not whole or token.text in known:
            changed.add(token.text)
        else:
            known[token.text] = value.text
    return {name: text for name, text in known.items() if name not in changed}


class _Fields:
    """Reads table constructors from a list of tokens."""

    def __init__(self, tokens: list[_Token], variables: Mapping[str, str]) -> None:
        self._tokens = tokens
        self._variables = variables

    def table(self, at: int, *, depth: int) -> tuple[Table, int]:
        """The fields from behind the ``{``, and where the table ends (behind its ``}``)."""
        fields: dict[str | int, Value] = {}
        position = 1
        while at < len(self._tokens) and not _is(self._tokens, at, "}"):
            key, at = self._key(at)
            if key is None:
                key, position = position, position + 1
            value, at = self._value(at, depth=depth)
            if value is not None:
                fields[key] = value
            while _is(self._tokens, at, ",") or _is(self._tokens, at, ";"):
                at += 1
        return fields, at + 1

    def _key(self, at: int) -> tuple[str | int | None, int]:
        tokens = self._tokens
        if tokens[at].kind == "name" and _is(tokens, at + 1, "=") and not _is(tokens, at + 2, "="):
            return tokens[at].text, at + 2
        bracketed = _is(tokens, at, "[") and _is(tokens, at + 2, "]") and _is(tokens, at + 3, "=")
        if bracketed and tokens[at + 1].kind == "string":
            return tokens[at + 1].text, at + 4
        return None, at

    def _value(self, at: int, *, depth: int) -> tuple[Value | None, int]:
        """A literal that is the whole value, or None; and the end of the value."""
        tokens = self._tokens
        if at >= len(tokens):
            return None, at
        value, end = self._literal(at, depth=depth)
        if any(_is(tokens, end, stop) for stop in ",;}") or end >= len(tokens):
            return value, end
        return None, self._skip(at)

    def _literal(self, at: int, *, depth: int) -> tuple[Value | None, int]:
        token = self._tokens[at]
        if token.kind == "string":
            return token.text, at + 1
        if token.kind == "number":
            return float(token.text), at + 1
        if token.kind == "name":
            if token.text in ("true", "false"):
                return token.text == "true", at + 1
            return self._variables.get(token.text), at + 1
        if _is(self._tokens, at, "{") and depth < _MAX_DEPTH:
            return self.table(at + 1, depth=depth + 1)
        return None, at

    def _skip(self, at: int) -> int:
        """Where the expression at `at` ends: at the next separator outside of brackets."""
        depth = 0
        while at < len(self._tokens):
            token = self._tokens[at]
            if token.kind == "other":
                if depth == 0 and token.text in ",;}":
                    return at
                depth += (token.text in "([{") - (token.text in ")]}")
            elif token.kind == "name":
                # A function's body has separators of its own, up to its `end`.
                depth += (token.text in ("function", "if", "do")) - (token.text == "end")
            at += 1
        return at
