"""Escapes that mean the same inside and outside of ``[…]``."""

from __future__ import annotations

from . import nodes
from .charset import check_property
from .errors import PatternError

CONTROL_ESCAPES = {
    "a": "\x07",
    "e": "\x1b",
    "f": "\x0c",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\x0b",
}

HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
"""Escapes of a code point: how many hexadecimal digits follow (or any number in braces)."""

HEX_DIGIT_SET = nodes.SetUnion(
    (nodes.SetRange(0x30, 0x39), nodes.SetRange(0x41, 0x46), nodes.SetRange(0x61, 0x66))
)
"""``\\h``: a hexadecimal digit, not horizontal space as in Perl."""

_HEX = "0123456789abcdefABCDEF"
_USIZE_MAX = 2**64 - 1


def parse_decimal(source: str, at: int) -> tuple[int, int] | None:
    """The offset behind a decimal number and the number; None when there is none."""
    end = at
    while end < len(source) and source[end] in "0123456789":
        end += 1
    # int() refuses absurdly long texts, Rust numbers that don't fit a usize.
    if end == at or end - at > 40 or int(source[at:end]) > _USIZE_MAX:
        return None
    return end, int(source[at:end])


def parse_hex(source: str, at: int) -> tuple[int, str]:
    """The offset behind ``\\xHH``, ``\\uHHHH`` or ``\\x{H…}`` at ``at``, and the character."""
    digits = HEX_ESCAPES[source[at + 1]]
    start = at + 2
    text = source[start : start + digits]
    if len(text) == digits and all(c in _HEX for c in text):
        end = start + digits
    elif source.startswith("{", start):
        close = source.find("}", start)
        text = source[start + 1 : close] if close >= 0 else ""
        if not 1 <= len(text) <= 8 or not all(c in _HEX for c in text):
            raise PatternError("not a hexadecimal code point", at)
        end = close + 1
    else:
        raise PatternError("not a hexadecimal code point", at)
    value = int(text, 16)
    if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
        raise PatternError("no such code point", at)
    return end, chr(value)


def parse_property(source: str, at: int) -> tuple[int, nodes.SetProperty]:
    """The offset behind ``\\pL``, ``\\p{…}`` or ``\\P{…}`` at ``at``, and the set."""
    end = at + 3
    query = source[at + 2]
    if query == "{":
        close = source.find("}", end)
        if close < 0:
            raise PatternError("\\p{ is never closed", at)
        query = source[end:close]
        end = close + 1
    negated = source[at + 1] == "P"
    if "!=" in query:
        query = query.replace("!=", "=", 1)
        negated = not negated
    try:
        check_property(query)
    except ValueError as error:
        raise PatternError(str(error), at) from None
    return end, nodes.SetProperty(query, negated)
