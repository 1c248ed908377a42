"""The story of an entry: one id from its first match to its end, whatever comes between."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import ReadyQSuspension
from sidecar.automation.episodes import Cause, Ended, Episode, episode_from_payload
from sidecar.automation.matching import Candidate, Matcher
from sidecar.log.record import Record
from sidecar.service.state import restore, transaction
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.store import Store
from sidecar.times import NS

RULES = """
[[default.automation]]
regex = "slow"
action = "Suspend"
duration = "10 s"

[[default.automation]]
regex = "thrice"
action = "Suspend"
trigger = {Threshold = "3/min"}
duration = "1 hour"
"""
NOW = 1_795_361_800


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Matcher:
    file = tmp_path_factory.mktemp("rules") / "rules.toml"
    file.write_text(RULES)
    options = MergeOptions.from_mapping({})
    return Matcher(
        asyncio.run(load_shaping((str(file),), options=options, resolver=OfflineResolver()))
    )


def candidate(matcher: Matcher, text: str, second: int = 0, *, site: str = "a") -> Candidate:
    found = matcher.candidate(
        Record(
            type="TransientFailure",
            recipients=(f"user@{site}.test",),
            queue=f"{site}.test",
            site=f"ip1->mx.{site}.test@smtp_client",
            egress_source="ip1",
            code=421,
            enhanced=None,
            content=text,
            time_ns=(NOW + second) * NS,
        )
    )
    assert found is not None
    return found


def apply(automation: Automation, *found: Candidate, second: int = 0) -> Outcome:
    return automation.apply(found, mx={}, now_ns=(NOW + second) * NS)


def the(automation: Automation) -> Episode:
    (story,) = automation.episodes.values()
    return story


def test_an_episode_begins_with_what_caused_it(matcher: Matcher) -> None:
    automation = Automation()
    first = candidate(matcher, "slow down\x1b[2J\nplease")
    outcome = apply(automation, first, candidate(matcher, "slower", 1), second=2)
    ((entry, story),) = outcome.began
    assert isinstance(entry, ReadyQSuspension)
    assert outcome.episodes == {entry.key: story} == automation.episodes
    assert (story.id, story.began_ns, story.matches) == (1, (NOW + 2) * NS, 2)
    assert (Path(story.file).name, story.line) == ("rules.toml", 2)
    said = r"421 slow down\x1b[2J please"
    assert story.first == Cause("TransientFailure", said, "a.test", "ip1", NOW * NS)
    assert story.latest is not None
    assert story.latest.response == "421 slower"


def test_it_goes_on_while_the_entry_is_renewed(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, "slow"))
    outcome = apply(automation, candidate(matcher, "slow 2", 5), second=5)
    assert outcome.began == []
    story = the(automation)
    assert (story.id, story.began_ns, story.matches) == (1, NOW * NS, 2)
    assert story.latest is not None
    assert story.latest.time_ns == (NOW + 5) * NS


def test_it_ends_when_the_entry_expires_and_another_begins(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, "slow"))
    story = the(automation)
    (ended,) = automation.expire((NOW + 10) * NS).ended
    assert (ended.episode, ended.at_ns, ended.how) == (story, (NOW + 10) * NS, "expired")
    assert automation.episodes == {}
    ((_, second),) = apply(automation, candidate(matcher, "slow", 20), second=20).began
    assert (second.id, second.matches) == (2, 1)


def test_an_entry_that_expired_unseen_is_not_renewed(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, "slow"))
    story = the(automation)
    outcome = apply(automation, candidate(matcher, "slow", 30), second=30)
    (entry,) = automation.entries
    assert outcome.ended == [Ended(outcome.ended[0].entry, story, (NOW + 10) * NS, "expired")]
    assert [new.id for _, new in outcome.began] == [2]
    assert outcome.entries == {entry.key: entry}
    assert not outcome.dropped


def test_what_is_cancelled_counts_anew(matcher: Matcher) -> None:
    automation = Automation()
    thrice = [candidate(matcher, "thrice", n) for n in range(3)]
    apply(automation, *thrice, second=3)
    (key,) = automation.episodes
    outcome = automation.cancel(
        [key, "no such"], now_ns=(NOW + 4) * NS, how="cancelled", by="root", reason="a mistake"
    )
    (ended,) = outcome.ended
    assert (ended.how, ended.by, ended.reason) == ("cancelled", "root", "a mistake")
    assert outcome.dropped == {key}
    assert len(automation.entries) == len(automation.episodes) == len(automation.thresholds) == 0
    again = [candidate(matcher, "thrice", 5 + n) for n in range(3)]
    assert not apply(automation, again[0], again[1], second=7).began
    assert apply(automation, again[2], second=8).began


def test_long_texts_are_cut(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, "slow " * 10_000))
    story = the(automation)
    assert story.first is not None
    assert len(story.first.response) == 501
    assert episode_from_payload(story.to_payload()) == story


_SLOW_OR_THRICE = st.tuples(st.sampled_from(["slow", "thrice"]), st.sampled_from("abc"))


@settings(deadline=None)
@given(
    said=st.lists(_SLOW_OR_THRICE, max_size=30),
    cuts=st.sets(st.integers(0, 30)),
    crash=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_batches_and_restarts_make_no_difference(
    matcher: Matcher, said: list[tuple[str, str]], cuts: set[int], crash: int, seed: int
) -> None:
    records = [candidate(matcher, text, n, site=site) for n, (text, site) in enumerate(said)]
    one_by_one = Automation()
    for n, one in enumerate(records):
        one_by_one.expire((NOW + n) * NS)
        apply(one_by_one, one, second=n)
    with Store.open(":memory:") as store:
        automation = Automation()
        for n, one in enumerate(records):
            if n == crash:  # what was not committed is gone, and nothing was
                automation, _, problems = restore(store.load())
                assert problems == []
            outcome = automation.expire((NOW + n) * NS)
            outcome.add(apply(automation, one, second=n))
            store.commit(transaction(automation, outcome))
        assert automation.episodes == one_by_one.episodes
        assert automation.episode_id == one_by_one.episode_id
    batched = Automation()
    batch: list[Candidate] = []
    rng = random.Random(seed)
    for n, one in enumerate(records):
        batch.append(one)
        if n in cuts or rng.random() < 0.3 or n == len(records) - 1:
            apply(batched, *batch, second=0)  # before anything expires
            batch = []
    alone = Automation()
    for one in records:
        apply(alone, one, second=0)
    assert batched.episodes == alone.episodes


def test_an_entry_whose_rule_is_gone_is_marked_until_the_rule_is_back(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, "slow"))
    rules = matcher.shaping.all_rules()
    assert not automation.mark_gone(rules)
    gone = automation.mark_gone(rules[1:])
    assert [story.rule_gone for story in gone.episodes.values()] == [True]
    assert the(automation).rule_gone
    assert not automation.mark_gone(rules[1:])
    automation.mark_gone(rules)
    assert not the(automation).rule_gone
