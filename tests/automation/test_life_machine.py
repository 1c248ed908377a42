"""Whatever happens in whatever order: the core keeps to the table and to its promises."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Any, Final, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.automation.attempts import Attempts
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.automation.episodes import Episode
from sidecar.automation.holds import RuleHold
from sidecar.automation.life import TRANSITIONS, Event, State, state_of
from sidecar.automation.matching import Candidate
from sidecar.automation.selection import Selection
from sidecar.shaping.amounts import amount

from .trial import Trial, at, called, deliveries, load

S, E = State, Event

RULES = """
[default]
max_message_rate = "{rate}"
connection_limit = {limit}
max_connection_rate = "50/min"

[[default.automation]]
regex = "sets"
action = {{SetConfig = {{name = "max_connection_rate", value = "5/min"}}}}
duration = "10 minutes"
trigger = {{Threshold = "2/min"}}
sidecar.release = {{deliveries = 3}}

[[default.automation]]
regex = "adjusts"
action = {{SetConfig = {{name = "max_message_rate", value = "4/min"}}}}
duration = "10 minutes"
[default.automation.sidecar]
adjust = true
release = {{deliveries = 4}}

[[default.automation]]
regex = "suspends"
action = "Suspend"
duration = "2 minutes"
[default.automation.sidecar]
probe = {{connection_limit = 1, max_message_rate = "10/min", deliveries = 5, for = "3 minutes"}}
escalate = {{factor = 2, max = "10 minutes", forget = "10 minutes"}}

[[default.automation]]
regex = "bounces"
action = "BounceTenant"
duration = "3 minutes"
"""
LIMITS: Final = ("connection_limit", "max_message_rate")
WORDS: Final = ("sets", "adjusts", "suspends", "bounces")
SHAPINGS = (
    load(RULES.format(rate="100/min", limit=5)),
    load(RULES.format(rate="60/min", limit=1)),
    load(RULES.format(rate="8/min", limit=5)),
)

Step: TypeAlias = tuple[str, Any]

matches = st.tuples(st.just("match"), st.sampled_from(WORDS))
delivered = st.tuples(st.just("deliver"), st.integers(1, 6))
waits = st.tuples(st.just("wait"), st.sampled_from((1, 20, 59, 60, 90, 120, 200, 700)))
operators = st.one_of(
    st.tuples(st.just("cancel"), st.integers(0, 4)),
    st.tuples(st.just("hold"), st.integers(0, 90)),
    st.tuples(st.just("reload"), st.sampled_from((0, 1, 2))),
)
courses_of_events = st.lists(st.one_of(matches, matches, delivered, waits, operators), max_size=25)


class Run:
    """A trial, and the second to which it has come."""

    def __init__(self) -> None:
        self.trial = Trial(SHAPINGS[0])
        self.now = 0
        self.holds = 0

    def do(self, step: Step) -> None:
        what, how = step
        trial = self.trial
        if what == "match":
            trial.match(self.now, how)
        elif what == "deliver":
            trial.deliver(self.now, how)
        elif what == "wait":
            self.now += how
            trial.wait(self.now)
        elif what == "reload":
            trial.reload(self.now, SHAPINGS[how])
        elif what == "cancel":
            # A suspension with its limits, or something else: not a limit alone.
            found = [e for e in trial.automation.entries if not is_limit(e)]
            trial.cancel(self.now, *(e.key for e in found[how : how + 1]))
        else:
            self.holds += 1
            span = at(self.now), at(self.now + how)
            trial.automation.hold(RuleHold(self.holds, Selection(sites=("*",)), *span, "all"))

    def late(self, happened: Iterable[Candidate | Attempts], now: int) -> None:
        """Have it decided at `now`, and nothing ended before that might have been."""
        automation = self.trial.automation
        self.trial.commit(automation.apply(happened, mx={}, now_ns=at(now)))

    def crash(self) -> None:
        """Holds are committed by whoever orders them."""
        held = list(self.trial.automation.holds)
        self.trial.crash(self.now)
        for hold in held:
            self.trial.automation.hold(hold)

    @property
    def entries(self) -> dict[str, tuple[Entry, Episode]]:
        automation = self.trial.automation
        return {e.key: (e, automation.episodes[e.key]) for e in automation.entries}

    @property
    def suspensions(self) -> list[ReadyQSuspension]:
        return [e for e, _ in self.entries.values() if isinstance(e, ReadyQSuspension)]

    @property
    def limits(self) -> dict[str, int]:
        """From when on limits are for after a suspension, by option."""
        found = (e for e, _ in self.entries.values() if isinstance(e, Override))
        return {e.name: e.probe.from_ns for e in found if e.probe is not None}

    @property
    def state(self) -> object:
        """All that decides what happens next."""
        automation = self.trial.automation
        windows = {scope: dict(window.items()) for scope, window in automation.thresholds.scopes()}
        return (
            self.entries,
            windows,
            dict(automation.offences.items()),
            automation.seq,
            automation.episode_id,
        )


def is_limit(entry: Entry) -> bool:
    return isinstance(entry, Override) and entry.probe is not None


def states(run: Run) -> dict[str, State]:
    return {key: state_of(entry, at(run.now)) for key, (entry, _) in run.entries.items()}


MAY: Final = {
    "match": {E.SETS, E.ADJUSTS, E.SUSPENDS, E.BOUNCES, E.TOO_FEW, E.WITHHELD},
    "deliver": {E.DELIVERED, E.PROVEN},
    "wait": {E.STEP, E.BASELINE_REACHED, E.PROBE_BEGINS, E.EXPIRED},
    "reload": {E.REFITTED, E.NOTHING_LEFT},
    "cancel": {E.CANCELLED},
    "hold": set[Event](),
}
"""Which events a step may be for an entry."""


@settings(max_examples=80, deadline=None)
@given(courses_of_events)
def test_no_step_leads_where_the_table_does_not(steps: list[Step]) -> None:
    run = Run()
    for step in steps:
        before = states(run)
        run.do(step)
        after = states(run)
        for key in before.keys() | after.keys():
            one, other = before.get(key, S.FREE), after.get(key, S.FREE)
            assert one is other or _reachable(one, other, MAY[step[0]])


def _reachable(one: State, other: State, events: set[Event]) -> bool:
    """By some of `events`, several of which may fall into one wait."""
    nexts = {TRANSITIONS[one][event] for event in events if event in TRANSITIONS[one]}
    return other in nexts or any(
        next_ is not one and _reachable(next_, other, events) for next_ in nexts - {S.FREE}
    )


@settings(max_examples=80, deadline=None)
@given(courses_of_events)
def test_what_is_published_is_never_above_what_the_files_set(steps: list[Step]) -> None:
    run = Run()
    for step in steps:
        run.do(step)
        path = run.trial.shaping.egress_path("example.com", "ip1", "mx.example.net", None)
        for name, value in run.trial.options().items():
            assert amount(name, value) < amount(name, path[name].value)
        for entry, _ in run.entries.values():
            course = entry.course if isinstance(entry, Override) else None
            if course is not None and isinstance(entry, Override):
                now = amount(entry.name, entry.at(at(run.now)).value)
                assert course.floor <= now * 1.001
                assert now <= course.baseline


@settings(max_examples=80, deadline=None)
@given(courses_of_events)
def test_a_suspension_always_has_the_limits_for_the_time_after_it(steps: list[Step]) -> None:
    run, reloaded = Run(), False
    for step in steps:
        run.do(step)
        reloaded |= step[0] == "reload"
        for suspension in run.suspensions:
            since = run.limits
            # One that the files came down to is gone, and comes back with a match at the earliest.
            wanted = since.keys() if reloaded else LIMITS
            assert since == dict.fromkeys(wanted, suspension.expires_ns)


@settings(max_examples=60, deadline=None)
@given(courses_of_events, st.lists(st.integers(0, 200), min_size=2, max_size=20))
def test_without_matches_limits_only_go_up(steps: list[Step], later: list[int]) -> None:
    run = Run()
    for step in steps:
        run.do(step)
    rates = []
    for seconds in later:
        run.do(("wait", seconds))
        adjusting = [e for e, _ in run.entries.values() if isinstance(e, Override) and e.course]
        values = [entry.at(at(run.now)).value for entry in adjusting]
        rates.append(amount("max_message_rate", values[0]) if values else float("inf"))
    assert all(one <= other for one, other in pairwise(rates))


@settings(max_examples=80, deadline=None)
@given(courses_of_events, st.sets(st.integers(0, 24)))
def test_a_crash_at_any_step_changes_nothing(steps: list[Step], crashes: set[int]) -> None:
    one, other = Run(), Run()
    for number, step in enumerate(steps):
        one.do(step)
        other.do(step)
        if number in crashes:
            other.crash()
        assert one.state == other.state
        assert one.trial.options() == other.trial.options()
    assert one.trial.ended == other.trial.ended


records = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(WORDS), st.integers(1, 4)), st.sampled_from((0, 1, 50, 130))
    ),
    max_size=15,
)
"""What is in a log: a refusal in these words or so many deliveries; how long after the last."""


def happened(run: Run, what: Iterable[tuple[str | int, int]]) -> list[Candidate | Attempts]:
    found: list[Candidate | Attempts] = []
    second = 0
    for one, later in what:
        second += later
        if isinstance(one, int):
            found.append(deliveries(second, one))
        else:
            found += run.trial.refusal(second, one)
    return found


@settings(max_examples=80, deadline=None)
@given(records, st.sets(st.integers(1, 14)), st.sampled_from((0, 100, 400)))
def test_a_replay_ends_where_the_run_did_however_its_batches_are_cut(
    log: list[tuple[str | int, int]], cuts: set[int], later: int
) -> None:
    """The run hears each record when it is written, the replay all of them at its end."""
    run, replayed = Run(), Run()
    for word_or_count, wait in log:
        run.do(("wait", wait))
        run.do(("deliver" if isinstance(word_or_count, int) else "match", word_or_count))
    run.do(("wait", later))
    found = happened(replayed, log)
    for begin, end in pairwise([0, *sorted(cuts), len(found)]):
        if begin < end:
            replayed.late(found[begin:end], run.now)
    replayed.now = run.now
    replayed.do(("wait", 0))
    assert _decided(run) == _decided(replayed)
    assert run.trial.options() == replayed.trial.options()


def _decided(run: Run) -> object:
    """What is in force, without its story."""
    entries = [replace(entry, seq=0) for entry, _ in run.entries.values()]
    stories = {key: (story.struck_ns, story.delivered) for key, (_, story) in run.entries.items()}
    return sorted(entries, key=lambda entry: entry.key), stories


def _bare(run: Run) -> object:
    """The state but for what tells which of two records of one second came last."""
    entries = {
        key: (
            type(entry),
            entry.expires_ns,
            entry.course if isinstance(entry, Override) else None,
            entry.probe if isinstance(entry, Override) else None,
            (story.matches, story.struck_ns, story.delivered),
        )
        for key, (entry, story) in run.entries.items()
    }
    automation = run.trial.automation
    windows = {scope: dict(window.items()) for scope, window in automation.thresholds.scopes()}
    return entries, windows, dict(automation.offences.items())


@settings(max_examples=80, deadline=None)
@given(courses_of_events, st.lists(st.one_of(matches, delivered), max_size=6), st.randoms())
def test_the_order_within_a_second_makes_no_difference_but_where_one_releases(
    before: list[Step], second: list[Step], chance: Random
) -> None:
    """In one respect it does: whether what is released was released before the match.

    With the delivery first the entry ends and the match begins another; with the match
    first the delivery proves nothing.  Both are so in the log, and the log's order counts.
    """
    one, other = Run(), Run()
    for step in before:
        one.do(step)
        other.do(step)
    ended = len(one.trial.ended)
    shuffled = list(second)
    chance.shuffle(shuffled)
    for run, order in ((one, second), (other, shuffled)):
        for step in order:
            run.do(step)
    if not any(how == "released" for run in (one, other) for _, how in run.trial.ended[ended:]):
        assert _bare(one) == _bare(other)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(("sets", "adjusts", "suspends")), st.lists(st.integers(1, 3), max_size=8))
def test_it_is_released_at_the_nth_delivery_exactly(word: str, chunks: list[int]) -> None:
    run = Run()
    run.do(("match", word))
    run.do(("match", word))
    run.do(("wait", 121))
    waited = [e for e, _ in run.entries.values() if isinstance(e, Override)]
    assert waited
    total = 0
    for chunk in chunks:
        run.do(("deliver", chunk))
        total += chunk
        for entry in waited:
            gone = (called(entry), "released") in run.trial.ended
            assert gone == (total >= entry.release)
            assert (entry.key in run.entries) != gone
