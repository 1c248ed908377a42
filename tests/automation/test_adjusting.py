"""Rules that adjust what they set, through the whole core: records in, the overlay out."""

from __future__ import annotations

import asyncio
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.automation.adjusting import floor, steps
from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Override, from_payload, to_payload
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.service.published import Published
from sidecar.shaping.amounts import amount
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import MxAnswer, ZoneResolver
from sidecar.times import NS, format_rfc3339
from sidecar.tools.text import shown_entry

NOW = 1_795_360_000
"""Seconds; the moment of the first record."""

SETS = '{SetConfig = {name = "max_message_rate", value = "1/min"}}'
RULES = f"""
[default]
max_message_rate = "1000/min"
[[default.automation]]
regex = "busy"
action = {SETS}
duration = "1 hour"
sidecar.adjust = true
"""


def load(text: str) -> Shaping:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shaping.toml"
        path.write_text(text)
        return asyncio.run(
            load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([]))
        )


def found(
    matcher: Matcher,
    second: int,
    text: str = "busy",
    domain: str = "example.com",
    source: str = "ip1",
) -> list[Candidate]:
    """What comes of one record."""
    record = {
        "type": "TransientFailure",
        "recipient": f"user@{domain}",
        "queue": domain,
        "site": f"{source}->mx.example.net@smtp_client",
        "egress_source": source,
        "response": {"code": 421, "content": text},
        "event_time": format_rfc3339((NOW + second) * NS),
    }
    line = json.dumps(record).encode()
    return candidates([line], matcher=matcher, skip_types=frozenset(), tally=Tally())


class Core:
    """The core as the service drives it, one second after the other."""

    def __init__(self, shaping: Shaping) -> None:
        self.matcher = Matcher(shaping)
        self.automation = Automation()
        self.view = Published()

    def hear(
        self, second: int, text: str = "busy", domain: str = "example.com", source: str = "ip1"
    ) -> Outcome:
        """A record of `second`, read at once."""
        now_ns = (NOW + second) * NS
        self.automation.expire(now_ns)
        heard = found(self.matcher, second, text, domain, source)
        outcome = self.automation.apply(heard, mx={}, now_ns=now_ns)
        self.view.commit(outcome)
        self.view.expire(now_ns)
        return outcome

    def wait(self, second: int) -> None:
        """Nothing happens until then."""
        self.automation.expire((NOW + second) * NS)
        self.view.expire((NOW + second) * NS)

    def crash(self) -> None:
        """Start anew with what was committed."""
        payloads = [(e.kind, to_payload(e)) for e in self.automation.entries]
        seq = self.automation.seq
        self.automation, self.view = Automation(), Published()
        self.automation.seq = seq
        for kind, payload in payloads:
            self.automation.restore(from_payload(kind, payload))
        self.view.commit(Outcome(entries={e.key: e for e in self.automation.entries}))

    @property
    def overlay(self) -> dict[str, Any]:
        return tomllib.loads(self.view.overlay.text())

    def value(self, option: str = "max_message_rate", domain: str = "example.com") -> Any:
        """What the overlay sets; None for nothing."""
        found = self.overlay.get(domain, {}).get("sources", {}).get("ip1", {})
        return found.get(option)


SHAPING = load(RULES)


def test_a_match_lowers_what_is_in_effect_and_it_comes_back_by_itself() -> None:
    core = Core(SHAPING)
    core.hear(0)
    assert core.value() == "700/m"
    seen: dict[str | None, int] = {}
    for second in range(0, 601, 10):
        core.wait(second)
        seen.setdefault(core.value(), second)
    assert seen == {"700/m": 0, "800/m": 120, "850/m": 240, "900/m": 360, "950/m": 480, None: 600}
    assert len(core.automation.entries) == 0


def test_the_next_change_is_known_and_nothing_changes_before() -> None:
    core = Core(SHAPING)
    core.hear(0)
    changes = []
    while (due := core.view.next_change()) is not None:
        core.view.expire(due - 1)
        before = core.view.overlay.text()
        assert core.view.expire(due)
        changes.append((due // NS - NOW, core.view.overlay.text() != before))
    assert changes == [(second, True) for second in (120, 240, 360, 480, 600)]


def test_the_duration_of_the_rule_is_what_upstream_would_use() -> None:
    core = Core(load(RULES.replace('"1 hour"', '"1 second"')))
    core.hear(0)
    core.wait(300)
    assert core.value() == "850/m"


def test_the_floor_is_the_value_of_the_action_unless_the_rule_says_more() -> None:
    for key, value in (("", "100/m"), (', floor = "200/min"', "200/m")):
        table = f'{{down = "50%", settle = "0s"{key}}}'
        core = Core(load(RULES.replace('"1/min"', '"100/min"').replace("true", table)))
        for second in range(9):
            core.hear(second)
        assert core.value() == value


def test_limits_and_counts_adjust_as_well() -> None:
    text = RULES.replace("max_message_rate", "connection_limit").replace('"1000/min"', "10")
    core = Core(load(text.replace('"1/min"', "1")))
    core.hear(0)
    assert core.value("connection_limit") == 7
    # kumod's own default is what is in effect where no file says anything.
    text = text.replace("connection_limit = 10", "").replace('"1/min"', "1")
    core = Core(load(text))
    core.hear(0)
    assert core.value("connection_limit") == 22


def test_what_is_in_effect_is_that_of_the_domain_and_the_source() -> None:
    text = RULES + (
        '["example.com"]\nmx_rollup = false\nmax_message_rate = "100/s"\n'
        '["example.com".sources.ip2]\nmax_message_rate = "50/s"\n'
    )
    core = Core(load(text))
    core.hear(0)
    core.hear(0, source="ip2")
    core.hear(0, domain="example.org", source="ip3")
    rates = {
        source: path["max_message_rate"]
        for section in core.overlay.values()
        for source, path in section["sources"].items()
    }
    assert rates == {"ip1": "70/s", "ip2": "35/s", "ip3": "700/m"}


def test_from_is_where_it_begins_where_no_file_says() -> None:
    text = RULES.replace('max_message_rate = "1000/min"', "")
    core = Core(load(text.replace("true", '{from = "600/min"}')))
    core.hear(0)
    assert core.value() == "420/m"


def test_without_anything_to_come_down_from_the_action_is_taken_as_it_is() -> None:
    plain = RULES.replace('max_message_rate = "1000/min"', "")
    below = RULES.replace('"1000/min"', '"1/h"')
    for text in (plain, below):
        core = Core(load(text))
        outcome = core.hear(0)
        assert core.value() == "1/min"
        (said,) = outcome.unadjusted
        assert "shaping.toml:4: [[default.automation]] rule 1: max_message_rate: " in said
        core.wait(3599)
        assert core.value() == "1/min"
        core.wait(3600)
        assert core.value() is None


def test_the_baseline_follows_the_files() -> None:
    core = Core(SHAPING)
    core.hear(0)
    core.matcher = Matcher(load(RULES.replace("1000/min", "100/min")))
    core.hear(30)
    assert core.value() is None
    core.hear(61)
    assert core.value() == "70/m"


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("1000/min", "700/m"),
        ("2000/min", "700/m"),
        ("500/min", None),  # below what we set: what the files say holds
        ("1/h", None),
        (None, None),
    ],
)
def test_what_adjusts_stays_below_what_the_files_set_after_a_reload(
    limit: str | None, value: str | None
) -> None:
    core = Core(SHAPING)
    core.hear(0)
    line = "" if limit is None else f'max_message_rate = "{limit}"'
    shaping = load(RULES.replace('max_message_rate = "1000/min"', line))
    core.view.commit(core.automation.refit(shaping, now_ns=(NOW + 1) * NS))
    core.view.expire((NOW + 1) * NS)
    assert core.value() == value
    assert len(core.automation.entries) == len(core.automation.episodes) == (value is not None)
    # Once more changes nothing.
    assert not core.automation.refit(shaping, now_ns=(NOW + 1) * NS)


def test_a_rule_that_is_gone_leaves_its_course_to_end_by_itself() -> None:
    core = Core(SHAPING)
    core.hear(0)
    gone = load('[default]\nmax_message_rate = "10/min"\n')
    assert not core.automation.refit(gone, now_ns=(NOW + 1) * NS)
    core.wait(600)
    assert core.value() is None


def test_without_the_mx_that_tells_the_limit_the_action_is_taken_as_it_is() -> None:
    text = RULES + (
        '[provider.big]\nmatch = [{MXSuffix = ".example.net"}]\nmax_message_rate = "10/min"\n'
    )
    core = Core(load(text))
    (said,) = core.hear(0).unadjusted
    assert said.endswith("max_message_rate: the MX of the domain is not known")
    assert core.value() == "1/min"


def test_a_provider_by_mx_has_its_say_in_what_is_in_effect() -> None:
    text = RULES + (
        '[provider.big]\nmatch = [{MXSuffix = ".example.net"}]\nmax_message_rate = "10/min"\n'
    )
    core = Core(load(text))
    heard = found(core.matcher, 0)
    assert heard[0].needs_mx
    answer = MxAnswer("example.com", ("mx.example.net",), "mx.example.net", expires_ns=0)
    outcome = core.automation.apply(heard, mx={"example.com": answer}, now_ns=NOW * NS)
    (entry,) = outcome.entries.values()
    assert isinstance(entry, Override)
    assert entry.value == "7/m"


STRICT = f"""
[default]
max_message_rate = "1000/min"
[[default.automation]]
regex = "busy"
action = {SETS}
duration = "1 hour"
sidecar.adjust = true
[[default.automation]]
regex = "slow"
action = {SETS}
duration = "1 hour"
sidecar.adjust = {{down = "90%"}}
[[default.automation]]
regex = "fixed"
action = {{SetConfig = {{name = "max_message_rate", value = "300/min"}}}}
duration = "1 hour"
"""


def test_of_several_rules_the_strictest_holds() -> None:
    core = Core(load(STRICT))
    core.hear(0, "slow")
    core.hear(1, "busy")
    assert core.value() == "100/m"
    core.hear(2, "fixed")
    assert core.value() == "100/m"
    core.wait(300)  # what was slow is at 400 now, but for the fixed value
    assert core.value() == "300/min"
    core.wait(3602)
    assert core.value() is None


def test_a_course_for_a_site_is_one_whichever_domain_is_refused() -> None:
    core = Core(SHAPING)
    core.hear(0, domain="a.example")
    core.hear(61, domain="b.example")
    assert {name: core.value(domain=name) for name in ("a.example", "b.example")} == {
        "a.example": "490/m",
        "b.example": None,
    }


def test_rules_of_one_site_hold_the_strictest_under_whichever_domains_they_began() -> None:
    core = Core(load(STRICT))
    core.hear(0, "busy", domain="b.example")
    core.hear(1, "slow", domain="a.example")
    assert core.value(domain="a.example") == core.value(domain="b.example") == "100/m"
    core.wait(121)
    assert core.value(domain="a.example") == core.value(domain="b.example")


def test_a_rule_that_adjusts_is_another_rule() -> None:
    (plain,) = load(RULES.replace("sidecar.adjust = true", "")).all_rules()
    (adjusting,) = SHAPING.all_rules()
    (other,) = load(RULES.replace("true", '{down = "31%"}')).all_rules()
    assert len({plain.hash, adjusting.hash, other.hash}) == 3


# The model: whatever happens, in whatever order, whenever it is killed.

_MATCH, _WAIT, _CRASH = "match", "wait", "crash"
events = st.lists(
    st.tuples(st.sampled_from([_MATCH, _MATCH, _WAIT, _CRASH]), st.integers(0, 900)), max_size=40
)
laws = st.builds(
    lambda down, up, every, settle, floor: (
        f'{{down = "{down}%", up = "{up}%", every = "{every}s", settle = "{settle}s", '
        f'floor = "{floor}/min"}}'
    ),
    st.integers(1, 99),
    st.integers(1, 100),
    st.integers(10, 900),
    st.integers(0, 300),
    st.integers(1, 999),
)


def rate(value: str | None) -> float:
    return 1000 / 60 if value is None else amount("max_message_rate", value)


@settings(max_examples=60, deadline=None)
@given(laws, events)
def test_a_crash_at_any_step_changes_nothing_and_the_limits_are_kept(
    law: str, steps: list[tuple[str, int]]
) -> None:
    shaping = load(RULES.replace("sidecar.adjust = true", f"sidecar.adjust = {law}"))
    (rule,) = shaping.all_rules()
    assert rule.sidecar.adjust is not None
    floor = amount("max_message_rate", rule.sidecar.adjust.floor)
    killed, spared, second = Core(shaping), Core(shaping), 0
    for what, wait in steps:
        before = rate(killed.value())
        second += wait
        if what == _CRASH:
            killed.crash()
        for core in (killed, spared):
            core.wait(second)
        now = rate(killed.value())
        assert now >= before  # monotone without matches
        if what == _MATCH:
            for core in (killed, spared):
                core.hear(second)
            assert rate(killed.value()) <= now
        assert killed.view.overlay.text() == spared.view.overlay.text()
        assert floor * 0.999 <= rate(killed.value()) <= 1000 / 60


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.permutations(["busy", "slow"])), max_size=12))
def test_the_order_of_equal_times_does_not_matter(
    moments: list[tuple[int, list[str]]],
) -> None:
    shaping = load(STRICT)
    one, other, second = Core(shaping), Core(shaping), 0
    for wait, texts in moments:
        second += wait
        for text in texts:
            one.hear(second, text)
        for text in reversed(texts):
            other.hear(second, text)
        assert one.value() == other.value()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=20), st.integers(0, 3000))
def test_a_replay_ends_where_the_run_did(waits: list[int], after: int) -> None:
    """The run hears each record when it is written, the replay all of them at its end."""
    run, replayed, second = Core(SHAPING), Core(SHAPING), 0
    heard = []
    for wait in waits:
        second += wait
        run.hear(second)
        heard += found(run.matcher, second)
    end_ns = (NOW + second + after) * NS
    run.wait(second + after)
    for candidate in heard:  # each in a batch of its own
        replayed.view.commit(replayed.automation.apply([candidate], mx={}, now_ns=end_ns))
    replayed.view.expire(end_ns)
    assert replayed.view.overlay.text() == run.view.overlay.text()


def test_the_next_steps_are_known_to_the_end() -> None:
    core = Core(SHAPING)
    core.hear(0)
    (entry,) = core.automation.entries
    assert isinstance(entry, Override)
    now_ns = (NOW + 130) * NS
    assert [(at_ns // NS - NOW, value) for at_ns, value in steps(entry, now_ns)] == [
        (240, "850/m"),
        (360, "900/m"),
        (480, "950/m"),
        (600, "1000/min"),
    ]
    assert (floor(entry), shown_entry(entry.at(now_ns))) == (
        "1/m",
        'set max_message_rate = "800/m" (of "1000/min") for "example.com" (the whole site) '
        'from source "ip1"',
    )
