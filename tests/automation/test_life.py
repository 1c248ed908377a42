"""The table of an entry's life: each cell against the real core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from sidecar.automation.entries import Override
from sidecar.automation.holds import RuleHold
from sidecar.automation.life import HOW, TRANSITIONS, Event, State
from sidecar.automation.selection import Selection

from .trial import Trial, at, load

S, E = State, Event

RULES = """
[default]
max_message_rate = "100/min"
connection_limit = 5
max_connection_rate = "50/min"

[[default.automation]]
regex = "sets"
action = {SetConfig = {name = "max_connection_rate", value = "5/min"}}
duration = "10 minutes"
trigger = {Threshold = "2/min"}
sidecar.release = {deliveries = 3}

[[default.automation]]
regex = "adjusts"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "10 minutes"
trigger = {Threshold = "2/min"}
sidecar.adjust = true
sidecar.release = {deliveries = 3}

[[default.automation]]
regex = "suspends"
action = "Suspend"
duration = "2 minutes"
trigger = {Threshold = "2/min"}
sidecar.probe = {connection_limit = 1, deliveries = 3, for = "3 minutes"}

[[default.automation]]
regex = "bounces"
action = "BounceTenant"
duration = "10 minutes"
trigger = {Threshold = "2/min"}
"""
SHAPING = load(RULES)
NOTHING_LEFT = load(RULES.replace('"100/min"', '"1/min"').replace("_limit = 5", "_limit = 1"))
LOWER = load(RULES.replace('"100/min"', '"90/min"'))

ENTRY: Final[Mapping[State, tuple[str, str]]] = {
    S.IN_FORCE: ("sets", "max_connection_rate"),
    S.ADJUSTING: ("adjusts", "max_message_rate"),
    S.SUSPENDED: ("suspends", "connection_limit then"),
    S.PROBING: ("suspends", "connection_limit then"),
    S.BOUNCED: ("bounces", "bounce"),
}
"""What rule brings an entry into the state, and what the entry is called."""

WORDS: Final[Mapping[Event, str]] = {
    E.SETS: "sets",
    E.ADJUSTS: "adjusts",
    E.SUSPENDS: "suspends",
    E.SUSPENDS_LATE: "suspends",
    E.BOUNCES: "bounces",
}


class Life:
    """One entry; ``now`` is the second to which it has come."""

    def __init__(self, state: State, event: Event) -> None:
        self.trial = Trial(SHAPING)
        word = WORDS.get(event) or ENTRY.get(state, ("sets", ""))[0]
        self.word, self.name = ENTRY.get(state, (word, ""))
        if state is S.FREE:
            self.name = next(name for one, name in ENTRY.values() if one == word)
        self.now = 0
        if state is not S.FREE:
            self.strike(self.word)
        if state is S.PROBING:
            self.now = 130
            self.trial.wait(self.now)

    @property
    def state(self) -> State:
        self.trial.wait(self.now)
        return self.trial.states(self.now).get(self.name, S.FREE)

    @property
    def entry(self) -> Override:
        found = self.trial.automation.entries.get(self.trial.key(self.name))
        assert isinstance(found, Override)
        return found

    def strike(self, word: str) -> None:
        for _ in range(2):
            self.trial.match(self.now, word)


def _match(life: Life) -> None:
    life.now += 70
    life.strike(life.word)


def _late(life: Life) -> None:
    """Read 125 s after it was logged: the suspension is over, its limits are not."""
    life.now += 1
    refusals = [*life.trial.refusal(life.now - 125, "suspends")] * 2
    life.trial.hear(life.now - 125, *refusals, now=life.now)


def _too_few(life: Life) -> None:
    life.now += 65
    life.trial.match(life.now, life.word)


def _withheld(life: Life) -> None:
    life.now += 1
    wide = Selection(sites=("*",))
    life.trial.automation.hold(RuleHold(99, wide, at(life.now), at(life.now + 9), "all"))
    life.strike(life.word)


def _delivered(life: Life) -> None:
    life.now += 1
    life.trial.deliver(life.now, 2)


def _proven(life: Life) -> None:
    life.now += 1
    life.trial.deliver(life.now, 3)


def _step(life: Life) -> None:
    before = life.entry.at(at(life.now)).value
    life.now += 130
    assert life.entry.at(at(life.now)).value != before


def _over(life: Life) -> None:
    if life.name == "connection_limit then" and life.state is S.SUSPENDED:
        # The limit outlasts the suspension, of which this is the end.
        life.name = "suspension"
    entry = life.trial.automation.entries.get(life.trial.key(life.name))
    assert entry is not None
    life.now = (entry.expires_ns - at(0)) // 10**9


def _probe_begins(life: Life) -> None:
    life.now += 120


def _cancelled(life: Life) -> None:
    life.trial.cancel(life.now, life.trial.key(life.name))


def _refitted(life: Life) -> None:
    life.trial.reload(life.now, LOWER)
    assert life.entry.baseline == "90/min"


def _nothing_left(life: Life) -> None:
    (ended,) = life.trial.reload(life.now, NOTHING_LEFT).ended
    assert ended.how == "outdated"


HAPPENS: Final[Mapping[Event, Callable[[Life], None]]] = {
    E.SETS: _match,
    E.ADJUSTS: _match,
    E.SUSPENDS: _match,
    E.SUSPENDS_LATE: _late,
    E.BOUNCES: _match,
    E.TOO_FEW: _too_few,
    E.WITHHELD: _withheld,
    E.DELIVERED: _delivered,
    E.PROVEN: _proven,
    E.STEP: _step,
    E.BASELINE_REACHED: _over,
    E.PROBE_BEGINS: _probe_begins,
    E.EXPIRED: _over,
    E.CANCELLED: _cancelled,
    E.REFITTED: _refitted,
    E.NOTHING_LEFT: _nothing_left,
}

CELLS = [
    pytest.param(state, event, after, id=f"{state.value}, {event.name.lower()}")
    for state, events in TRANSITIONS.items()
    for event, after in events.items()
]


def test_every_state_and_every_event_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {event for events in TRANSITIONS.values() for event in events} == set(Event)
    assert HAPPENS.keys() == set(Event)


@pytest.mark.parametrize(("state", "event", "after"), CELLS)
def test_the_core_does_what_the_table_says(state: State, event: Event, after: State) -> None:
    life = Life(state, event)
    assert life.state is state
    HAPPENS[event](life)
    assert life.state is after
    if state is not S.FREE and after is S.FREE:
        assert life.trial.ended[-1] == (life.name, HOW[event])


@pytest.mark.parametrize("state", [S.SUSPENDED, S.BOUNCED])
def test_what_holds_mail_is_proven_by_none(state: State) -> None:
    life = Life(state, E.PROVEN)
    _proven(life)
    assert life.state is state
