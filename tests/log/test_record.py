"""A line of the log becomes a record, or a bad line with a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.log.record import UNSPECIFIED_SOURCE, BadLine, Record, decode
from tests.kumod_writer import record

from .support import decompress, recorded


def line(**fields: Any) -> bytes:
    return json.dumps(record(7, **fields)).encode()


def without(*names: str) -> bytes:
    values = record(7)
    for name in names:
        del values[name]
    return json.dumps(values).encode()


def test_the_fields_that_rules_can_see_are_read() -> None:
    assert decode(line()) == Record(
        type="TransientFailure",
        recipients=("user7@comcast.net",),
        queue="camp2:tenant0@comcast.net",
        site="ip2->(mx1|mx2).comcast.net@smtp_client",
        egress_source="ip2",
        code=421,
        enhanced="4.1.0",
        content="10.0.0.1 Throttled - try again later #RL000007",
        time_ns=1795360648_222040083,
        reception_protocol="HTTP",
        classification="Uncategorized",
        timestamp=1795360648,
    )


def test_every_recorded_line_of_plain_segments_is_a_record() -> None:
    for path in recorded("plain") + recorded("suffix"):
        for text in decompress(path.read_bytes()).splitlines():
            assert decode(text).type == json.loads(text)["type"]


def test_several_recipients_come_in_their_order() -> None:
    assert decode(line(recipient=["a@x.example", "b@x.example"])).recipients == (
        "a@x.example",
        "b@x.example",
    )


@pytest.mark.parametrize("source", [None, "absent"])
def test_a_record_without_a_source_has_the_unspecified_one(source: str | None) -> None:
    text = line(egress_source=None) if source is None else without("egress_source")
    assert decode(text).egress_source == UNSPECIFIED_SOURCE


def test_the_event_time_wins_over_the_timestamp() -> None:
    assert decode(line(timestamp=1)).time_ns == 1795360648_222040083
    assert decode(line(timestamp=17, event_time=None)).time_ns == 17_000_000_000
    assert decode(without("event_time")).time_ns == 1795360648_000000000
    assert decode(without("timestamp")).time_ns == 1795360648_222040083


def test_what_is_absent_without_harm_is_tolerated() -> None:
    got = decode(without("queue", "site", "egress_source", "reception_protocol", "event_time"))
    assert (got.queue, got.site, got.reception_protocol) == ("", "", None)
    assert decode(line(response={"code": 250})).content == ""
    assert decode(line(response={"code": 250})).enhanced is None


@pytest.mark.parametrize("name", ["type", "recipient", "response"])
def test_a_line_without_a_field_that_matters_is_bad(name: str) -> None:
    with pytest.raises(BadLine, match=name):
        decode(without(name))


def test_a_line_without_any_time_is_bad() -> None:
    with pytest.raises(BadLine, match="timestamp"):
        decode(without("timestamp", "event_time"))


@pytest.mark.parametrize(
    "fields",
    [
        {"recipient": []},
        {"recipient": [1]},
        {"recipient": None},
        {"type": 3},
        {"timestamp": "now", "event_time": None},
        {"timestamp": 1e300, "event_time": None},
        {"timestamp": 10**30, "event_time": None},
        {"timestamp": 253402300799, "event_time": None},
        {"event_time": "yesterday"},
        {"event_time": "9999-12-31T23:59:59Z"},
        {"response": {"code": -1}},
        {"response": {"code": 70000}},
        {"response": {"code": "421"}},
        {"response": {"code": 421, "content": None}},
        {"response": {"code": 421, "enhanced_code": {"class": 4}}},
        {"response": {"code": 421, "enhanced_code": {"class": 999, "subject": 1, "detail": 1}}},
        {"response": None},
    ],
)
def test_wrong_types_and_absurd_values_make_a_line_bad(fields: dict[str, Any]) -> None:
    with pytest.raises(BadLine):
        decode(line(**fields))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"   \n",
        b"DELIVERED 17ccf7a6 to user@corp1.example: Ok",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"type":"Bounce","x":' + b"[" * 100_000,
        b'{"type":' * 10_000,
        b"\x00" * 100,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_record_is_bad(text: bytes) -> None:
    with pytest.raises(BadLine):
        decode(text)


def test_invalid_utf8_is_bad_even_in_a_field_nobody_reads() -> None:
    with pytest.raises(BadLine, match="UTF-8"):
        decode(line().replace(b"Offer 7", b"Offer \xff"))
    with pytest.raises(BadLine, match="UTF-8"):
        decode(line().replace(b"Throttled", b"Throttl\xe9d"))


def test_a_lone_surrogate_is_bad() -> None:
    with pytest.raises(BadLine):
        decode(line().replace(b"Throttled", rb"\ud800"))
    with pytest.raises(BadLine):
        decode(line().replace(b"Throttled", rb"\udc00 x"))


def test_unknown_types_are_left_to_those_who_know() -> None:
    assert decode(line(type="Invented")).type == "Invented"


@pytest.mark.parametrize(
    "header",
    [
        b'{"note": "json, but no record"}',
        b"# id recipient response",
        b'{"type":"header","recipient":"none"}',
        b"\xef\xbb\xbf",
        b'{"type":',
    ],
)
def test_a_record_glued_behind_a_header_is_read(header: bytes) -> None:
    assert decode(header + line()) == decode(line())
    assert decode(header + line().replace(b'{"type": ', b'{ "type" :')) == decode(line())


def test_a_record_inside_another_record_is_not_taken_for_one() -> None:
    inner = line().decode()
    outer = line(meta={"note": inner, "nested": json.loads(inner)}, recipient=["outer@x.example"])
    assert decode(outer).recipients == ("outer@x.example",)
    with pytest.raises(BadLine):
        decode(outer[:-5])


def test_the_line_end_may_be_there() -> None:
    assert decode(line() + b"\n") == decode(line() + b"\r\n") == decode(line())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = (
    *("type", "recipient", "queue", "site", "egress_source", "response"),
    *("timestamp", "event_time", "reception_protocol", "meta"),
)


def attempt(text: bytes) -> Record | str:
    """The record, or why it is none."""
    try:
        return decode(text)
    except BadLine as error:
        return str(error)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, JSON)))
def test_any_json_is_a_record_or_bad_and_a_record_can_be_written(fields: dict[str, Any]) -> None:
    got = attempt(msgspec.json.encode({**record(1), **fields}))
    assert got
    if isinstance(got, Record):
        for value in (got.type, got.queue, got.site, got.content, *got.recipients):
            value.encode("utf-8")
        assert -(2**63) < got.time_ns < 2**63


@given(st.binary(max_size=60), st.integers(0, 700), st.integers(0, 60))
def test_any_bytes_are_a_record_or_bad(noise: bytes, at: int, cut: int) -> None:
    assert attempt(line()[:at] + noise + line()[at + cut :])
