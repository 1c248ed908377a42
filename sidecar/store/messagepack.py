"""A reader for MessagePack that damaged and hostile files can't hurt.

In: bytes.  Out: values, one after another.  Libraries decode a file as a whole
or not at all and give room to whatever length it claims; this reader hands on
what comes before the damage, takes memory in proportion to the bytes there
are, and knows maps as keys of maps, which kumo-tsa-daemon writes.

Source: the MessagePack specification (github.com/msgpack/msgpack, spec.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

MAX_DEPTH = 32
"""Lists and maps within each other.  kumo-tsa-daemon's files have five."""

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | Map | None"


@dataclass(frozen=True, slots=True)
class Map:
    """A map as the file has it: keys may be anything, and the same one twice."""

    pairs: list[tuple[Value, Value]]


class MessagePackError(ValueError):
    """From :attr:`offset` on the bytes are no MessagePack, or end too early."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset


# By type byte: how a number is packed, and how many bytes of length precede the rest.
_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_BINARY, _EXTENSION, _TEXT = (0xC4, 0xC5, 0xC6), (0xC7, 0xC8, 0xC9), (0xD9, 0xDA, 0xDB)
_ARRAY, _MAP = (0xDC, 0xDD), (0xDE, 0xDF)
_LENGTH_BYTES = {
    kind: size
    for kinds, sizes in (
        (_BINARY, (1, 2, 4)),
        (_EXTENSION, (1, 2, 4)),
        (_TEXT, (1, 2, 4)),
        (_ARRAY, (2, 4)),
        (_MAP, (2, 4)),
    )
    for kind, size in zip(kinds, sizes, strict=True)
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class Reader:
    """Reads `data` from its start; every method raises MessagePackError at damage."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0
        """Where the next value begins."""

    def map_header(self) -> int:
        """Enter a map: how many pairs of values follow, as it claims."""
        start = self.offset
        kind = self._byte()
        if 0x80 <= kind <= 0x8F:
            return kind & 0x0F
        if kind in _MAP:
            return self._length(kind)
        raise MessagePackError(start, "a map was expected")

    def value(self) -> Value:
        """The next value, whole.  Text that is no UTF-8 comes as bytes."""
        return self._value(0)

    def _value(self, depth: int) -> Value:
        start = self.offset
        if depth > MAX_DEPTH:
            raise MessagePackError(start, f"more than {MAX_DEPTH} lists or maps within each other")
        kind = self._byte()
        if kind <= 0x7F:
            return kind
        if kind >= 0xE0:
            return kind - 0x100
        if kind <= 0x8F:
            return self._map(kind & 0x0F, depth)
        if kind <= 0x9F:
            return self._array(kind & 0x0F, depth)
        if kind <= 0xBF:
            return self._text(kind & 0x1F)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if (number := _NUMBERS.get(kind)) is not None:
            (unpacked,) = number.unpack(self._take(number.size))
            assert isinstance(unpacked, int | float)
            return unpacked
        return self._long(start, kind, depth)

    def _long(self, start: int, kind: int, depth: int) -> Value:
        if 0xD4 <= kind <= 0xD8:
            return self._take(1 + (1 << (kind - 0xD4)))
        if kind not in _LENGTH_BYTES:
            raise MessagePackError(start, f"0x{kind:02x} begins no value")
        length = self._length(kind)
        if kind in _BINARY:
            return self._take(length)
        if kind in _EXTENSION:
            return self._take(1 + length)
        if kind in _TEXT:
            return self._text(length)
        if kind in _ARRAY:
            return self._array(length, depth)
        return self._map(length, depth)

    def _array(self, length: int, depth: int) -> Value:
        self._check(length)
        return [self._value(depth + 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> Value:
        self._check(2 * length)
        return Map(
            [(self._value(depth + 1), self._value(depth + 1)) for _ in range(length)],
        )

    def _check(self, values: int) -> None:
        # A value takes a byte at least, so a claim past the end fails before any work.
        if values > len(self._data) - self.offset:
            raise MessagePackError(self.offset, f"{values} values claimed, the file ends before")

    def _text(self, length: int) -> Value:
        raw = self._take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw

    def _length(self, kind: int) -> int:
        return int.from_bytes(self._take(_LENGTH_BYTES[kind]), "big")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self._data):
            raise MessagePackError(self.offset, f"{count} bytes wanted, the file ends before")
        taken = self._data[self.offset : end]
        self.offset = end
        return taken
