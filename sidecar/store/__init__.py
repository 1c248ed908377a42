"""SQLite: log positions, thresholds, entries, MX answers; one transaction a batch.

Knows rows, not rules.
"""

from .database import Store, StoreError, StoreLostError, lock_path, read_saved, state_files
from .lock import FileLock, LockHeld, is_locked
from .rows import CheckpointRow, EntryRow, HistoryRow, Saved, Transaction

__all__ = [
    "CheckpointRow",
    "EntryRow",
    "FileLock",
    "HistoryRow",
    "LockHeld",
    "Saved",
    "Store",
    "StoreError",
    "StoreLostError",
    "Transaction",
    "is_locked",
    "lock_path",
    "read_saved",
    "state_files",
]
