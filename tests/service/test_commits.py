"""What was decided between two commits: in the store as it ended, published after it was kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import Entry, ReadyQSuspension
from sidecar.automation.episodes import Episode
from sidecar.problems import Problem
from sidecar.service.commits import Commits
from sidecar.service.logging import Log
from sidecar.store import Store, StoreError, Transaction
from sidecar.times import NS

FAR = 2_000_000_000 * NS
HELD = ReadyQSuspension("a" * 64, "ip1->mx.one.example@smtp_client", "busy", FAR, 1, "ip1")
OTHER = replace(HELD, action_hash="b" * 64)


class Kept:
    """A store with commits, and what was published."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(path)
        self.store.load()
        self.published: list[Outcome] = []
        self.commits = Commits(
            self.store,
            everything=Transaction,
            log=Log(stream=io.StringIO()),
        )

    def commit(self) -> bool:
        """Whether the disk had it; what may be published is noted."""
        committed = self.commits.try_commit()
        if committed:
            self.published.append(committed)
        return committed is not None

    def put(self, *entries: Entry) -> None:
        outcome = Outcome()
        for entry in entries:
            outcome.put(entry.key, entry, Episode(id=1, began_ns=0, matches=1))
            assert isinstance(entry, ReadyQSuspension)
            outcome.events.append(entry)
        self.commits.add(Transaction(), outcome)

    def expire(self, *entries: Entry) -> None:
        outcome = Outcome()
        for entry in entries:
            outcome.drop(entry.key)
        self.commits.add_unpublished(outcome)

    def stored(self) -> set[tuple[str, int]]:
        return {(key, row.expires_ns) for key, row in self.store.load().entries.items()}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path / "state.db")
    with kept.store:
        yield kept


def test_what_expires_before_its_commit_is_not_stored(kept: Kept) -> None:
    kept.put(HELD, OTHER)
    kept.expire(HELD)
    assert kept.commit()
    assert kept.stored() == {(OTHER.key, FAR)}


def test_what_comes_again_after_it_expired_is_stored(kept: Kept) -> None:
    kept.put(HELD)
    assert kept.commit()
    again = replace(HELD, expires_ns=FAR + NS)
    kept.expire(HELD)
    kept.put(again)
    assert kept.commit()
    assert kept.stored() == {(HELD.key, FAR + NS)}


def test_nothing_is_published_that_is_not_stored(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_transaction: Transaction) -> None:
        raise StoreError(Problem("error", "state-write", "disk full"))

    kept.put(HELD)
    with monkeypatch.context() as patched:
        patched.setattr(kept.store, "commit", full)
        assert not kept.commit()
        kept.put(replace(HELD, expires_ns=FAR + NS))
        assert not kept.commit()
        kept.expire(OTHER)
        assert kept.published == []
    assert kept.commit()
    assert [(list(o.entries), len(o.events)) for o in kept.published] == [([HELD.key], 2)]
    assert kept.stored() == {(HELD.key, FAR + NS)}
    assert kept.commit()
    assert len(kept.published) == 1
