"""Several hosts, one memory: real sidecars, a real redis-server, one log split among them.

One log is split among three hosts by chance, message by message.  Once all is quiet each
holds what one sidecar holds that read everything: whatever was killed, lost or frozen
meanwhile.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.automation.selection import Selection
from sidecar.faults import SHARE_STEPS, STEPS
from sidecar.service.cancel import ask
from sidecar.service.orders import Order
from sidecar.store import Saved, read_saved
from sidecar.times import NS, format_rfc3339
from tests.kumod_writer import KumodWriter
from tests.share.engine.conftest import Engine

from .support import ROOT, Running, Setup, failure, until

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

    def start(
        self,
        number: int,
        *more: str,
        mistake: str = "quick_group",
        fault: str | None = None,
        url: str | None = None,
    ) -> Running:
        return self.hosts[number].start(
            *("--share-host", f"mx{number}", *more),
            listen=False,
            env={"TSA_SIDECAR_SHARE": url or self.engine.url},
            fault=fault,
            prepare=f"tests.service.broken:{mistake}",
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


def trouble(group: Group, *, rounds: int) -> None:
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
            running[number] = group.start(number, fault=fault)
        if turn % 3 == 2:
            deeds[turn // 3 % 3](group.engine)
        time.sleep(chance.uniform(0, 0.4))
    for number in range(3):
        if number in running:  # a fault may still be to come
            running[number].kill()
        group.start(number)


def test_whatever_is_killed_lost_or_frozen_all_hold_what_one_holds(group: Group) -> None:
    trouble(group, rounds=24)
    group.write(20)
    group.agree()


def go_through(group: Group, mistake: str = "quick_group", *, seconds: float = 60) -> None:
    """What each host holds after things that a mistake would show in."""
    # By chance some would make the threshold full without the mistake.
    group.write(30, tuple(text for text in TEXTS if text != "Suspend campaign"))
    for number in range(3):  # one more makes the threshold full
        group.log("Suspend campaign", place=1000, host=number % 2)
    for number in (0, 1):
        group.start(number, mistake=mistake).says("started pid=")
    assert group.start(2, fault="peers-decided:1", mistake=mistake).wait() == -signal.SIGKILL
    group.start(2, mistake=mistake)
    group.agree(seconds=seconds)
    group.hosts[2].started[-1].kill()
    group.start(2, mistake=mistake).says("started pid=")
    lose_data(group.engine)
    group.start(3, mistake=mistake)  # it has no other way to know anything
    group.log("Suspend campaign", place=2000)
    group.agree(0, 1, 2, 3, seconds=seconds)


def test_what_was_lost_is_told_again_and_nothing_heard_is_heard_twice(group: Group) -> None:
    go_through(group)


@pytest.mark.parametrize("mistake", ["heard_anew", "place_first", "told_again"])
def test_the_test_finds_a_group_that_makes_a_mistake(group: Group, mistake: str) -> None:
    with pytest.raises(AssertionError):
        go_through(group, mistake, seconds=4)


# What operators say.


def held(setup: Setup) -> list[Any]:
    """The holds that this host has, as words of the group."""
    meta = setup.saved().meta
    holds = [json.loads(text) for name, text in meta.items() if name.startswith("hold:")]
    return [hold for hold in holds if hold["until_ns"] > time.time_ns()]


def ended(setup: Setup) -> list[tuple[str, str]]:
    rows = read_saved(setup.state_file, history=True).history.values()
    return [(row.how, row.by) for row in rows if row.how == "cancelled"]


def words_of(text: str) -> str:
    """A wrapped text on one line."""
    return " ".join(text.split())


def each(group: Group, what: Callable[[Setup], Any]) -> None:
    """Wait until it is so on each host."""
    for setup in group.hosts[:3]:
        until(partial(what, setup))


def order(setup: Setup, *words: str) -> str:
    running = setup.command(*words, "--state", str(setup.state_file), env={"SUDO_USER": "anna"})
    assert running.wait() == 0, running.output
    return running.output


def test_a_word_of_an_operator_holds_for_the_group(group: Group) -> None:
    group.start_all()
    group.log("Throttled", place=10)
    group.log("Throttled", place=20)
    group.agree()
    order(group.hosts[1], "cancel", "--domain", "d0.example", "--for", "2h", "--reason", "test")
    each(group, held)
    assert all(in_force(setup.saved()) == {} for setup in group.hosts[:3])
    for setup in group.hosts[:3]:
        assert set(ended(setup)) == {("cancelled", "anna at mx1")}
        [hold] = held(setup)
        assert hold["by"] == "anna at mx1"
    group.log("Throttled", place=10, host=0)  # it is held everywhere
    group.log("Rival", place=11, host=0)
    group.finish()
    each(group, lambda setup: in_force(setup.saved()))
    for setup in group.hosts[:3]:
        assert all(e["domain"] == "d7.example" for e in in_force(setup.saved()).values())
    [hold] = held(group.hosts[2])
    order(group.hosts[2], "release", str(hold["id"]))
    each(group, lambda setup: not held(setup))


def test_a_word_may_be_for_one_host_and_ids_are_each_hosts_own(group: Group) -> None:
    group.start_all()
    group.log("Throttled", place=10)
    group.log("Rival", place=11)
    group.agree()
    order(group.hosts[0], "hold", "campaigns", "--for", "2h", "--here")
    until(lambda: held(group.hosts[0]))
    key = next(k for k, e in in_force(group.hosts[0].saved()).items() if e["domain"][:2] == "d7")
    [id_] = [
        json.loads(row.episode)["id"]
        for row in group.hosts[0].saved().entries.values()
        if row.key == key
    ]
    order(group.hosts[0], "cancel", str(id_))
    each(group, lambda setup: key not in in_force(setup.saved()))
    for setup in group.hosts[:3]:
        assert len(in_force(setup.saved())) == 2
    assert held(group.hosts[1]) == held(group.hosts[2]) == []


def test_a_word_is_told_though_the_host_is_killed_before_it_says_it(group: Group) -> None:
    group.log("Throttled", place=10)
    running = [group.start(0, fault="word-said:1"), group.start(1), group.start(2)]
    group.agree()
    cancel = Order("cancel", Selection(domains=("d0.example",)), by="anna")
    ask(group.hosts[0].state_file, cancel)
    assert running[0].wait() == -signal.SIGKILL
    lose_data(group.engine)
    group.start(0)
    each(group, lambda setup: in_force(setup.saved()) == {})
    for setup in group.hosts[:3]:
        assert set(ended(setup)) == {("cancelled", "anna at mx0")}


# What others do to it.


def test_rubbish_in_the_stream_is_counted_and_passed_over(group: Group) -> None:
    stream = "tsa-sidecar:{mail}:stream"
    group.start_all()
    group.log("Throttled", place=10)
    group.agree()
    for number, (kind, data) in enumerate(
        [("line", "no record"), ("line", "{}"), ("attempts", "[[1]]"), ("word", '{"verb":"x"}')]
    ):
        item = ("v", "1", "host", "evil", "segment", "/word/x" if kind == "word" else "s")
        rest = ("line", number + 1, "kind", kind, "n", 100 + number, "data", data)
        group.engine.ask("XADD", stream, "*", *item, *rest)
    group.engine.ask("XADD", stream, "*", "spam", "eggs")
    group.log("Rival", place=11)
    group.agree()
    each(group, lambda setup: setup.saved().counters.get("peers_bad") == 3)
    each(group, lambda setup: setup.status()["share"]["bad_entries"])
    for setup in group.hosts[:3]:
        assert "share-note" in {one["code"] for one in setup.status()["conditions"]}


def test_cut_off_from_the_group_a_host_decides_as_one_alone(group: Group) -> None:
    group.start_all()
    group.write(20)
    group.agree()
    group.engine.signal(signal.SIGSTOP)
    for _ in range(5):
        group.log("Suspend campaign", place=10, host=0)
    group.finish()
    own = group.hosts[0]
    until(lambda: any("camp0" in key and "d0" in key for key in in_force(own.saved())))
    until(lambda: "share-away" in {c["code"] for c in own.status()["conditions"]})
    group.engine.signal(signal.SIGCONT)
    group.agree()
    until(lambda: "share-away" not in {c["code"] for c in own.status()["conditions"]})


def test_a_share_counts_for_the_group(group: Group) -> None:
    group.start_all()
    for _ in range(12):
        group.log("delivered", kind="Delivery", place=10)
    group.finish()
    each(group, lambda setup: setup.saved().counters.get("attempts") == 12)
    for _ in range(13):  # no host alone has enough attempts to tell a share
        group.log("Complained", place=10)
    group.finish()
    each(group, lambda setup: setup.saved().counters.get("attempts") == 25)
    group.log("Complained", place=10)
    group.agree()


def test_a_host_says_who_is_in_the_group_and_whose_line_it_was(group: Group) -> None:
    group.hosts[1].rules.write_text(RULES.replace("1 day", "3 hours", 1))
    group.start_all()
    group.log("Rival", place=10, host=2)
    group.finish()
    own = group.hosts[0]
    until(lambda: in_force(own.saved()))
    until(lambda: len((own.status().get("share") or {}).get("hosts", ())) == 3)
    until(lambda: "share-rules" in {c["code"] for c in own.status()["conditions"]})
    state = ("--state", str(own.state_file))
    shown = own.command("status", "--hosts", *state).output.splitlines()
    assert shown[0].startswith('group "mail", this is mx0: connected since ')
    table = [line.split() for line in shown if line.startswith("mx")]
    assert [(line[0], line[-1]) for line in table] == [
        ("mx0", "same"),
        ("mx1", "other"),
        ("mx2", "same"),
    ]
    assert all(len(line) <= 80 for line in shown)
    assert "from ip2 on mx2: 421" in words_of(own.command("show", "1", *state).output)


def test_options_of_sources_that_only_others_have_are_kept_out_where_asked(group: Group) -> None:
    own, group.at = group.hosts[0], int(time.time())
    for number in range(2):
        group.start(number, "--share-sources", "own").says("started pid=")
    group.log("Throttled", place=10, host=1)
    group.log("Again", place=10, host=1)
    group.finish()
    until(lambda: len(in_force(own.saved())) == 3)
    until(lambda: (own.status().get("share") or {}).get("overrides_left_out") == 2)
    assert "d0.example" not in own.overlay()
    assert len(own.beside("suspended.json")["ready_q"]) == 1
    shown = own.command("show", "1", "--state", str(own.state_file)).output
    assert "has not shown the source" in words_of(shown)
    listed = own.command("list", "--state", str(own.state_file)).output
    assert words_of(listed).count("the source is another host's") == 2
    group.log("mailbox full. Rival", place=11, host=0)  # the same source here
    group.finish()
    until(lambda: "d0.example" in own.overlay())
    assert own.status()["share"] is not None


def test_a_simulated_run_tells_the_group_nothing(group: Group) -> None:
    group.start(0, "--simulate").says("started pid=")
    group.start(1).says("started pid=")
    group.log("Throttled", place=10, host=0)
    group.log("Rival", place=11, host=1)
    group.finish()
    until(lambda: len(in_force(group.hosts[0].saved())) == 3)
    assert len(in_force(group.hosts[1].saved())) == 1
    assert len(group.engine.lines()) == 1
    # Nor does it say anything of itself: the real run on the same host has the same name.
    until(lambda: (group.hosts[0].status().get("share") or {}).get("hosts"))
    assert group.engine.ask("HKEYS", "tsa-sidecar:{mail}:hosts") == [b"mx1"]


def test_the_user_that_the_page_shows_has_the_rights_that_it_takes(group: Group) -> None:
    page = (ROOT / "packaging" / "doc" / "hosts.md").read_text()
    [rights] = re.findall(r"^    user tsa-sidecar (.*)$", page, re.M)
    group.engine.ask("ACL", "SETUSER", "tsa-sidecar", *rights.split())
    url = group.engine.tcp.replace("//", "//tsa-sidecar:PASSWORD@")
    for number in range(3):
        running = group.start(number, url=url)
        running.says("started pid=")
    group.write(20)
    group.agree()
    until(lambda: len((group.hosts[0].status().get("share") or {}).get("hosts", ())) == 3)
    assert group.hosts[0].status()["errors"] == []
