"""The page and its document, as served."""

from __future__ import annotations

import http.client
import json
from typing import Any

from sidecar.automation.entries import Entry, Override, ReadyQSuspension, SchedQBounce
from sidecar.automation.episodes import Cause, Ended, Episode
from sidecar.publish import page
from sidecar.publish.http import Endpoint
from sidecar.times import NS
from tests.automation.trial import Trial, at, load

AT = 1_700_000_000 * NS


def test_the_page_comes_with_a_policy_that_lets_nothing_else_in(endpoint: Endpoint) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy == page.policy(body)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for outside in (b"http:", b"https:", b"innerHTML", b"style=", b"onclick"):
        assert outside not in body


def test_the_document_names_entries_of_every_kind() -> None:
    common: Any = {"action_hash": "a", "reason": "r" * 100_000, "expires_ns": AT, "seq": 1}
    entries: list[Entry] = [
        Override(site="s", domain="d", mx_rollup=True, source="ip", name="n", value=3, **common),
        ReadyQSuspension(site="q", source="ip", **common),
        SchedQBounce(site="q", domain="d", tenant="t", campaign=None, **common),
    ]
    status = {"version": "1", "state": "running", "newest_record": None, "bytes_waiting": 5}
    cause = Cause("TransientFailure", "421 slow", "d", "ip", AT)
    story = Episode(4, AT, 3, "rules.toml", 7, "throttle", latest=cause)
    past = [Ended(entries[1], Episode(3, 0, 1), AT + NS, "cancelled", "root")]
    told = [(entries[0], story), *((entry, None) for entry in entries[1:])]
    said = json.loads(page.document(status, told, total=7, at_ns=AT, ended=past))
    override, ready, bounce = said["in_force"]
    assert override["what"] == {"option": "n", "value": 3}
    assert (override["kind"], override["domain"], override["source"]) == ("override", "d", "ip")
    assert (ready["kind"], ready["site"], ready["source"]) == ("ready_q", "q", "ip")
    assert (bounce["tenant"], bounce["campaign"]) == ("t", None)
    assert len(override["reason"]) == 500
    assert override["expires"] == said["at"] == "2023-11-14T22:13:20Z"
    assert (said["in_force_total"], said["bytes_waiting"]) == (7, 5)
    assert (override["id"], override["matches"]) == (4, 3)
    assert override["rule"] == {"name": "throttle", "file": "rules.toml", "line": 7}
    assert override["began"] == override["cause"]["at"] == "2023-11-14T22:13:20Z"
    assert override["cause"]["response"] == "421 slow"
    (ended,) = said["ended"]
    assert (ended["id"], ended["kind"], ended["began"]) == (3, "ready_q", None)
    assert (ended["ended"], ended["how"]) == ("2023-11-14T22:13:21Z", "cancelled")


def test_the_document_says_how_it_stands_and_what_comes_next() -> None:
    trial = Trial(
        load(
            """
[default]
max_message_rate = "100/min"
[[default.automation]]
regex = "busy"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 hour"
sidecar.adjust = true
sidecar.release = {deliveries = 5}
[[default.automation]]
regex = "blocked"
action = "Suspend"
duration = "1 minute"
sidecar.probe = {connection_limit = 1}
"""
        )
    )
    trial.match(0, "busy")
    trial.match(0, "blocked")
    trial.deliver(2, 3)
    told = [(e, trial.automation.episodes[e.key]) for e in trial.automation.entries]

    def said(second: int) -> list[Any]:
        found: list[Any] = json.loads(page.document({}, told, total=3, at_ns=at(second)))[
            "in_force"
        ]
        return found

    adjusting, suspension, limit = said(10)
    assert adjusting["state"] == "adjusting"
    assert adjusting["deliveries"] == {"of": 5, "so_far": 3}
    assert (adjusting["baseline"], adjusting["next"][0]["value"]) == ("100/min", "80/m")
    assert (suspension["state"], limit["state"]) == ("suspended", "suspended")
    assert said(60)[2]["state"] == "probing"
