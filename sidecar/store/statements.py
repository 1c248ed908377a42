"""Rows to SQL and back: what one :class:`Transaction` writes, what a file holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from .rows import CheckpointRow, EntryRow, HistoryRow, Saved, Transaction
from .schema import pack_int, pack_text, unpack_text


def write(connection: sqlite3.Connection, transaction: Transaction) -> None:
    """Apply `transaction`; the caller has begun an SQL transaction and commits it."""
    _write_segments(connection, transaction)
    _write_entries(connection, transaction)
    _write_history(connection, transaction)
    _write_thresholds(connection, transaction)
    _write_waiting(connection, transaction)
    _delete(connection, "mx", "domain", transaction.drop_mx)
    _put_texts(connection, "mx (domain, answer)", transaction.mx)
    _put_or_delete(connection, "kumod_ids (key, id)", transaction.kumod_ids)
    _put_or_delete(connection, "outbox (key, payload)", transaction.outbox)
    _delete(connection, "meta", "name", transaction.drop_meta)
    _put_texts(connection, "meta (name, value)", transaction.meta)
    if transaction.counters:
        connection.executemany(
            "INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)",
            ((pack_text(name), pack_int(value)) for name, value in transaction.counters.items()),
        )


def _write_segments(connection: sqlite3.Connection, transaction: Transaction) -> None:
    _delete(connection, "segments", "name", transaction.forget_segments)
    if transaction.checkpoints:
        connection.executemany(
            "INSERT OR REPLACE INTO segments (name, inode, fingerprint, content, offset, lines,"
            " frame_start, frame_offset, done) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    pack_text(name),
                    pack_int(row.inode),
                    pack_text(row.fingerprint),
                    pack_text(row.content),
                    row.offset,
                    row.lines,
                    row.frame_start,
                    row.frame_offset,
                    row.done,
                )
                for name, row in transaction.checkpoints.items()
            ),
        )


def _write_waiting(connection: sqlite3.Connection, transaction: Transaction) -> None:
    if transaction.drop_waiting:
        connection.executemany(
            "DELETE FROM waiting WHERE number = ?",
            ((number,) for number in transaction.drop_waiting),
        )
    if transaction.waiting:
        connection.executemany(
            "INSERT OR REPLACE INTO waiting (number, payload) VALUES (?, ?)",
            ((number, pack_text(payload)) for number, payload in transaction.waiting.items()),
        )


def _write_entries(connection: sqlite3.Connection, transaction: Transaction) -> None:
    _delete(connection, "entries", "key", transaction.drop_entries)
    if transaction.entries:
        connection.executemany(
            "INSERT OR REPLACE INTO entries (key, kind, payload, expires_ns, seq, episode)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    pack_text(key),
                    row.kind,
                    pack_text(row.payload),
                    pack_int(row.expires_ns),
                    row.seq,
                    pack_text(row.episode),
                )
                for key, row in transaction.entries.items()
            ),
        )


def _write_history(connection: sqlite3.Connection, transaction: Transaction) -> None:
    if transaction.history:
        connection.executemany(
            "INSERT OR REPLACE INTO history (id, ended_ns, kind, payload, episode, how, by, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    id_,
                    row.ended_ns,
                    row.kind,
                    *map(pack_text, (row.payload, row.episode, row.how, row.by, row.reason)),
                )
                for id_, row in transaction.history.items()
            ),
        )
    if transaction.prune_history is not None:
        since_ns, most = transaction.prune_history
        connection.execute("DELETE FROM history WHERE ended_ns < ?", (since_ns,))
        connection.execute(
            "DELETE FROM history WHERE id IN"
            " (SELECT id FROM history ORDER BY ended_ns DESC, id DESC LIMIT -1 OFFSET ?)",
            (most,),
        )


def _write_thresholds(connection: sqlite3.Connection, transaction: Transaction) -> None:
    for scope in transaction.drop_thresholds:
        _prune(connection, scope, "1")
    for scope, first in transaction.prune_thresholds.items():
        _prune(connection, scope, "second < ?", first)
    ids: dict[str, int] = {}
    for (scope, second), count in transaction.threshold_counts.items():
        if count == 0:
            _prune(connection, scope, "second = ?", second)
            ids.pop(scope, None)  # the scope may have gone with its last count
            continue
        if scope not in ids:
            ids[scope] = _scope_id(connection, scope)
        connection.execute(
            "INSERT OR REPLACE INTO counts (scope_id, second, count) VALUES (?, ?, ?)",
            (ids[scope], second, count),
        )


def _scope_id(connection: sqlite3.Connection, scope: str) -> int:
    packed = pack_text(scope)
    connection.execute("INSERT OR IGNORE INTO scopes (scope) VALUES (?)", (packed,))
    (id_,) = connection.execute("SELECT id FROM scopes WHERE scope = ?", (packed,)).fetchone()
    return int(id_)


def _prune(connection: sqlite3.Connection, scope: str, which: str, *values: int) -> None:
    """Drop those counts of `scope` that the condition `which` is true of, and it when empty."""
    found = connection.execute(
        "SELECT id FROM scopes WHERE scope = ?", (pack_text(scope),)
    ).fetchone()
    if found is None:
        return
    connection.execute(
        f"DELETE FROM counts WHERE scope_id = ? AND {which}",  # noqa: S608
        (*found, *values),
    )
    connection.execute(
        "DELETE FROM scopes WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM counts WHERE scope_id = scopes.id)",
        found,
    )


def _delete(connection: sqlite3.Connection, table: str, column: str, keys: Iterable[str]) -> None:
    rows = [(pack_text(key),) for key in keys]
    if rows:
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)  # noqa: S608


def _put_or_delete(
    connection: sqlite3.Connection, target: str, texts: dict[str, str | None]
) -> None:
    kept = {key: text for key, text in texts.items() if text is not None}
    _delete(connection, target.partition(" ")[0], "key", texts.keys() - kept.keys())
    _put_texts(connection, target, kept)


def _put_texts(connection: sqlite3.Connection, target: str, texts: dict[str, str]) -> None:
    if texts:
        connection.executemany(
            f"INSERT OR REPLACE INTO {target} VALUES (?, ?)",  # noqa: S608
            ((pack_text(name), pack_text(value)) for name, value in texts.items()),
        )


def read(connection: sqlite3.Connection, *, history: bool = False) -> Saved:
    """Everything in the file, as of one moment; the history only where it is asked for."""
    connection.execute("BEGIN")
    try:
        return Saved(
            checkpoints=_read_segments(connection),
            entries=_read_entries(connection),
            history=_read_history(connection) if history else {},
            threshold_counts={
                (unpack_text(scope), second): count
                for scope, second, count in connection.execute(
                    "SELECT scope, second, count FROM counts JOIN scopes ON scopes.id = scope_id"
                    " ORDER BY scope, second"
                )
            },
            mx=_read_texts(connection, "SELECT domain, answer FROM mx"),
            counters={
                unpack_text(name): int(value)
                for name, value in connection.execute("SELECT name, value FROM counters")
            },
            kumod_ids=_read_texts(connection, "SELECT key, id FROM kumod_ids"),
            outbox=_read_texts(connection, "SELECT key, payload FROM outbox"),
            waiting={
                number: unpack_text(payload)
                for number, payload in connection.execute(
                    "SELECT number, payload FROM waiting ORDER BY number"
                )
            },
            meta=_read_texts(connection, "SELECT name, value FROM meta"),
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _read_segments(connection: sqlite3.Connection) -> dict[str, CheckpointRow]:
    query = (
        "SELECT name, inode, fingerprint, content, offset, lines, frame_start, frame_offset, done"
        " FROM segments ORDER BY name"
    )
    return {
        unpack_text(name): CheckpointRow(
            inode=int(inode),
            fingerprint=unpack_text(fingerprint),
            content=unpack_text(content),
            offset=offset,
            lines=lines,
            frame_start=frame_start,
            frame_offset=frame_offset,
            done=bool(done),
        )
        for (
            name,
            inode,
            fingerprint,
            content,
            offset,
            lines,
            frame_start,
            frame_offset,
            done,
        ) in connection.execute(query)
    }


def _read_entries(connection: sqlite3.Connection) -> dict[str, EntryRow]:
    rows = connection.execute(
        "SELECT key, kind, payload, expires_ns, seq, episode FROM entries ORDER BY seq, key"
    )
    return {
        unpack_text(key): EntryRow(
            key=unpack_text(key),
            kind=kind,
            payload=unpack_text(payload),
            expires_ns=int(expires_ns),
            seq=seq,
            episode=unpack_text(episode),
        )
        for key, kind, payload, expires_ns, seq, episode in rows
    }


def read_ended(connection: sqlite3.Connection, since_ns: int, most: int) -> list[HistoryRow]:
    """The latest that ended since that moment, at most so many, the latest last."""
    rows = connection.execute(
        "SELECT ended_ns, kind, payload, episode, how, by, reason FROM history"
        " WHERE ended_ns >= ? ORDER BY ended_ns DESC, id DESC LIMIT ?",
        (since_ns, most),
    )
    found = [
        HistoryRow(ended_ns, kind, *map(unpack_text, texts)) for ended_ns, kind, *texts in rows
    ]
    return found[::-1]


def _read_history(connection: sqlite3.Connection) -> dict[int, HistoryRow]:
    rows = connection.execute(
        "SELECT id, ended_ns, kind, payload, episode, how, by, reason FROM history"
        " ORDER BY ended_ns, id"
    )
    return {
        id_: HistoryRow(ended_ns, kind, *map(unpack_text, texts))
        for id_, ended_ns, kind, *texts in rows
    }


def _read_texts(connection: sqlite3.Connection, query: str) -> dict[str, str]:
    return {unpack_text(name): unpack_text(value) for name, value in connection.execute(query)}
