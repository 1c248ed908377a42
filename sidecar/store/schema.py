"""The tables, and how a file of an earlier version becomes one of this version.

``MIGRATIONS[n]`` takes a file from version n to n + 1 (``PRAGMA user_version``);
version 0 is an empty file.  Never change one that was released: add another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TypeAlias

APPLICATION_ID = 0x7473_6163
"""``PRAGMA application_id`` of our files ("tsac"): tells them from other programs' databases."""

Migration: TypeAlias = tuple[str, ...]

# Columns without a type keep what they are given.  Inodes are unsigned 64-bit
# numbers on some file systems, and "9000 years" in nanoseconds is past a signed
# one: such numbers are stored as text (see `pack_int`).
MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        "CREATE TABLE segments (name TEXT PRIMARY KEY, inode NOT NULL, fingerprint TEXT NOT NULL,"
        " content TEXT NOT NULL, offset INTEGER NOT NULL, lines INTEGER NOT NULL,"
        " frame_start INTEGER NOT NULL, frame_offset INTEGER NOT NULL, done INTEGER NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE entries (key TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL,"
        " expires_ns NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID",
        # Scopes are long (rule and site) and seconds are many: each scope's text is kept once.
        "CREATE TABLE scopes (id INTEGER PRIMARY KEY, scope TEXT NOT NULL UNIQUE)",
        "CREATE TABLE counts (scope_id INTEGER NOT NULL, second INTEGER NOT NULL,"
        " count INTEGER NOT NULL, PRIMARY KEY (scope_id, second)) WITHOUT ROWID",
        "CREATE TABLE mx (domain TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE kumod_ids (key TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID",
    ),
    ("CREATE TABLE waiting (number INTEGER PRIMARY KEY, payload TEXT NOT NULL)",),
    ("CREATE TABLE outbox (key TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID",),
    (
        "ALTER TABLE entries ADD COLUMN episode TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE history (id INTEGER PRIMARY KEY, ended_ns INTEGER NOT NULL,"
        " kind TEXT NOT NULL, payload TEXT NOT NULL, episode TEXT NOT NULL, how TEXT NOT NULL,"
        " by TEXT NOT NULL, reason TEXT NOT NULL)",
        "CREATE INDEX history_ended ON history (ended_ns)",
    ),
)

VERSION = len(MIGRATIONS)
"""``PRAGMA user_version`` of the files this program writes."""

TABLES = frozenset(
    {
        *("meta", "counters", "segments", "entries", "scopes", "counts", "mx", "kumod_ids"),
        *("waiting", "outbox", "history"),
    }
)
"""The tables of a file of this version."""

_INT64 = 1 << 63


def pack_int(value: int) -> int | str:
    """`value` as SQLite can hold it: a number where 64 bits suffice, else its digits."""
    return value if -_INT64 <= value < _INT64 else str(value)


def pack_text(value: str) -> str | bytes:
    """`value` as SQLite can hold it: a blob where it isn't Unicode.

    A segment's name may hold bytes that are no UTF-8 (Python has them as lone
    surrogates); a commit must not fail over that.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def unpack_text(value: str | bytes) -> str:
    """The inverse of :func:`pack_text`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")


def tables(connection: sqlite3.Connection) -> set[str]:
    """The names of the tables that exist."""
    return {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_")
    }


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The number that ``PRAGMA name`` answers."""
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> bool:
    """Bring the file to the version that `migrations` leads to, all or nothing.

    True where there was something to do.  The caller has made sure that the
    file is empty or ours, and not newer.
    """
    version = pragma(connection, "user_version")
    if version >= len(migrations):
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        for migration in migrations[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True
