"""SQLite: log positions, thresholds, entries, MX answers; one transaction a batch.

Knows rows, not rules.
"""

from .database import Store, StoreError, StoreLostError, read_saved, state_files
from .rows import CheckpointRow, EntryRow, Saved, Transaction

__all__ = [
    "CheckpointRow",
    "EntryRow",
    "Saved",
    "Store",
    "StoreError",
    "StoreLostError",
    "Transaction",
    "read_saved",
    "state_files",
]
