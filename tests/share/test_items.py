"""Entries of the stream, there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.share import Item, Portion
from sidecar.share.items import arguments, read_entry

FIELDS = [b"v", b"1", b"host", b"mx1", b"segment", b"s", b"line", b"3", b"kind", b"line"]
FIELDS += [b"n", b"7", b"data", b"{}"]


def test_an_entry() -> None:
    assert read_entry(FIELDS, longest=10) == ("mx1", "s", 3, "line", b"{}", 0, 7)


@given(
    st.lists(st.binary(max_size=4)),
    st.dictionaries(st.integers(0, 13), st.one_of(st.none(), st.binary(max_size=20)), max_size=3),
)
def test_whatever_it_is_it_is_an_entry_or_a_reason(
    more: list[bytes], other: dict[int, bytes | None]
) -> None:
    fields: list[object] = [*FIELDS, *more]
    for index, value in other.items():
        fields[index] = value if value is not None else b""
    found = read_entry(fields, longest=10)
    assert isinstance(found, str) or (found.line >= 0 and found.host.isprintable())
    nothings: tuple[object, ...] = (None, b"x", more, {})
    for what in nothings:
        assert isinstance(read_entry(what, longest=10), str)


def test_the_arguments_of_a_portion() -> None:
    items = (Item(4, "line", b"{}"), Item(5, "line", b"too long"), Item(6, "attempts", b"1"))
    assert arguments(Portion("s", 3, 6, items), longest=5) == [
        *(b"4", b"line", b"{}", b"3"),
        *(b"6", b"attempts", b"1", b"3"),
    ]
