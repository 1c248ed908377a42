"""The table of a segment's life, cell by cell."""

from __future__ import annotations

import pytest

from sidecar.log.states import (
    HAS_NO_NAME,
    HAS_OPEN_FILE,
    IS_COMPLETE,
    Event,
    ImpossibleEventError,
    State,
    first_state,
    next_state,
)

LEGAL = """
    WAITING            OPENED         OPEN
    WAITING            ALREADY_READ   COMPLETE
    WAITING            VANISHED       MISSING
    WAITING            CHANGED        IN_DOUBT
    WAITING            RECOGNISED     WAITING
    WAITING            REPLACED       WAITING
    WAITING            NOT_SUPPORTED  UNSUPPORTED
    WAITING            COPY_FOUND     COPY
    OPEN               CLOSED         WAITING
    OPEN               ENDED          COMPLETE
    OPEN               VANISHED       MOVED
    COMPLETE           GROWN          WAITING
    COMPLETE           VANISHED       GONE
    COMPLETE           CHANGED        COMPLETE_IN_DOUBT
    COMPLETE           DROPPED        FORGOTTEN
    IN_DOUBT           VANISHED       MISSING
    IN_DOUBT           CHANGED        IN_DOUBT
    IN_DOUBT           RECOGNISED     WAITING
    IN_DOUBT           REPLACED       WAITING
    IN_DOUBT           NOT_SUPPORTED  UNSUPPORTED
    COMPLETE_IN_DOUBT  VANISHED       GONE
    COMPLETE_IN_DOUBT  CHANGED        COMPLETE_IN_DOUBT
    COMPLETE_IN_DOUBT  RECOGNISED     COMPLETE
    COMPLETE_IN_DOUBT  REPLACED       WAITING
    COMPLETE_IN_DOUBT  NOT_SUPPORTED  COMPLETE
    COPY               ALREADY_READ   COMPLETE
    COPY               ORIGINAL_GONE  WAITING
    COPY               DROPPED        FORGOTTEN
    UNSUPPORTED        VANISHED       MISSING
    UNSUPPORTED        CHANGED        IN_DOUBT
    MISSING            APPEARED       IN_DOUBT
    MISSING            GRACE_OVER     GONE
    MISSING            DROPPED        FORGOTTEN
    MOVED              CLOSED         MISSING
    MOVED              GRACE_OVER     DELETED
    DELETED            CLOSED         MISSING
    DELETED            ENDED          GONE
    GONE               APPEARED       COMPLETE_IN_DOUBT
    GONE               DROPPED        FORGOTTEN
"""

EXPECTED = {
    (State[state], Event[event]): State[after]
    for state, event, after in (line.split() for line in LEGAL.split("\n") if line.strip())
}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_each_event_in_each_state_leads_where_it_should_or_is_refused(
    state: State, event: Event
) -> None:
    after = EXPECTED.get((state, event))
    if after is not None:
        assert next_state(state, event) is after
        return
    with pytest.raises(ImpossibleEventError, match=f"{event.name} can't .* {state.name}"):
        next_state(state, event)


def test_every_state_can_be_reached_and_only_what_is_forgotten_stays_as_it_is() -> None:
    reached = {first_state(has_file=f, complete=c) for f in (True, False) for c in (True, False)}
    while more := {after for (state, _), after in EXPECTED.items() if state in reached} - reached:
        reached |= more
    assert reached == set(State)
    left = {state for (state, _), after in EXPECTED.items() if after is not state}
    assert set(State) - left == {State.FORGOTTEN}


def test_only_an_event_of_its_name_takes_a_segments_name_or_gives_it_back() -> None:
    for (state, event), after in EXPECTED.items():
        changes = (state in HAS_NO_NAME) != (after in HAS_NO_NAME) and after is not State.FORGOTTEN
        assert changes == (event in {Event.VANISHED, Event.APPEARED})


def test_a_file_is_opened_and_closed_by_events_of_that_name_only() -> None:
    for (state, event), after in EXPECTED.items():
        changes = (state in HAS_OPEN_FILE) != (after in HAS_OPEN_FILE)
        assert changes == (event in {Event.OPENED, Event.CLOSED, Event.ENDED})


def test_what_is_complete_is_read_again_only_where_it_has_grown_or_is_another() -> None:
    for (state, event), after in EXPECTED.items():
        if state in IS_COMPLETE and after not in IS_COMPLETE | {State.FORGOTTEN}:
            assert event in {Event.GROWN, Event.REPLACED}
