"""Rows for tests, made from a number."""

from __future__ import annotations

from sidecar.store import CheckpointRow, EntryRow, Saved, Transaction


def checkpoint(number: int, *, done: bool = False) -> CheckpointRow:
    """A position, further on for a greater `number`."""
    return CheckpointRow(
        inode=1000,
        fingerprint="64:ab12",
        offset=number * 100,
        lines=number,
        frame_start=number // 10,
        frame_offset=number // 10 * 100,
        done=done,
        content="c0ffee",
    )


def entry(key: str, number: int, *, size: int = 1) -> EntryRow:
    """An entry whose payload and time tell its `number`."""
    return EntryRow(
        key=key,
        kind="override",
        payload=f'{{"n":{number},"pad":"{"x" * size}"}}',
        expires_ns=1_800_000_000_000_000_000 + number,
        seq=number,
    )


def batch(number: int, *, size: int = 1) -> Transaction:
    """One transaction whose every part tells the `number`: torn ones show."""
    return Transaction(
        checkpoints={"20261122-160000": checkpoint(number)},
        entries={f"entry {number % 7}": entry(f"entry {number % 7}", number, size=size)},
        drop_entries={f"entry {(number + 3) % 7}"},
        threshold_counts={("3600 rule site", number): number, ("60 rule site", number): 1},
        prune_thresholds={"3600 rule site": number - 20, "60 rule site": number - 5},
        mx={"example.com": f'{{"hosts":["mx{number}.example.com."]}}'},
        counters={"lines": number},
        kumod_ids={"entry 1": f"id {number}"},
        waiting={number: f'{{"n":{number}}}'},
        drop_waiting={number - 3},
        outbox={f"message {number}": f'{{"n":{number}}}', f"message {number - 3}": None},
        meta={"batch": str(number)},
    )


def apply(saved: Saved, transaction: Transaction) -> None:
    """What a commit of `transaction` is to do, said the plain way."""
    for name in transaction.forget_segments:
        saved.checkpoints.pop(name, None)
    saved.checkpoints.update(transaction.checkpoints)
    for key in transaction.drop_entries:
        saved.entries.pop(key, None)
    saved.entries.update(transaction.entries)
    for domain in transaction.drop_mx:
        saved.mx.pop(domain, None)
    saved.mx.update(transaction.mx)
    for gone in transaction.drop_waiting:
        saved.waiting.pop(gone, None)
    saved.waiting.update(transaction.waiting)
    counts = {
        key: count
        for key, count in saved.threshold_counts.items()
        if key[0] not in transaction.drop_thresholds
        and key[1] >= transaction.prune_thresholds.get(key[0], key[1])
    }
    counts.update(transaction.threshold_counts)
    saved.threshold_counts = {key: count for key, count in counts.items() if count != 0}
    saved.counters.update(transaction.counters)
    for key, id_ in transaction.kumod_ids.items():
        if id_ is None:
            saved.kumod_ids.pop(key, None)
        else:
            saved.kumod_ids[key] = id_
    for key, payload in transaction.outbox.items():
        if payload is None:
            saved.outbox.pop(key, None)
        else:
            saved.outbox[key] = payload
    saved.meta.update(transaction.meta)
