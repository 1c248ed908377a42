"""Several hosts, one memory: real sidecars, a real redis-server, one log split among them.

One log is split among three hosts by chance, message by message.  Once all is quiet each
holds what one sidecar holds that read everything: whatever was killed, lost or frozen
meanwhile.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
    made = failure(number, text, domain=f"d{number % 3}.example", at=at)
    made["type"] = kind
    made["queue"] = f"camp{number % 2}:tenant{number % 3}@d{number % 3}.example"
    made["event_time"] = format_rfc3339(at * NS)
    return made


@dataclass
class Group:
    """Three hosts, and the one that reads all."""

    hosts: list[Setup]
    alone: Setup
    engine: Engine
    chance: random.Random
    written: int = 0

    def __post_init__(self) -> None:
        self.writers = [KumodWriter(h.logs, max_file_size=6_000) for h in self.hosts]
        self.whole = KumodWriter(self.alone.logs, max_file_size=60_000)
        self.at = int(time.time()) - 3000

    def write(self, count: int, texts: tuple[str, ...] = TEXTS) -> None:
        """So many messages more, each a second after the one before, on any host."""
        for _ in range(count):
            self.log(self.chance.choice(texts))

    def log(self, text: str, *, kind: str = "TransientFailure", host: int | None = None) -> None:
        self.written += 1
        one = a_record(self.written, text, self.at + self.written, kind=kind)
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
        started = [self.start(number, *more) for number in range(len(self.hosts))]
        for running in started:
            running.says("started pid=")
        return started

    def expected(self) -> dict[str, Any]:
        """What one sidecar holds that reads everything."""
        self.alone.once()
        return in_force(self.alone.saved())

    def agree(self) -> None:
        """Wait until each host holds what one holds that reads everything."""
        self.finish()
        expected = self.expected()
        assert expected
        deadline = time.monotonic() + 30
        while True:
            found = [in_force(host.saved()) for host in self.hosts]
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
    hosts = [make_setup(f"mx{n}", rules=RULES) for n in range(3)]
    return Group(hosts, make_setup("alone", rules=RULES), engine, chance)


def test_three_hosts_hold_what_one_holds_that_reads_everything(group: Group) -> None:
    group.write(120)
    group.start_all()
    group.write(120)
    group.agree()
    group.write(60)
    group.agree()
