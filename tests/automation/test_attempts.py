"""What is counted as an attempt, from lines and from records alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.attempts import Attempts, Detail, Run, attempts_of
from sidecar.log.record import BadLine, decode
from tests.log.support import decompress, recorded

SECOND = 1_795_360_000  # 2026-11-22T15:06:40Z


def delivery(**fields: Any) -> dict[str, Any]:
    return {
        "type": "Delivery",
        "recipient": "a@example.com",
        "queue": "camp:acme@example.com",
        "site": "ip1->mx.example.com@smtp_client",
        "response": {"code": 250, "content": "Ok"},
        "timestamp": SECOND,
        "event_time": "2026-11-22T15:06:40.123456789Z",
        "egress_source": "ip1",
    } | fields


def encoded(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def counted(data: bytes) -> Attempts:
    run = Run()
    assert run.add_lines(data) == 0
    return run.take()


def key(**parts: Any) -> tuple[str, str, str, str | None, bool, int]:
    found = {
        "queue": "ip1->mx.example.com@smtp_client",
        "source": "ip1",
        "domain": "example.com",
        "tenant": "acme",
        "delivered": True,
        "second": SECOND,
    } | parts
    return tuple(found.values())  # type: ignore[return-value]


def test_a_run_of_deliveries_is_one_entry() -> None:
    assert counted(encoded(delivery()) * 1000) == {key(): 1000}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"type": "Bounce"}, {"delivered": False}),
        ({"type": "TransientFailure"}, {"delivered": False}),
        ({"queue": "example.com"}, {"tenant": None}),
        ({"queue": "acme@example.com!route"}, {}),
        ({"queue": None}, {"tenant": None}),
        ({"queue": "camp:@example.com"}, {"tenant": ""}),
        ({"egress_source": None}, {"source": "unspecified"}),
        ({"event_time": "2026-11-22T15:06:42Z"}, {}),
        (
            {"event_time": "2026-11-22T16:06:41+01:00", "timestamp": None},
            {"second": SECOND + 1},
        ),
        ({"event_time": "2026-11-22T15:06:42.9Z", "timestamp": None}, {"second": SECOND + 2}),
        ({"event_time": None, "timestamp": SECOND + 3}, {"second": SECOND + 3}),
        ({"recipient": "<a@EXAMPLE.com>"}, {}),
        ({"recipient": '"a@b"@example.com'}, {}),
        ({"recipient": "a@[10.0.0.1]"}, {"domain": "[10.0.0.1]"}),
        ({"recipient": "postmaster"}, {"domain": ""}),
        ({"recipient": "no address"}, {"domain": ""}),
        ({"recipient": "a@two..dots"}, {"domain": ""}),
    ],
)
def test_an_attempt_is_counted_alike_from_a_line_and_from_a_record(
    fields: dict[str, Any], parts: dict[str, Any]
) -> None:
    line = encoded(delivery(**fields))
    assert counted(line) == attempts_of(decode(line)) == {key(**parts): 1}
    # The line is no other among many of the usual kind.
    both = counted(encoded(delivery(site="x")) + line)
    assert both == {key(queue="x"): 1, key(**parts): 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "Expiration"},
        {"type": "AdminBounce"},
        {"type": "OOB"},
        {"type": "Feedback"},
        {"type": "Reception"},
        {"site": ""},
        {"site": None},
        {
            "type": "TransientFailure",
            "response": {"code": 421, "content": "KumoMTA internal: no route"},
        },
        {"reception_protocol": "LogRecord"},
    ],
)
def test_what_is_no_attempt(fields: dict[str, Any]) -> None:
    line = encoded(delivery(**fields))
    assert counted(line) == attempts_of(decode(line)) == {}


def test_each_recipient_counts_for_itself() -> None:
    line = encoded(delivery(recipient=["a@example.com", "b@example.com", "c@example.net"]))
    expected = {key(): 2, key(domain="example.net"): 1}
    assert counted(line) == attempts_of(decode(line)) == expected


@pytest.mark.parametrize(
    "odd",
    [
        b"no json\n",
        b'{"type":"Delivery"}\n',
        encoded(delivery())[:-9] + b"\n",
        encoded(delivery()).replace(b"camp", b"\xff"),
        encoded(delivery()).replace(b"{", b"{\n", 1),
        encoded(delivery()).replace(b"250", b"[" * 100_000),
    ],
)
def test_a_bad_line_costs_only_itself(odd: bytes) -> None:
    run = Run()
    bad = run.add_lines(encoded(delivery()) + odd + encoded(delivery()))
    assert bad == odd.count(b"\n")
    assert run.take() == {key(): 2}
    assert run.take() == {}


def test_empty_lines_are_no_bad_ones_and_the_last_may_have_no_end() -> None:
    data = b"\n" + encoded(delivery()) + b"\n \n" + encoded(delivery())
    assert counted(data) == counted(data.rstrip()) == {key(): 2}
    assert counted(b"") == {}


def test_a_record_behind_a_header_is_found() -> None:
    line = encoded(delivery())
    assert counted(b'{"header":1}' + line + line) == {key(): 2}
    assert counted(b"header " + line) == {key(): 1}


def test_of_two_records_in_a_line_an_empty_one_beside_it_makes_no_difference() -> None:
    """The number of records is that of the lines, and yet they are not the lines."""
    other = encoded(delivery(recipient="b@example.net"))
    glued = encoded(delivery()).rstrip() + other
    assert counted(glued + b"\n") == counted(glued) == attempts_of(decode(glued))


def test_a_time_beyond_all_times_is_not_counted() -> None:
    for time in (
        {"timestamp": 10**30},
        {"timestamp": -(10**17)},
        {"timestamp": None, "event_time": "9999-01-01T00:00:00Z"},
        {"timestamp": None, "event_time": "tomorrow"},
        {"timestamp": None, "event_time": None},
    ):
        run = Run()
        run.add_line(encoded(delivery(**time)))
        assert run.take() == {}


def attempt_lines() -> st.SearchStrategy[bytes]:
    """Lines of a log, of the usual kind and of any other."""
    usual = st.fixed_dictionaries(
        {
            "recipient": st.sampled_from(["a@example.com", "b@example.net", "postmaster"]),
            "queue": st.sampled_from(["camp:acme@example.com", "beta@example.net", "x.org"]),
            "site": st.sampled_from(["ip1->mx@smtp_client", "ip2->mx@smtp_client"]),
            "timestamp": st.integers(SECOND, SECOND + 1),
        }
    )
    odd = st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["Bounce", "TransientFailure", "Reception", "OOB"]),
            "recipient": st.lists(st.sampled_from(["a@x.org", "b@Y.org"]), min_size=1),
            "queue": st.none(),
            "site": st.sampled_from([None, ""]),
            "egress_source": st.none(),
            "timestamp": st.none(),
            "response": st.just({"code": 451, "content": "KumoMTA internal: later"}),
            "reception_protocol": st.sampled_from(["ESMTP", "LogRecord"]),
        },
    )
    records = st.one_of(usual, usual, odd, st.builds(lambda a, b: a | b, usual, odd))
    lines = records.map(lambda fields: encoded(delivery(**fields)))
    return st.one_of(lines, lines, lines, st.sampled_from([b"\n", b"no json\n", b"{}\n"]))


@given(st.lists(attempt_lines(), max_size=12), st.booleans(), st.booleans())
def test_many_lines_at_once_are_counted_like_one_record_after_the_other(
    lines: list[bytes], domains: bool, tenants: bool
) -> None:
    expected: Attempts = {}
    bad = 0
    for line in filter(bytes.strip, lines):
        try:
            record = decode(line)
        except BadLine:
            bad += 1
            continue
        for (queue, source, domain, tenant, delivered, second), n in attempts_of(record).items():
            shown = domain if domains else "", tenant if tenants else None
            kind = queue, source, *shown, delivered, second
            expected[kind] = expected.get(kind, 0) + n
    run = Run(Detail(domains, tenants))
    assert run.add_lines(b"".join(lines)) == bad
    assert run.take() == expected


def test_a_real_log_with_short_deliveries_is_counted_whole() -> None:
    """Counted with zstdcat and grep: 214 deliveries, 86 refusals; 21 and 6 in one ready queue."""
    (path,) = recorded("shortdelivery")
    data = decompress(path.read_bytes())
    attempts = counted(data)
    assert sum(n for k, n in attempts.items() if k[4]) == 214
    assert sum(n for k, n in attempts.items() if not k[4]) == 86
    queue = "ip1->(mx1|mx2).comcast.net@smtp_client"
    assert [
        sum(n for k, n in attempts.items() if k[0] == queue and k[4] == delivered)
        for delivered in (True, False)
    ] == [21, 6]
    one_by_one: Attempts = {}
    for line in data.splitlines():
        for kind, count in attempts_of(decode(line)).items():
            one_by_one[kind] = one_by_one.get(kind, 0) + count
    assert attempts == one_by_one
