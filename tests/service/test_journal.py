"""One line when an episode begins, one when it ends; a storm is summed up."""

from __future__ import annotations

import io

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import ReadyQSuspension
from sidecar.automation.episodes import Cause, Ended, Episode
from sidecar.service.journal import LINES_A_SECOND, Journal
from sidecar.service.logging import Log
from sidecar.times import NS

NOW = 1_795_361_800 * NS
CAUSE = Cause("TransientFailure", "421 slow down", "a.example", "ip1", NOW)
STORY = Episode(
    id=7, began_ns=NOW, matches=3, file="/etc/shaping.toml", line=12, first=CAUSE, latest=CAUSE
)
ENTRY = ReadyQSuspension("a" * 64, "ip1->mx.a.example@smtp_client", "why", NOW + 60 * NS, 1, "ip1")


def lines(*outcomes: tuple[Outcome, int], sum_up: int | None = None) -> list[str]:
    stream = io.StringIO()
    journal = Journal(Log(stream=stream, clock=lambda: NOW))
    for outcome, at_ns in outcomes:
        journal.tell(outcome, at_ns)
    if sum_up is not None:
        journal.sum_up(sum_up)
    return stream.getvalue().splitlines()


def test_the_beginning_says_what_where_why_and_until_when() -> None:
    (line,) = lines((Outcome(began=[(ENTRY, STORY)]), NOW))
    assert line == (
        'INFO rule struck id=7 does="suspend the ready queue ip1->mx.a.example@smtp_client" '
        "rule=/etc/shaping.toml:12 until=2026-11-22T15:37:40Z domain=a.example source=ip1 "
        'response="421 slow down"'
    )


def test_the_end_says_how_and_by_whom() -> None:
    ended = Ended(ENTRY, STORY, NOW, "cancelled", "root", "a mistake")
    (line,) = lines((Outcome(ended=[ended]), NOW))
    assert line.startswith("INFO ended id=7 ")
    assert line.endswith('how=cancelled matches=3 by=root reason="a mistake"')


def test_a_storm_is_summed_up() -> None:
    storm = Outcome(began=[(ENTRY, STORY)] * 500, ended=[Ended(ENTRY, STORY, NOW, "expired")] * 3)
    told = lines((storm, NOW), sum_up=NOW + NS)
    assert len(told) == LINES_A_SECOND + 1
    assert told[-1].startswith("INFO more episodes than are listed here began=490 ended=3 ")


def test_what_was_left_out_is_said_before_the_next_second_s_lines() -> None:
    storm = Outcome(began=[(ENTRY, STORY)] * 11)
    told = lines((storm, NOW), (Outcome(began=[(ENTRY, STORY)]), NOW + NS))
    assert len(told) == LINES_A_SECOND + 2
    assert "began=1 ended=0" in told[-2]
    assert lines((Outcome(), NOW), sum_up=NOW + NS) == []
