"""The host's clock leaps: no storm of expiries, nothing comes back, new records count."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from sidecar.service.clock import GuardedClock
from sidecar.times import NS

from .support import Running, Setup, failure, until

HOUR = 3600
RULES = """
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "30 minutes"

[["default".automation]]
regex = "Slow down"
action = {SetConfig = {name = "max_message_rate", value = "10/m"}}
duration = "5 seconds"
"""


class Clocks:
    """A wall clock that can be set, and one that only runs."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000 * NS
        self.running = 5 * NS
        self.jumps: list[int] = []
        self.clock = GuardedClock(
            on_jump=self.jumps.append, wall=lambda: self.wall, running=lambda: self.running
        )

    def pass_(self, seconds: float) -> int:
        self.wall += int(seconds * NS)
        self.running += int(seconds * NS)
        return self.clock()

    def pass_slowly(self, seconds: int) -> int:
        for _ in range(seconds):
            now = self.pass_(1)
        return now

    def set(self, seconds: float) -> None:
        self.wall += int(seconds * NS)


def test_without_leaps_it_is_the_wall_clock() -> None:
    clocks = Clocks()
    for seconds in (0, 0.001, 1, 59, 86_400):
        assert clocks.pass_(seconds) == clocks.wall
    assert clocks.jumps == []


@pytest.mark.parametrize("step", [0.5, 5, 59])
def test_everyday_corrections_are_followed_at_once(step: float) -> None:
    clocks = Clocks()
    clocks.set(step)
    assert clocks.pass_(1) == clocks.wall
    assert clocks.jumps == []


def test_a_leap_forward_is_caught_up_with_over_an_hour_in_which_time_runs_double() -> None:
    clocks = Clocks()
    before = clocks.clock()
    clocks.set(HOUR)
    assert clocks.pass_(1) - before == pytest.approx(2 * NS, rel=0.01)
    assert clocks.jumps == [HOUR * NS]
    assert clocks.pass_slowly(HOUR // 2) - before == pytest.approx(HOUR * NS, rel=0.01)
    assert clocks.clock.behind_ns == pytest.approx(HOUR * NS // 2, rel=0.01)
    clocks.pass_slowly(HOUR // 2)
    assert clocks.clock() == clocks.wall
    assert clocks.jumps == [HOUR * NS]


def test_a_leap_forward_by_decades_is_caught_up_with_within_the_hour_too() -> None:
    clocks = Clocks()
    clocks.set(56 * 365 * 86_400)
    clocks.pass_slowly(HOUR + 1)
    assert clocks.clock() == clocks.wall


def test_a_leap_that_is_taken_back_leaves_little_behind() -> None:
    clocks = Clocks()
    clocks.set(HOUR)
    clocks.pass_slowly(60)
    clocks.set(-HOUR)
    assert clocks.pass_(1) == clocks.wall


def test_a_clock_set_back_is_followed_at_once() -> None:
    clocks = Clocks()
    clocks.set(-HOUR)
    assert clocks.pass_(1) == clocks.wall
    assert clocks.jumps == [-HOUR * NS]


def test_it_is_never_ahead_of_the_wall_and_never_far_behind_for_long() -> None:
    chance = random.Random(3)
    clocks = Clocks()
    for _ in range(500):
        clocks.set(chance.choice([0, 0, 0, chance.uniform(-7200, 7200)]))
        assert clocks.pass_(chance.uniform(0, 30)) <= clocks.wall
    clocks.pass_slowly(HOUR + 31)
    assert clocks.clock() == clocks.wall


def start(setup: Setup) -> tuple[Running, Path]:
    setup.rules.write_text(RULES)
    control = setup.base / "clock"
    running = setup.run(
        prepare="tests.service.broken:settable_clock", env={"TEST_CLOCK": str(control)}
    )
    return running, control


def test_entries_outlive_a_leap_forward_and_new_records_count(setup: Setup) -> None:
    running, control = start(setup)
    setup.log(*(failure(n, domain=f"d{n}.example") for n in range(20)))
    until(lambda: len(setup.overlay()) == 20)
    control.write_text(str(HOUR))
    running.says("the clock leapt forward")
    until(lambda: setup.status()["clock_behind_seconds"] > HOUR - 60)
    setup.log(failure(50, domain="new.example", at=int(time.time()) + HOUR))
    until(lambda: "new.example" in setup.overlay())
    assert len(setup.overlay()) == 21
    control.write_text("0")
    running.says("the clock was set back")
    setup.log(failure(51, domain="back.example"))
    until(lambda: "back.example" in setup.overlay())
    assert len(setup.overlay()) == 22
    assert running.stop() == 0


def test_nothing_comes_back_when_the_clock_is_set_back_and_new_records_count(setup: Setup) -> None:
    running, control = start(setup)
    setup.log(failure(1, "Slow down", domain="over.example"), failure(2, domain="kept.example"))
    until(lambda: "over.example" in setup.overlay())
    until(lambda: "over.example" not in setup.overlay())
    control.write_text(str(-HOUR))
    running.says("the clock was set back")
    setup.log(failure(3, domain="new.example", at=int(time.time()) - HOUR))
    until(lambda: "new.example" in setup.overlay())
    assert setup.overlay().keys() == {"kept.example", "new.example"}
    assert running.stop() == 0
    running, _ = start(setup)
    setup.log(failure(4, domain="newer.example", at=int(time.time()) - HOUR))
    until(lambda: "newer.example" in setup.overlay())
    assert setup.overlay().keys() == {"kept.example", "new.example", "newer.example"}
    assert setup.saved().counters["matched"] == 4
    assert running.stop() == 0


def test_what_was_written_while_down_is_read_though_the_clock_is_an_hour_ahead(
    setup: Setup,
) -> None:
    running, control = start(setup)
    setup.log(failure(1))
    until(lambda: setup.saved().counters.get("read") == 1)
    assert running.stop() == 0
    for number in range(2, 7):
        setup.log(failure(number))
    control.write_text(str(HOUR))
    running, _ = start(setup)
    until(lambda: setup.saved().counters["read"] == 6)
    assert running.stop() == 0
