"""What is committed is what is loaded: all of it, once, in bounded room."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.problems import ProblemError
from sidecar.store import CheckpointRow, EntryRow, Saved, Store, Transaction, read_saved

from .samples import apply, batch, checkpoint, entry

names = st.sampled_from(["a", "b", "c", "ä", "\udcff.zst", "nul\0name"])
seconds = st.integers(0, 6)
numbers = st.integers(0, 3) | st.integers(2**63 - 1, 2**64)

checkpoint_rows = st.builds(
    CheckpointRow,
    inode=numbers,
    fingerprint=st.sampled_from(["", "64:ab", "\ud800"]),
    offset=st.integers(0, 2**62),
    lines=st.integers(0, 9),
    frame_start=st.integers(0, 9),
    frame_offset=st.integers(0, 9),
    done=st.booleans(),
    content=st.sampled_from(["", "cd", "\ud800"]),
)


@st.composite
def entry_maps(draw: st.DrawFn) -> dict[str, EntryRow]:
    return {
        key: EntryRow(
            key=key,
            kind=draw(st.sampled_from(["override", "ready_q", "sched_q", "bounce"])),
            payload=draw(st.sampled_from(["{}", '"\ud800"'])),
            expires_ns=draw(numbers),
            seq=draw(st.integers(0, 9)),
        )
        for key in draw(st.sets(names))
    }


transactions = st.builds(
    Transaction,
    checkpoints=st.dictionaries(names, checkpoint_rows, max_size=3),
    forget_segments=st.sets(names, max_size=2),
    entries=entry_maps(),
    drop_entries=st.sets(names, max_size=2),
    threshold_counts=st.dictionaries(st.tuples(names, seconds), st.integers(0, 5), max_size=6),
    prune_thresholds=st.dictionaries(names, seconds, max_size=2),
    drop_thresholds=st.sets(names, max_size=1),
    mx=st.dictionaries(names, st.just("{}"), max_size=2),
    drop_mx=st.sets(names, max_size=2),
    counters=st.dictionaries(names, numbers, max_size=2),
    kumod_ids=st.dictionaries(names, st.none() | st.just("id"), max_size=2),
    meta=st.dictionaries(names, names, max_size=2),
)


@given(st.lists(transactions, max_size=6))
def test_the_store_holds_what_the_transactions_add_up_to(sequence: list[Transaction]) -> None:
    expected = Saved()
    with Store.open(":memory:") as store:
        for transaction in sequence:
            store.commit(transaction)
            apply(expected, transaction)
        assert store.load() == expected


@given(st.lists(transactions, max_size=4))
def test_committing_again_changes_nothing(sequence: list[Transaction]) -> None:
    with Store.open(":memory:") as store:
        for transaction in sequence:
            store.commit(transaction)
            once = store.load()
            store.commit(transaction)
            assert store.load() == once


@given(transactions, st.lists(transactions, min_size=1, max_size=4))
def test_added_transactions_do_what_they_do_one_by_one(
    before: Transaction, sequence: list[Transaction]
) -> None:
    with Store.open(":memory:") as one_by_one, Store.open(":memory:") as together:
        one_by_one.commit(before)
        together.commit(before)
        merged = Transaction()
        for transaction in sequence:
            one_by_one.commit(transaction)
            merged.add(transaction)
        together.commit(merged)
        assert together.load() == one_by_one.load()


def test_an_empty_transaction_is_false_and_any_other_true() -> None:
    assert not Transaction()
    for change in (
        Transaction(forget_segments={"a"}),
        Transaction(kumod_ids={"a": None}),
        Transaction(drop_mx={"a"}),
        Transaction(meta={"a": ""}),
    ):
        assert change


def test_everything_is_there_after_closing_and_opening(path: Path) -> None:
    expected = Saved()
    with Store.open(path) as store:
        for number in range(1, 30):
            store.commit(batch(number))
            apply(expected, batch(number))
    with Store.open(path) as store:
        assert store.load() == expected
        assert store.problems == []
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db", "state.db.lock"]


def test_the_whole_state_can_be_written_into_an_empty_store(path: Path, store: Store) -> None:
    for number in range(1, 30):
        store.commit(batch(number))
    saved = store.load()
    with Store.open(path.with_name("other.db")) as other:
        other.commit(saved.as_transaction())
        assert other.load() == saved


def test_the_state_is_readable_by_another_while_it_is_in_use(path: Path, store: Store) -> None:
    for number in range(1, 30):
        store.commit(batch(number))
        assert read_saved(path) == store.load()
    store.close()
    before = path.read_bytes()
    assert read_saved(path).meta == {"batch": "29"}
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db", "state.db.lock"]


def test_reading_a_state_that_is_not_there_says_so(path: Path) -> None:
    with pytest.raises(ProblemError, match="there is no such state file"):
        read_saved(path)
    assert not path.exists()


def test_threads_may_take_turns(store: Store) -> None:
    def work(worker: int) -> None:
        for number in range(40):
            store.commit(Transaction(counters={f"{worker} {number}": number}))

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert store.load().counters == {f"{w} {n}": n for w in range(4) for n in range(40)}


def test_what_was_committed_is_in_the_file_itself_once_durable(path: Path, store: Store) -> None:
    store.commit(batch(5))
    assert store.make_durable()
    # Without its write-ahead log, as a machine that lost power may leave it.
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    assert read_saved(copy) == store.load()


def test_the_file_stays_small_however_much_goes_through_it(path: Path, store: Store) -> None:
    for round_ in range(40):
        keys = [f"{round_} {i}" for i in range(200)]
        store.commit(
            Transaction(
                checkpoints={f"segment {round_}": checkpoint(round_)},
                forget_segments={f"segment {round_ - 1}"},
                entries={key: entry(key, round_, size=300) for key in keys},
                drop_entries={f"{round_ - 1} {i}" for i in range(200)},
                threshold_counts={("scope", round_ * 100 + i): 1 for i in range(100)},
                prune_thresholds={"scope": round_ * 100},
            )
        )
    saved = store.load()
    assert (len(saved.entries), len(saved.checkpoints), len(saved.threshold_counts)) == (
        200,
        1,
        100,
    )
    store.close()
    assert path.stat().st_size < 400_000


def test_room_is_given_back_after_a_great_many_entries_have_gone(path: Path, store: Store) -> None:
    keys = [f"{i}" for i in range(6000)]
    store.commit(Transaction(entries={key: entry(key, 1, size=600) for key in keys}))
    store.make_durable()
    full = path.stat().st_size
    store.commit(Transaction(drop_entries=set(keys)))
    for number in range(2000):
        store.commit(Transaction(meta={"n": str(number)}))
    store.close()
    assert full > 3_600_000
    assert path.stat().st_size < full / 4


def test_scopes_without_counts_leave_nothing_behind(store: Store) -> None:
    store.commit(Transaction(threshold_counts={("a", 1): 1, ("b", 1): 1, ("c", 1): 1}))
    store.commit(Transaction(drop_thresholds={"a"}, prune_thresholds={"b": 2}))
    assert store.load().threshold_counts == {("c", 1): 1}
    assert store._connected().execute("SELECT scope FROM scopes").fetchall() == [("c",)]


def test_only_the_service_and_its_group_can_read_the_file(path: Path, store: Store) -> None:
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o037 == 0, file
