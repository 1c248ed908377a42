"""What is found at the state's place decides: used, refused untouched, or set aside."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.problems import ProblemError
from sidecar.store import (
    EntryRow,
    HistoryRow,
    Saved,
    Store,
    Transaction,
    read_saved,
    schema,
)

from .samples import batch, entry


def filled(path: Path) -> Saved:
    """Make a state with content at `path`; what it holds."""
    with Store.open(path) as store:
        store.commit(batch(7))
        keys = [f"e{i}" for i in range(300)]
        store.commit(Transaction(entries={key: entry(key, 8, size=200) for key in keys}))
        return store.load()


def set_aside(path: Path) -> list[Path]:
    """The files set aside, the main ones."""
    kept = path.parent.glob("state.db.corrupt-*")
    return sorted(file for file in kept if not file.name.endswith(("-wal", "-shm")))


def refused(path: Path) -> str:
    """Why `path` can't be opened; it must be left exactly as it is."""
    before = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    with pytest.raises(ProblemError) as caught:
        Store.open(path)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == stamp
    assert {f.name for f in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}
    return str(caught.value)


def test_a_fresh_file_is_marked_as_ours(path: Path) -> None:
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert schema.pragma(connection, "application_id") == schema.APPLICATION_ID
        assert schema.pragma(connection, "user_version") == schema.VERSION
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert schema.tables(connection) == schema.TABLES


def test_a_missing_directory_is_made_for_the_service_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "tsa-sidecar" / "state.db"
    Store.open(path).close()
    assert path.parent.stat().st_mode & 0o777 == 0o750 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_directory_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProblemError, match=r"--state or TSA_SIDECAR_STATE"):
        Store.open(tmp_path / "file" / "state.db")


def test_a_newer_file_is_refused_untouched(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    newer = rf"version {schema.VERSION + 1}, .* knows versions up to {schema.VERSION}"
    assert re.search(newer, refused(path))
    with pytest.raises(ProblemError, match=newer):
        read_saved(path)


def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    assert "is no state of tsa-sidecar and was left alone" in refused(path)


@pytest.mark.parametrize("name", ["shaping.toml", "state", "tsa_init.lua"])
def test_a_file_of_another_kind_is_refused_untouched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("[default]\nconnection_limit = 10\n" * 100)
    assert "is no state of tsa-sidecar and was left alone" in refused(path)


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    for use in (Store.open, read_saved):
        with pytest.raises(ProblemError, match="is a directory: name a file with --state"):
            use(path)


def test_a_loop_of_links_is_refused(path: Path) -> None:
    path.symlink_to(path.name)
    with pytest.raises(ProblemError):
        Store.open(path)


def test_a_link_is_followed_and_kept(path: Path) -> None:
    path.symlink_to("real.db")
    filled(path)
    assert path.is_symlink()
    with pytest.raises(ProblemError, match="is using this state"), Store.open(path):
        Store.open(path.with_name("real.db"))


def test_an_empty_file_never_used_before_becomes_a_state(path: Path) -> None:
    path.touch()
    with Store.open(path) as store:
        assert store.problems == []
        store.commit(batch(1))


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _cut_in_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _page_overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 * 12 : 4096 * 13] = os.urandom(4096)
    path.write_bytes(data)


def _tables_gone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE segments")


DAMAGES = [
    _garbage,
    _emptied,
    _cut_in_the_header,
    _cut_in_the_middle,
    _page_overwritten,
    _tables_gone,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__.strip("_"))
def test_a_damaged_file_is_set_aside_whole_and_loudly(path: Path, damage: object) -> None:
    assert callable(damage)
    filled(path)
    damage(path)
    damaged = path.read_bytes()
    with Store.open(path) as store:
        assert store.load() == Saved()
        (problem,) = store.problems
        store.commit(batch(1))
    (aside,) = set_aside(path)
    assert re.fullmatch(r"state\.db\.corrupt-\d{8}T\d{6}Z", aside.name)
    assert aside.read_bytes() == damaged
    assert (problem.level, problem.code, problem.file) == ("error", "state-corrupt", str(path))
    assert str(aside) in problem.message
    with Store.open(path) as store:
        assert store.problems == []
        assert store.load().meta == {"batch": "1"}


def test_damaged_files_never_overwrite_each_other(path: Path) -> None:
    for number in range(3):
        filled(path)
        path.write_bytes(b"%d" % number * 5000)
        Store.open(path).close()
    assert [file.read_bytes()[:1] for file in set_aside(path)] == [b"0", b"1", b"2"]


def test_the_write_ahead_log_is_set_aside_with_its_file(path: Path) -> None:
    with Store.open(path) as store:
        store.commit(batch(1))
        wal = path.with_name("state.db-wal").read_bytes()
        data = path.read_bytes()
    path.write_bytes(b"\0" * len(data))
    path.with_name("state.db-wal").write_bytes(wal)
    with Store.open(path) as store:
        assert store.load() == Saved()
    (aside,) = set_aside(path)
    assert aside.with_name(aside.name + "-wal").read_bytes() == wal


def test_a_write_ahead_log_alone_is_kept(path: Path) -> None:
    with Store.open(path) as store:
        store.commit(batch(1))
        wal = path.with_name("state.db-wal").read_bytes()
    path.unlink()
    path.with_name("state.db-wal").write_bytes(wal)
    with Store.open(path) as store:
        assert "missing" in store.problems[0].message
        assert store.load() == Saved()
    (kept,) = path.parent.glob("state.db.corrupt-*-wal")
    assert kept.read_bytes() == wal


def test_a_deleted_file_is_simply_made_again(path: Path) -> None:
    filled(path)
    path.unlink()
    with Store.open(path) as store:
        assert store.problems == []
        assert store.load() == Saved()


def test_a_creation_that_was_interrupted_is_not_in_the_way(path: Path) -> None:
    path.with_name("state.db.new").write_bytes(b"half made")
    with Store.open(path) as store:
        store.commit(batch(1))
    assert not path.with_name("state.db.new").exists()


def test_an_older_file_is_read_without_being_changed(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, schema.MIGRATIONS[:1])
        connection.execute("INSERT INTO meta VALUES ('seq', '7')")
    before = path.read_bytes()
    assert read_saved(path) == Saved(meta={"seq": "7"})
    assert path.read_bytes() == before


def test_an_older_file_is_migrated_with_its_content(path: Path) -> None:
    saved = filled(path)
    later = (
        *schema.MIGRATIONS,
        ("ALTER TABLE mx ADD COLUMN note TEXT", "CREATE TABLE more (x)"),
        ("INSERT INTO more VALUES (1)",),
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert schema.migrate(connection, later)
        assert not schema.migrate(connection, later)
        assert schema.pragma(connection, "user_version") == schema.VERSION + 2
        assert connection.execute("SELECT x FROM more").fetchall() == [(1,)]
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    assert read_saved(path) == saved


def test_a_file_of_the_first_version_is_opened(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, schema.MIGRATIONS[:1])
        connection.execute("INSERT INTO meta VALUES ('seq', '7')")
    before = path.read_bytes()
    assert read_saved(path) == Saved(meta={"seq": "7"})
    assert path.read_bytes() == before
    with Store.open(path) as store:
        assert store.load() == Saved(meta={"seq": "7"})
        store.commit(Transaction(waiting={7: "{}"}))
    assert read_saved(path) == Saved(meta={"seq": "7"}, waiting={7: "{}"})


def test_entries_of_the_third_version_have_no_story_yet(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, schema.MIGRATIONS[:3])
        connection.execute("INSERT INTO entries VALUES ('key', 'override', '{}', 5, 1)")
    with Store.open(path) as store:
        assert store.load().entries == {"key": EntryRow("key", "override", "{}", 5, 1)}


def test_the_history_is_kept_for_as_long_and_as_many_as_asked(path: Path) -> None:
    rows = {n: HistoryRow(100 * n, "override", "{}", f"{n}", "expired") for n in range(1, 8)}
    with Store.open(path) as store:
        store.commit(Transaction(history=rows))
        assert store.load() == Saved()
        assert read_saved(path, history=True).history == rows
        store.commit(Transaction(prune_history=(300, 3)))
    kept = {n: rows[n] for n in (5, 6, 7)}
    assert read_saved(path, history=True).history == kept
    with Store.open(path) as store:
        store.commit(Transaction(prune_history=(600, 3)))
    assert read_saved(path, history=True).history.keys() == {6, 7}


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    saved = filled(path)
    broken = (*schema.MIGRATIONS, ("DROP TABLE entries", "THIS IS NO SQL"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.Error):
            schema.migrate(connection, broken)
        assert schema.pragma(connection, "user_version") == schema.VERSION
    assert read_saved(path) == saved


def test_a_state_that_another_program_holds_is_said_at_the_start(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("PRAGMA locking_mode = EXCLUSIVE")
        shell.execute("BEGIN EXCLUSIVE")
        shell.execute("DELETE FROM mx")
        with pytest.raises(ProblemError, match="end what else has it open"):
            Store.open(path)


def test_a_damaged_state_is_not_read_for_export(path: Path) -> None:
    filled(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ProblemError, match="the state is damaged"):
        read_saved(path)
    assert set_aside(path) == []


def test_a_name_that_no_file_can_have_is_a_problem_for_a_reader_too(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="File name too long"):
        read_saved(tmp_path / ("x" * 300))
