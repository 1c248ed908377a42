"""The state on disk: one SQLite file, one transaction a batch.

In: :class:`Transaction` values.  Out: :class:`Saved`, and a
:class:`StoreError` when the disk won't take a transaction; the same one may
then be committed again later.

Why no fsync per batch is needed: the log position after a batch is in the same
transaction as the batch's effects.  In WAL mode with ``synchronous=NORMAL`` a
process that dies loses nothing that was committed; a machine that loses power
loses the latest transactions *whole* (SQLite's checksummed frames see to that),
so the position goes back together with the effects and the log is read again
from there.  The one thing that must not run ahead of the disk is deleting the
log itself: call :meth:`Store.make_durable` before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from ..problems import Problem, ProblemError
from . import statements
from .lock import FileLock, lock_state
from .rows import HistoryRow, Saved, Transaction
from .schema import APPLICATION_ID, TABLES, VERSION, migrate, pragma, tables

_ANOTHER = "or name another with --state or TSA_SIDECAR_STATE"

_BUSY_SECONDS = 0.25  # we are the only writer; a person with the sqlite3 shell may be another
_WAL_BYTES_KEPT = 8 * 1024 * 1024
_TIDY_EVERY = 256  # commits
_TIDY_PAGES = 256  # freed at once: about a millisecond's work
_SMALLEST = 512  # bytes: the smallest page that SQLite knows
_LOCK = ".lock"
_DATABASE_SUFFIXES = frozenset({".db", ".db3", ".sqlite", ".sqlite3"})

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUR_MISTAKES = (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.IntegrityError)


class StoreError(Exception):
    """A transaction wasn't committed, nor any part of it.  It may be committed again later."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class StoreLostError(StoreError):
    """The file was damaged or taken away: the store is usable and *empty*.

    Whoever holds the whole state commits all of it now, not just the last batch.
    """


class Store:
    """The state file, open and locked against other processes.

    Made by :meth:`open`.  Methods may be called from any thread
    (``asyncio.to_thread``), one at a time: a lock sees to that.
    """

    def __init__(self, path: Path | None, connection: sqlite3.Connection) -> None:
        """For :meth:`open`; `path` is None for a state in memory."""
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._place = None if path is None else _place(path)
        self._process_lock: FileLock | None = None
        self._thread_lock = threading.Lock()
        self._commits = 0
        self.problems: list[Problem] = []
        """What has befallen the file, to be logged and shown: set aside, disappeared."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open `path` (``:memory:`` for a state that is never written), creating what is missing.

        ProblemError, with nothing changed, where the file is another program's
        or a newer version's, is in use by another process, or can't be had.  A
        damaged file is set aside under a new name, see :attr:`problems`.
        """
        if os.fspath(path) == ":memory:":
            connection = _connect(":memory:")
            migrate(connection)
            return cls(None, connection)
        file = _resolve(Path(path))
        _make_directory(file)
        lock = lock_state(lock_path(file), subject=str(file))
        try:
            problem = _prepare(file, used_before=lock.used_before)
            with _as_problem(file):
                store = cls(file, _connect_file(file))
        except BaseException:
            lock.release()
            raise
        lock.announce()
        store._process_lock = lock
        if problem is not None:
            store.problems.append(problem)
        return store

    def load(self) -> Saved:
        """Everything stored but the history.

        A file that turns out damaged is set aside (see :attr:`problems`) and
        the answer is empty.  StoreError where it can't be read now.
        """
        with self._thread_lock:
            try:
                return statements.read(self._connected())
            except (sqlite3.Error, OSError, ValueError) as error:
                try:
                    self._failed(error)
                except StoreLostError:
                    return Saved()

    def ended(self, since_ns: int, most: int) -> list[HistoryRow]:
        """The latest of the history since that moment, at most so many, the latest last.

        Nothing where it can't be read now: it is for people to look at.
        """
        with self._thread_lock:
            try:
                return statements.read_ended(self._connected(), since_ns, most)
            except (sqlite3.Error, OSError, ValueError):
                return []

    def commit(self, transaction: Transaction) -> None:
        """Store `transaction` wholly, or raise StoreError and store nothing of it.

        StoreLostError where the file was lost and the store starts from nothing.
        """
        with self._thread_lock:
            self._check_place()
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                statements.write(connection, transaction)
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
            except BaseException:
                self._roll_back()
                raise
            self._commits += 1
            if self._commits % _TIDY_EVERY == 0:
                self._tidy()

    def make_durable(self) -> bool:
        """Force what was committed to the disk; False where a reader is in the way: try later.

        For the caller that then deletes log segments, which can't be read again.
        StoreError as :meth:`commit`.
        """
        with self._thread_lock:
            self._check_place()
            try:
                (busy, _, _) = self._connected().execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
            return not busy

    def close(self) -> None:
        """Close the file and let the next process in.  May be called again."""
        with self._thread_lock:
            self._disconnect()
            if self._process_lock is not None:
                self._process_lock.release()
                self._process_lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew where a fault has cost it."""
        if self._connection is None:
            if self._path is None or self._process_lock is None:
                raise RuntimeError("the store is closed")
            self._connection = _connect_file(self._path)
            self._place = _place(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            # The last connection to close copies the WAL into the file; if the disk
            # won't have it, the WAL stays and is read at the next start.
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._disconnect()

    def _failed(self, error: Exception) -> NoReturn:
        """Undo what `error` interrupted and raise what the caller is to know."""
        # A cursor that lives on in the traceback keeps SQLite's connection half open after
        # its close, and at its end SQLite deletes the -wal by name: the next connection's.
        traceback.clear_frames(error.__traceback__)
        self._roll_back()
        if self._path is None or isinstance(error, _OUR_MISTAKES):
            raise error
        if _is_corrupt(error):
            self._start_over(self._path, str(error))
        code = _primary_code(error)
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL):
            # After an I/O error or a file system turned read-only a connection can stay
            # unusable though the cause has gone: take a new one the next time.
            self._disconnect()
        raise StoreError(_explain(error, self._path)) from error

    def _check_place(self) -> None:
        """Notice that the file was deleted or replaced under us: SQLite wouldn't, in WAL mode."""
        if self._path is None or self._process_lock is None:
            return
        try:
            place = _place(self._path)
        except FileNotFoundError:
            self._start_over(self._path, "it was deleted while in use", suffix="replaced")
        except OSError as error:
            raise StoreError(_explain(error, self._path)) from error
        if place != self._place:
            self._start_over(self._path, "it was replaced while in use", suffix="replaced")

    def _start_over(self, path: Path, reason: str, *, suffix: str = "corrupt") -> NoReturn:
        """Set the file aside, make an empty one, and raise StoreLostError (or StoreError)."""
        self._disconnect()
        try:
            problem = _set_aside(path, reason, suffix=suffix)
            self.problems.append(problem)
            _create(path)
            self._connection = _connect_file(path)
            self._place = _place(path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(_explain(error, path)) from error
        raise StoreLostError(problem)

    def _tidy(self) -> None:
        """Give room back to the file system when a good part of the file is unused."""
        connection = self._connected()
        with contextlib.suppress(sqlite3.Error):  # the next commit says what is wrong
            unused = pragma(connection, "freelist_count")
            if unused > _TIDY_PAGES and unused * 4 > pragma(connection, "page_count"):
                # Each step frees one page, and only executescript takes all the steps.
                connection.executescript(f"PRAGMA incremental_vacuum({_TIDY_PAGES})")


def read_saved(path: str | os.PathLike[str], *, history: bool = False) -> Saved:
    """Everything in the state file `path`, without changing or locking it.

    What has ended comes with it where `history` is asked for.
    For ``state export`` and the like, while the service may be running.
    ProblemError where there is no such file, or it isn't a usable state.
    """
    file = _resolve(Path(path))
    with _as_problem(file):
        if not file.exists():
            raise ProblemError.one("state-missing", "there is no such state file", file=str(file))
    _refuse_other_kinds(file)
    damage = _examine(file)
    if damage is not None:
        raise ProblemError.one("state-corrupt", f"the state is damaged: {damage}", file=str(file))
    with _as_problem(file), contextlib.closing(_connect_read_only(file)) as connection:
        if pragma(connection, "user_version") == VERSION:
            return statements.read(connection, history=history)
        # It is migrated where it may be changed: in memory.
        with contextlib.closing(_connect(":memory:")) as copy:
            connection.backup(copy)
            migrate(copy)
            return statements.read(copy, history=history)


def lock_path(path: Path) -> Path:
    """The file whose lock tells whether a service runs with the state file `path`."""
    return path.with_name(path.name + _LOCK)


def state_files(path: Path) -> set[Path]:
    """The state file `path` and what SQLite and the lock keep beside it."""
    return {path.with_name(path.name + end) for end in ("", "-journal", "-shm", "-wal", _LOCK)}


def _resolve(path: Path) -> Path:
    """The file itself: two names of one state must find the same lock."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links
        raise ProblemError.one("state-unwritable", str(error), file=str(path)) from error


def _make_directory(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ProblemError.one(
            "state-directory",
            f"can't make the directory {file.parent} ({error.strerror}): make it, owned by "
            f"the user that tsa-sidecar runs as, {_ANOTHER}",
            file=str(file),
        ) from error


def _prepare(file: Path, *, used_before: bool) -> Problem | None:
    """See to it that `file` is a state of this version; a Problem where one was set aside."""
    _refuse_other_kinds(file)
    problem = None
    damage = _examine(file, used_before=used_before)
    with _as_problem(file):
        if damage is not None:
            problem = _set_aside(file, damage, suffix="corrupt")
        if not file.exists() or file.stat().st_size == 0:
            _create(file)
    return problem


def _refuse_other_kinds(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ProblemError([_explain(error, file)]) from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise ProblemError.one(
            "state-foreign", f"is {kind}: name a file with --state", file=str(file)
        )


def _examine(file: Path, *, used_before: bool = False) -> str | None:
    """What is damaged in `file`, None where nothing is; the file isn't touched.

    ProblemError where it isn't ours, is newer, or can't be read.
    """
    # Of a file that is no database at all, only the place can tell whether it was one.
    maybe_ours = used_before or file.suffix in _DATABASE_SUFFIXES
    try:
        wal = file.with_name(file.name + "-wal")
        orphaned = wal.exists() and wal.stat().st_size > 0
        if not file.exists():
            return "it is missing, but not its write-ahead log" if orphaned else None
        if file.stat().st_size == 0:
            # We make files whole and then name them so: an empty one is none of ours,
            # unless someone emptied it.
            return "it is empty" if used_before or orphaned else None
        if file.stat().st_size < _SMALLEST and maybe_ours:
            return "it is cut off"  # SQLite would take it for an empty database
        with contextlib.closing(_connect_read_only(file)) as connection:
            return _examine_open(file, connection)
    except (OSError, sqlite3.Error) as error:
        if not _is_corrupt(error):
            raise ProblemError([_explain(error, file)]) from error
        if _primary_code(error) == sqlite3.SQLITE_NOTADB and not maybe_ours:
            raise _foreign(file) from error
        return str(error)


def _examine_open(file: Path, connection: sqlite3.Connection) -> str | None:
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise _foreign(file)
    version = pragma(connection, "user_version")
    if version > VERSION:
        raise ProblemError.one(
            "state-newer",
            f"is a state of version {version}, this tsa-sidecar knows versions up to {VERSION}: "
            f"run the newer tsa-sidecar, {_ANOTHER}",
            file=str(file),
        )
    if version < 1 or (version == VERSION and not tables(connection) >= TABLES):
        return "tables are missing"
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if verdict == "ok" else str(verdict)


def _foreign(file: Path) -> ProblemError:
    return ProblemError.one(
        "state-foreign",
        f"is no state of tsa-sidecar and was left alone: move it away, {_ANOTHER}",
        file=str(file),
    )


def _set_aside(file: Path, reason: str, *, suffix: str) -> Problem:
    """Rename `file` and what SQLite keeps beside it; never delete, never overwrite.  OSError."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    wanted = file.with_name(f"{file.name}.{suffix}-{now}")
    aside, number = wanted, 1
    while any(aside.with_name(aside.name + part).exists() for part in ("", "-wal", "-shm")):
        number += 1
        aside = wanted.with_name(f"{wanted.name}-{number}")
    moved = []
    # The file itself last: what stays after a fault in between is still seen as damaged.
    for part in ("-shm", "-wal", ""):
        source = file.with_name(file.name + part)
        if source.exists():
            target = aside.with_name(aside.name + part)
            source.rename(target)
            moved.append(target)
    kept = f"kept as {moved[-1]}" if moved else "nothing was left of it"
    return Problem(
        "error",
        "state-lost" if suffix == "replaced" else "state-corrupt",
        f"the state can't be used any more ({reason}); {kept}. A new state was started: what "
        "the log segments still there don't tell is lost; `tsa-sidecar state import` takes a "
        "backup",
        file=str(file),
    )


def _create(file: Path) -> None:
    """Make an empty state: under another name first, so that it is never seen half made."""
    new = file.with_name(file.name + ".new")
    for part in ("", "-wal", "-shm"):
        new.with_name(new.name + part).unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    connection = _connect(_uri(new, "rw"))
    try:
        migrate(connection)
    finally:
        connection.close()
    new.rename(file)


def _connect_file(file: Path) -> sqlite3.Connection:
    # SQLite would make do with reading, and leave a -wal and -shm as unwritable as the file,
    # which stay so when the file's mode is put right.
    os.close(os.open(file, os.O_RDWR | os.O_CLOEXEC))
    connection = _connect(_uri(file, "rw"))
    try:
        if migrate(connection):
            # Into the file itself at once: an older program looks there before it refuses.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(target: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target,
        uri=target != ":memory:",
        timeout=_BUSY_SECONDS,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # Store's own lock keeps threads apart
    )
    try:
        # Before anything is written: it can't be changed after the first page.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode not in ("wal", "memory"):
            raise OSError(errno.ENOTSUP, "this file system can't hold SQLite's write-ahead log")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}").fetchone()
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_read_only(file: Path) -> sqlite3.Connection:
    # With no WAL the file is complete, and "immutable" leaves not even a -shm behind.
    wal = file.with_name(file.name + "-wal")
    target = _uri(file, "ro") if wal.exists() else _uri(file, "ro") + "&immutable=1"
    return sqlite3.connect(target, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _uri(file: Path, mode: str) -> str:
    return f"{file.as_uri()}?mode={mode}"


def _place(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _primary_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_corrupt(error: BaseException) -> bool:
    """Whether `error` means that the file's content is damaged (and not the disk, or its room)."""
    if isinstance(error, ValueError):
        return True  # a row that isn't what we write
    code = _primary_code(error)
    # Python itself raises OperationalError, without a code, for text that isn't UTF-8.
    return code in _CORRUPT or (code is None and isinstance(error, sqlite3.OperationalError))


@contextlib.contextmanager
def _as_problem(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise ProblemError([_explain(error, file)]) from error


def _explain(error: Exception, file: Path) -> Problem:
    """`error` for the operator: what it is about, and the remedy."""
    if isinstance(error, OSError):
        return Problem(
            "error",
            "state-unwritable",
            f"{error.strerror or error}: see to the file, its directory and its disk, {_ANOTHER}",
            file=str(file),
        )
    code, remedy = {
        sqlite3.SQLITE_FULL: ("state-full", "make room on its disk"),
        sqlite3.SQLITE_READONLY: ("state-unwritable", "make the file and directory writable"),
        sqlite3.SQLITE_CANTOPEN: ("state-unwritable", "make the file and directory writable"),
        sqlite3.SQLITE_PERM: ("state-unwritable", "make the file and directory writable"),
        sqlite3.SQLITE_BUSY: ("state-locked", "end what else has it open, such as a sqlite3 shell"),
    }.get(_primary_code(error) or 0, ("state-io", "see to its disk (`dmesg`, `df`, quotas)"))
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return Problem(
        "error",
        code,
        f"{error} ({name}): {remedy}",
        file=str(file),
    )
