"""The state as it comes back from the store, damaged parts included."""

from __future__ import annotations

import json
from pathlib import Path

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import ReadyQSuspension, to_payload
from sidecar.service.state import restore, transaction
from sidecar.store import EntryRow, Saved, Store

NOW = 1_795_360_060_612_938_000


def suspension(seq: int = 7) -> ReadyQSuspension:
    return ReadyQSuspension(
        action_hash="a" * 64,
        site="ip1->mx@smtp_client",
        reason="automation rule: busy",
        expires_ns=NOW,
        seq=seq,
        source="ip1",
    )


def row(entry: ReadyQSuspension, payload: str | None = None) -> EntryRow:
    text = to_payload(entry) if payload is None else payload
    return EntryRow(entry.key, entry.kind, text, entry.expires_ns, entry.seq)


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    before = Automation()
    before.seq, before.newest_ns = 9, NOW
    before.thresholds.record("60 hash site", 60, 100)
    entry = suspension()
    before.restore(entry)
    story = before.episodes[entry.key]
    with Store.open(tmp_path / "state.db") as store:
        outcome = Outcome(entries={entry.key: entry}, episodes={entry.key: story})
        store.commit(transaction(before, outcome))
        after, cleaning, problems = restore(store.load())
    assert list(after.entries) == [entry]
    assert (after.episodes, after.episode_id) == ({entry.key: story}, story.id)
    assert (after.seq, after.newest_ns) == (9, NOW)
    assert after.thresholds.count("60 hash site") == 1
    assert not cleaning
    assert problems == []


def test_what_can_not_be_read_is_said_once_and_taken_out(tmp_path: Path) -> None:
    good, bad = suspension(), suspension()
    damaged = json.dumps({**json.loads(to_payload(bad)), "seq": "x"})
    with Store.open(tmp_path / "state.db") as store:
        changes = Saved(
            entries={
                good.key: row(good),
                "bad": EntryRow("bad", bad.kind, damaged, bad.expires_ns, bad.seq),
            },
            threshold_counts={("no scope of ours", 5): 1, ("60 h s", 5): 2},
        ).as_transaction()
        store.commit(changes)
        automation, cleaning, problems = restore(store.load())
        assert [e.key for e in automation.entries] == [good.key]
        assert len(problems) == 2
        store.commit(cleaning)
        automation, cleaning, problems = restore(store.load())
    assert problems == []
    assert not cleaning
    assert automation.thresholds.count("60 h s") == 2


def test_the_next_match_comes_after_every_entry_in_force() -> None:
    entry = suspension(seq=50)
    automation, _, _ = restore(Saved(entries={entry.key: row(entry)}, meta={"seq": "3"}))
    assert automation.seq == 50


def test_an_impossible_number_in_the_state_is_no_number() -> None:
    for text in ("9" * 30, "9" * 5000, "-1", "x", "", "٣"):
        automation, _, _ = restore(Saved(meta={"seq": text, "newest_ns": text}))
        assert (automation.seq, automation.newest_ns) == (0, 0)
