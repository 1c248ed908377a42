"""Several hosts, one memory: real sidecars, a real redis-server, one log split among them.

One log is split among three hosts by chance, message by message.  Once all is quiet each
holds what one sidecar holds that read everything: whatever was killed, lost or frozen
meanwhile.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.faults import SHARE_STEPS, STEPS
from sidecar.store import Saved
from sidecar.times import NS, format_rfc3339
from tests.kumod_writer import KumodWriter
from tests.share.engine.conftest import Engine

from .support import Running, Setup, failure

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")

RULES = r"""
[default]
max_message_rate = "1000/min"

[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"

[["default".automation]]
regex = "(Throttled|Rival)"
action = {SetConfig = {name = "connection_limit", value = 2}}
duration = "2 days"

[["default".automation]]
regex = "Suspend campaign"
action = "SuspendCampaign"
trigger = {Threshold = "4/hour"}
duration = "1 day"
sidecar.name = "campaigns"

[["default".automation]]
regex = "Slow down"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 day"
sidecar.adjust = {settle = "1m", every = "1h"}

[["default".automation]]
regex = "Again"
action = "Suspend"
duration = "5 minutes"
sidecar.escalate = {factor = 3, max = "20 hours", forget = "12 hours"}

[["default".automation]]
regex = "Complained"
action = "SuspendTenant"
duration = "1 day"
sidecar.ratio = {over = "45%", min = 10, window = "2 hours"}
"""
TEXTS = ("Throttled", "Rival", "Suspend campaign", "Slow down", "Again", "mailbox full")


def a_record(number: int, text: str, at: int, *, kind: str = "TransientFailure") -> Any:
    """A record of a whole second: fractions are left out where several hosts decide."""
    # So many places that each has few matches: of many, one more or less makes no difference.
    domain = f"d{number * 7 % 10}.example"
    made = failure(number, text, domain=domain, at=at)
    made["type"] = kind
    made["queue"] = f"camp{number % 2}:tenant{number % 3}@{domain}"
    made["event_time"] = format_rfc3339(at * NS)
    return made


@dataclass
class Group:
    """Three hosts, a fourth without mail, and the one that reads all."""

    hosts: list[Setup]
    alone: Setup
    engine: Engine
    chance: random.Random
    written: int = 0

    def __post_init__(self) -> None:
        self.writers = [KumodWriter(h.logs, max_file_size=6_000) for h in self.hosts[:3]]
        self.whole = KumodWriter(self.alone.logs, max_file_size=60_000)
        self.at = int(time.time()) - 3000

    def write(self, count: int, texts: tuple[str, ...] = TEXTS) -> None:
        """So many messages more, each a second after the one before, on any host."""
        for _ in range(count):
            self.log(self.chance.choice(texts))

    def log(
        self,
        text: str,
        *,
        kind: str = "TransientFailure",
        host: int | None = None,
        place: int | None = None,
    ) -> None:
        self.written += 1
        number = self.written if place is None else place
        one = a_record(number, text, self.at + self.written, kind=kind)
        writer = self.chance.choice(self.writers) if host is None else self.writers[host]
        writer.log(one)
        self.whole.log(one)

    def finish(self) -> None:
        """What is written so far is in the files."""
        for writer in (*self.writers, self.whole):
            writer.close()

    def start(self, number: int, *more: str, **options: Any) -> Running:
        return self.hosts[number].start(
            *("--share-host", f"mx{number}", *more), listen=False, share=self.engine.url, **options
        )

    def start_all(self, *more: str) -> list[Running]:
        started = [self.start(number, *more) for number in range(3)]
        for running in started:
            running.says("started pid=")
        return started

    def expected(self) -> dict[str, Any]:
        """What one sidecar holds that reads everything."""
        self.alone.once()
        return in_force(self.alone.saved())

    def agree(self, *hosts: int, seconds: float = 60) -> None:
        """Wait until each host holds what one holds that reads everything."""
        self.finish()
        expected = self.expected()
        assert expected
        setups = [self.hosts[number] for number in hosts or range(3)]
        deadline = time.monotonic() + seconds
        while True:
            found = [in_force(host.saved()) if host.state_file.exists() else {} for host in setups]
            if all(one == expected for one in found):
                return
            if time.monotonic() > deadline:
                for one in found:
                    assert one == expected
            time.sleep(0.02)


def in_force(saved: Saved) -> dict[str, Any]:
    """The entries, but for their order and what people are told."""
    found = {}
    for key, row in saved.entries.items():
        payload = json.loads(row.payload)
        found[key] = {n: v for n, v in payload.items() if n not in ("seq", "reason")}
    return found


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "engine", "--appendonly", "yes", "--appendfsync", "always")
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def group(make_setup: Callable[..., Setup], engine: Engine, chance: random.Random) -> Group:
    hosts = [make_setup(f"mx{n}", rules=RULES) for n in range(4)]
    return Group(hosts, make_setup("alone", rules=RULES), engine, chance)


def test_three_hosts_hold_what_one_holds_that_reads_everything(group: Group) -> None:
    group.write(120)
    group.start_all()
    group.write(120)
    group.agree()
    group.write(60)
    group.agree()


def lose_data(engine: Engine) -> None:
    """The engine is killed, and comes back with nothing."""
    engine.kill()
    shutil.rmtree(engine.directory)
    engine.directory.mkdir()
    engine.start()


def come_back(engine: Engine) -> None:
    """The engine is killed, and comes back with what it had."""
    engine.kill()
    engine.start()


def freeze(engine: Engine) -> None:
    """The engine hangs for a while, as behind a cut network."""
    engine.signal(signal.SIGSTOP)
    time.sleep(0.3)
    engine.signal(signal.SIGCONT)


def trouble(group: Group, *, rounds: int, prepare: str | None = None) -> None:
    """Kill and lose things while the log goes on; in the end all hosts run."""
    chance, running = group.chance, dict[int, Running]()
    elsewhere = ("waited-decided", "word-said")
    steps = [step for step in (*STEPS, *SHARE_STEPS) if step not in elsewhere]
    faults = [f"{step}:{chance.randint(1, 6)}" for step in steps]
    chance.shuffle(faults)
    deeds = [lose_data, come_back, freeze]
    for turn in range(rounds):
        group.write(chance.randrange(12))
        number = chance.randrange(3)
        if number in running and chance.random() < 0.7:
            running.pop(number).kill()
        if number not in running:
            fault = faults.pop() if faults and chance.random() < 0.7 else None
            running[number] = group.start(number, fault=fault, prepare=prepare)
        if turn % 3 == 2:
            deeds[turn // 3 % 3](group.engine)
        time.sleep(chance.uniform(0, 0.4))
    for number in range(3):
        if number in running:  # a fault may still be to come
            running[number].kill()
        group.start(number, prepare=prepare)


def test_whatever_is_killed_lost_or_frozen_all_hold_what_one_holds(group: Group) -> None:
    trouble(group, rounds=24)
    group.write(20)
    group.agree()


def go_through(group: Group, mistake: str | None, *, seconds: float = 60) -> None:
    """What each host holds after things that a mistake would show in."""
    prepare = None if mistake is None else f"tests.service.broken:{mistake}"
    group.write(30)
    for number in range(3):  # one more makes the threshold full
        group.log("Suspend campaign", place=1000, host=number % 2)
    for number in (0, 1):
        group.start(number, prepare=prepare).says("started pid=")
    assert group.start(2, fault="peers-decided:1", prepare=prepare).wait() == -signal.SIGKILL
    group.start(2, prepare=prepare)
    group.agree(seconds=seconds)
    group.hosts[2].started[-1].kill()
    group.start(2, prepare=prepare).says("started pid=")
    lose_data(group.engine)
    group.start(3, prepare=prepare)  # it has no other way to know anything
    group.log("Suspend campaign", place=2000)
    group.agree(0, 1, 2, 3, seconds=seconds)


def test_what_was_lost_is_told_again_and_nothing_heard_is_heard_twice(group: Group) -> None:
    go_through(group, None)


@pytest.mark.parametrize("mistake", ["heard_anew", "place_first", "told_again"])
def test_the_test_finds_a_group_that_makes_a_mistake(group: Group, mistake: str) -> None:
    with pytest.raises(AssertionError):
        go_through(group, mistake, seconds=5)
