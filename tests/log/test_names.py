"""A segment's name tells when it was opened and which series it belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.log.names import SegmentName, parse_name
from tests.kumod_writer import segment_name

AT = 1795361011_215735196


@pytest.mark.parametrize(
    ("name", "opened_ns", "suffix", "series"),
    [
        ("20261122-152331.215735196", AT, "", ""),
        ("20261122-152331.215735196_all", AT, "_all", "_all"),
        ("20261122-152331.215735196_all.gz", AT, "_all.gz", "_all"),
        ("20261122-152331.215735196.zst.old", AT, ".zst.old", ""),
        ("20261122-152331.csv", AT - 215735196, ".csv", ""),
        ("archive-20261122-152331.215735196", AT, "", ""),
        ("20261122-152331.2157", AT - 35196, "", ""),
        ("20261122-152331", AT - 215735196, "", ""),
        ("20261322-152331.215735196", None, "", ""),
        ("20261122-152361.215735196", None, "", ""),
        ("120261122-152331.215735196", None, "", ""),
        ("kumomta.log", None, "", ""),
        ("", None, "", ""),
    ],
)
def test_names(name: str, opened_ns: int | None, suffix: str, series: str) -> None:
    parsed = parse_name(name)
    assert parsed == SegmentName(opened_ns, suffix)
    assert parsed.series == series
    assert parsed.identity == (None if opened_ns is None else (opened_ns, series))


@given(st.integers(0, 4 * 10**18), st.sampled_from(["", "_all", "-deferred", ".csv"]))
def test_every_name_that_kumod_gives_is_read_back(at_ns: int, suffix: str) -> None:
    assert parse_name(segment_name(at_ns, suffix)) == SegmentName(at_ns, suffix)


@given(st.text())
def test_any_name_can_be_parsed(name: str) -> None:
    assert parse_name(name).suffix in name
