"""A disk that won't have it: nothing is half stored, and work goes on when the fault ends."""

from __future__ import annotations

import gc
import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sidecar.problems import ProblemError
from sidecar.store import Saved, Store, StoreError, StoreLostError, Transaction

from .samples import apply, batch, checkpoint, entry


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow past `size` bytes (as ``LimitFSIZE=`` of systemd)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be someone else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """A directory of the unprivileged user's; pytest's are in one that only root can enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if os.geteuid() == 0:
            os.chown(directory, 65534, -1)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def commit_failing(store: Store, transaction: Transaction) -> StoreError:
    with pytest.raises(StoreError) as caught:
        store.commit(transaction)
    assert not isinstance(caught.value, StoreLostError)
    assert caught.value.problem.level == "error"
    return caught.value


def test_a_file_size_limit_keeps_a_batch_out_whole_until_it_ends(path: Path, store: Store) -> None:
    expected = Saved()
    store.commit(batch(1))
    apply(expected, batch(1))
    wal = path.with_name("state.db-wal")
    large = batch(2, size=50_000)
    with largest_file(wal.stat().st_size + 5000):
        error = commit_failing(store, large)
        assert error.problem.file == str(path)
        assert "see to its disk" in error.problem.message
        assert store.load() == expected
        commit_failing(store, large)
    store.commit(large)
    apply(expected, large)
    assert store.load() == expected
    store.close()
    with Store.open(path) as again:
        assert again.load() == expected
        assert again.problems == []


def test_a_full_disk_keeps_a_batch_out_whole_until_there_is_room(store: Store) -> None:
    expected = Saved()
    store.commit(batch(1))
    apply(expected, batch(1))
    # SQLite's own ceiling gives the error that ENOSPC gives.
    connection = store._connected()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (before,) = connection.execute("PRAGMA max_page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 1}").fetchone()
    waiting = Transaction()
    for number in range(2, 30):
        waiting.add(batch(number, size=20_000))
        error = commit_failing(store, waiting)
        assert error.problem.code == "state-full"
        assert "make room on its disk" in error.problem.message
        apply(expected, batch(number, size=20_000))
    connection.execute(f"PRAGMA max_page_count = {before}").fetchone()
    store.commit(waiting)
    assert store.load() == expected


def test_another_programs_lock_keeps_a_batch_out_until_it_is_gone(path: Path, store: Store) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        error = commit_failing(store, batch(1))
        assert error.problem.code == "state-locked"
        assert store.load() == Saved()
        shell.execute("ROLLBACK")
    store.commit(batch(1))
    assert store.load().meta == {"batch": "1"}


def test_a_reader_is_not_in_the_way_of_commits_but_of_durability(path: Path, store: Store) -> None:
    store.commit(batch(1))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT value FROM meta").fetchall() == [("1",)]
        store.commit(batch(2))
        assert not store.make_durable()
        assert reader.execute("SELECT value FROM meta").fetchall() == [("1",)]
    assert store.make_durable()


def test_a_directory_that_is_read_only_is_said_at_the_start(own_directory: Path) -> None:
    own_directory.chmod(0o555)
    with unprivileged(), pytest.raises(ProblemError) as caught:
        Store.open(own_directory / "state.db")
    (problem,) = caught.value.problems
    assert problem.code == "state-unwritable"
    assert "Permission denied" in problem.message
    assert "--state or TSA_SIDECAR_STATE" in problem.message
    assert list(own_directory.iterdir()) == []


def test_a_file_that_is_read_only_is_said_at_the_start(own_directory: Path) -> None:
    path = own_directory / "state.db"
    with unprivileged():
        Store.open(path).close()
        before = path.read_bytes()
        path.chmod(0o440)
        with pytest.raises(ProblemError) as caught:
            Store.open(path)
    (problem,) = caught.value.problems
    assert problem.code == "state-unwritable"
    assert path.read_bytes() == before
    with unprivileged():
        path.chmod(0o640)
        Store.open(path).close()


def test_a_state_deleted_while_in_use_is_said_and_written_anew(path: Path, store: Store) -> None:
    for number in range(1, 9):
        store.commit(batch(number))
    whole = store.load()
    for file in path.parent.glob("state.db*"):
        if file.suffix != ".lock":
            file.unlink()
    with pytest.raises(StoreLostError, match="deleted while in use"):
        store.commit(batch(9))
    assert store.load() == Saved()
    (problem,) = store.problems
    assert (problem.level, problem.code) == ("error", "state-lost")
    apply(whole, batch(9))
    store.commit(whole.as_transaction())
    store.close()
    with Store.open(path) as again:
        assert again.load() == whole


def test_a_state_replaced_while_in_use_is_set_aside(path: Path, store: Store) -> None:
    store.commit(batch(1))
    backup = path.with_name("backup.db")
    with Store.open(backup) as other:
        other.commit(batch(50))
    content = backup.read_bytes()
    backup.rename(path)
    with pytest.raises(StoreLostError, match="replaced while in use"):
        store.commit(batch(2))
    store.commit(batch(2))
    assert store.load().meta == {"batch": "2"}
    (aside,) = (f for f in path.parent.glob("state.db.replaced-*") if f.name[-4] != "-")
    assert aside.read_bytes() == content


def _damage(path: Path, store: Store) -> None:
    """Fill the store past what SQLite keeps in memory, and overwrite all but the first page."""
    keys = [f"e{i}" for i in range(12_000)]
    store.commit(Transaction(entries={key: entry(key, 1, size=500) for key in keys}))
    store.commit(Transaction(checkpoints={f"s{i}": checkpoint(i) for i in range(3000)}))
    assert store.make_durable()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def test_damage_met_by_a_commit_is_set_aside_loudly(path: Path, store: Store) -> None:
    _damage(path, store)
    damaged = path.read_bytes()[4096:]
    with pytest.raises(StoreLostError, match="malformed"):
        store.commit(Transaction(drop_entries={f"e{i}" for i in range(12_000)}))
    (problem,) = store.problems
    assert (problem.level, problem.code) == ("error", "state-corrupt")
    store.commit(batch(1))
    assert store.load().meta == {"batch": "1"}
    (aside,) = (f for f in path.parent.glob("state.db.corrupt-*") if f.name[-4] != "-")
    assert aside.read_bytes()[4096:] == damaged


def test_damage_met_while_loading_is_set_aside_loudly(path: Path, store: Store) -> None:
    _damage(path, store)
    assert store.load() == Saved()
    (problem,) = store.problems
    assert problem.code == "state-corrupt"
    store.commit(batch(1))
    assert store.load().meta == {"batch": "1"}


def test_setting_aside_waits_for_a_disk_that_takes_it(own_directory: Path) -> None:
    path = own_directory / "state.db"
    with unprivileged(), Store.open(path) as store:
        store.commit(batch(1))
        path.unlink()
        own_directory.chmod(0o555)
        for _ in range(2):
            assert commit_failing(store, batch(2)).problem.code == "state-unwritable"
        own_directory.chmod(0o755)
        with pytest.raises(StoreLostError):
            store.commit(batch(2))
        store.commit(batch(2))
        assert store.load().meta == {"batch": "2"}


def test_a_fault_that_costs_the_connection_ends_with_its_cause(own_directory: Path) -> None:
    path = own_directory / "state.db"
    with unprivileged(), Store.open(path) as store:
        store.commit(batch(1))
        with largest_file(path.with_name("state.db-wal").stat().st_size):
            commit_failing(store, batch(2, size=50_000))
        path.chmod(0o400)
        assert commit_failing(store, batch(2)).problem.code == "state-unwritable"
        with pytest.raises(StoreError, match="Permission denied"):
            store.load()
        with pytest.raises(StoreError, match="Permission denied"):
            store.make_durable()
        path.chmod(0o640)
        assert store.load().meta == {"batch": "1"}
        store.commit(batch(2))
        assert store.load().meta == {"batch": "2"}
        assert store.problems == []


def test_a_directory_that_cannot_be_entered_any_more_is_waited_for(own_directory: Path) -> None:
    with unprivileged(), Store.open(own_directory / "state.db") as store:
        store.commit(batch(1))
        own_directory.chmod(0o000)
        assert commit_failing(store, batch(2)).problem.code == "state-unwritable"
        own_directory.chmod(0o755)
        store.commit(batch(2))
        assert store.load().meta == {"batch": "2"}


def test_text_that_is_damaged_within_a_whole_page_is_noticed(path: Path) -> None:
    with Store.open(path) as store:
        store.commit(Transaction(meta={"name": "spoilt here"}))
    data = path.read_bytes()
    assert data.count(b"spoilt here") == 1
    path.write_bytes(data.replace(b"spoilt here", b"spoil\xff here"))
    with Store.open(path) as store:
        assert store.load() == Saved()
        assert [problem.code for problem in store.problems] == ["state-corrupt"]
        # The connection to the damaged file is closed and done with: its WAL has gone, and
        # nothing of it can take the new file's away.
        (aside,) = path.parent.glob("state.db.corrupt-*")
        store.commit(batch(1))
        gc.collect()
        assert path.with_name("state.db-wal").stat().st_size > 0
        assert aside.exists()


def test_a_mistake_of_the_caller_costs_neither_the_state_nor_the_transaction_before(
    path: Path, store: Store
) -> None:
    store.commit(batch(1))
    before = store.load()
    for wrong in (
        Transaction(counters={"c": 5}, meta={"m": None}),  # type: ignore[dict-item]
        Transaction(counters={"c": 5}, threshold_counts={("s", 2**70): 1}),
        Transaction(counters={"c": 5}, meta={"m": object()}),  # type: ignore[dict-item]
    ):
        with pytest.raises((AttributeError, OverflowError)):
            store.commit(wrong)
        assert store.load() == before
    assert store.problems == []


def test_a_closed_store_is_not_opened_again_by_using_it(path: Path, store: Store) -> None:
    store.close()
    for use in (store.load, store.make_durable, lambda: store.commit(batch(1))):
        with pytest.raises(RuntimeError, match="the store is closed"):
            use()
    assert [file.name for file in path.parent.glob("state.db-*")] == []
