"""MessagePack is read as its specification says, and never trusted."""

from __future__ import annotations

import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.store.messagepack import MAX_DEPTH, Map, MessagePackError, Reader, Value

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(min_size=30, max_size=300)
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=20)
    ),
    max_leaves=40,
)


def plain(value: Value) -> object:
    """As Python has it: maps as dictionaries."""
    if isinstance(value, Map):
        return {plain(key): plain(item) for key, item in value.pairs}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


@given(values)
def test_what_another_program_writes_is_read(value: object) -> None:
    data = msgspec.msgpack.encode(value)
    reader = Reader(data)
    assert plain(reader.value()) == value
    assert reader.offset == len(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xca\x3f\x80\x00\x00", 1.0),
        (b"\xd4\x01\xff", b"\x01\xff"),
        (b"\xd8\x01" + b"x" * 16, b"\x01" + b"x" * 16),
        (b"\xc7\x02\x05ab", b"\x05ab"),
        (b"\xc8\x00\x02\x05ab", b"\x05ab"),
        (b"\xc9\x00\x00\x00\x02\x05ab", b"\x05ab"),
        (b"\xda\x00\x02ab", "ab"),
        (b"\xdb\x00\x00\x00\x02ab", "ab"),
        (b"\xc6\x00\x00\x00\x02ab", b"ab"),
        (b"\xdd\x00\x00\x00\x01\x07", [7]),
        (b"\xdf\x00\x00\x00\x01\x07\x08", Map([(7, 8)])),
        (b"\x81\x81\x01\x02\x91\xc0", Map([(Map([(1, 2)]), [None])])),
        (b"\xa2\xff\xfe", b"\xff\xfe"),
    ],
)
def test_every_other_form_is_read(data: bytes, value: object) -> None:
    assert Reader(data).value() == value


@given(values, st.data())
def test_a_cut_is_noticed_wherever_it_is(value: object, data: st.DataObject) -> None:
    encoded = msgspec.msgpack.encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MessagePackError):
        Reader(encoded[:cut]).value()


def read_all(data: bytes) -> MessagePackError | None:
    """Read every value; the error that ended it."""
    reader = Reader(data)
    try:
        while reader.offset < len(data):
            reader.value()
    except MessagePackError as error:
        return error
    return None


@given(st.binary(max_size=400))
def test_any_bytes_are_values_or_refused(data: bytes) -> None:
    error = read_all(data)
    assert error is None or 0 <= error.offset <= len(data)


def test_nesting_has_an_end() -> None:
    deepest = b"\x91" * MAX_DEPTH + b"\x01"
    assert Reader(deepest).value() is not None
    for bomb in (b"\x91" + deepest, b"\x91" * 1_000_000, b"\x81\x01" * 1_000_000):
        with pytest.raises(MessagePackError, match="within each other"):
            Reader(bomb).value()


@pytest.mark.parametrize("kind", [0xDD, 0xDF, 0xDB, 0xC6, 0xC9])
def test_claimed_lengths_take_no_memory(kind: int) -> None:
    bomb = struct.pack(">BI", kind, 0xFFFFFFFF) * 20 + b"\x01" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(MessagePackError):
            Reader(bomb).value()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("data", [b"", b"\x93", b"\xc1", b"\xde\x00", b"\xa3ab"])
def test_what_is_no_map_has_no_header(data: bytes) -> None:
    with pytest.raises(MessagePackError):
        Reader(data).map_header()


def test_a_map_is_entered_whatever_its_size() -> None:
    for size, head in ((3, b"\x83"), (300, b"\xde\x01\x2c"), (70_000, b"\xdf\x00\x01\x11\x70")):
        reader = Reader(head + b"rest")
        assert reader.map_header() == size
        assert reader.offset == len(head)
