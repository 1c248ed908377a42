"""The life of a segment, as a table: in each state, what may happen and what comes of it.

A segment's file is found, opened, read as it grows, and closed when kumod has
finished it and all of it is read::

    found ─▶ WAITING ⇄ OPEN ─▶ COMPLETE

Everything else is what other people's jobs do to the file meanwhile:

- It is renamed or deleted.  A rename is two events, so a file that is missing gets
  some seconds (``GRACE_OVER``) to turn up under any name.  A deleted file that we
  hold open is read to its end.  What is gone is remembered, in case it comes back.
- It is replaced, truncated or restored.  Then the file is in doubt, and its first
  bytes say whether it is the segment that was read (``RECOGNISED``) or another
  one (``REPLACED``).
- It is copied, recompressed or not.  A copy waits for its original and counts as
  read when the original is.  Where the original was cut, the copy is read from there on.

No I/O.  In: a state and an event.  Out: the next state.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a segment is in its life."""

    WAITING = "its file is closed and may have lines to read"
    OPEN = "its file is open and is read whenever it is its turn"
    COMPLETE = "wholly read, or not to be read"
    IN_DOUBT = "read in part; the file of its name may be another one"
    COMPLETE_IN_DOUBT = "wholly read; the file of its name may be another one, or have grown"
    COPY = "a copy of a segment that is still being read, and waits for that one"
    UNSUPPORTED = "compressed in a format that is not read here"
    MISSING = "not wholly read, and no file has its name"
    MOVED = "open, but its file has lost its name: renamed or deleted"
    DELETED = "open, and read to its end, since its file is deleted"
    GONE = "complete or lost, and no file has its name"
    FORGOTTEN = "not known any more"


class Event(Enum):
    """What can happen to a segment."""

    OPENED = "its file was opened, to read on where reading had stopped"
    CLOSED = "its file was closed before its end"
    ENDED = "the last of its lines was read, or the rest was given up"
    ALREADY_READ = "its lines were read under another name, or are not wanted"
    GROWN = "it goes on behind what was its end"
    VANISHED = "its name is gone"
    APPEARED = "its name is back"
    GRACE_OVER = "it stayed away too long to be on its way to another name"
    CHANGED = "its file is not what it was: another inode, size or time"
    RECOGNISED = "its file begins with what is known of the segment"
    REPLACED = "its file begins otherwise: it is a new segment"
    NOT_SUPPORTED = "its file is compressed in a format that is not read here"
    COPY_FOUND = "it begins as another segment that is still being read"
    ORIGINAL_GONE = "the segment that it copies has vanished, was replaced or ends cut short"
    DROPPED = "nothing need be known of it"


S, E = State, Event

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    S.WAITING: {
        E.OPENED: S.OPEN,
        E.ALREADY_READ: S.COMPLETE,
        E.VANISHED: S.MISSING,
        E.CHANGED: S.IN_DOUBT,
        E.RECOGNISED: S.WAITING,
        E.REPLACED: S.WAITING,
        E.NOT_SUPPORTED: S.UNSUPPORTED,
        E.COPY_FOUND: S.COPY,
    },
    S.OPEN: {
        E.CLOSED: S.WAITING,
        E.ENDED: S.COMPLETE,
        E.VANISHED: S.MOVED,
    },
    S.COMPLETE: {
        E.GROWN: S.WAITING,
        E.VANISHED: S.GONE,
        E.CHANGED: S.COMPLETE_IN_DOUBT,
        E.DROPPED: S.FORGOTTEN,
    },
    S.IN_DOUBT: {
        E.VANISHED: S.MISSING,
        E.CHANGED: S.IN_DOUBT,
        E.RECOGNISED: S.WAITING,
        E.REPLACED: S.WAITING,
        E.NOT_SUPPORTED: S.UNSUPPORTED,
    },
    S.COMPLETE_IN_DOUBT: {
        E.VANISHED: S.GONE,
        E.CHANGED: S.COMPLETE_IN_DOUBT,
        E.RECOGNISED: S.COMPLETE,
        E.REPLACED: S.WAITING,
        E.NOT_SUPPORTED: S.COMPLETE,
    },
    S.COPY: {
        E.ALREADY_READ: S.COMPLETE,
        E.ORIGINAL_GONE: S.WAITING,
        E.DROPPED: S.FORGOTTEN,
    },
    S.UNSUPPORTED: {
        E.VANISHED: S.MISSING,
        E.CHANGED: S.IN_DOUBT,
    },
    S.MISSING: {
        E.APPEARED: S.IN_DOUBT,
        E.GRACE_OVER: S.GONE,
        E.DROPPED: S.FORGOTTEN,
    },
    S.MOVED: {
        E.CLOSED: S.MISSING,
        E.GRACE_OVER: S.DELETED,
    },
    S.DELETED: {
        E.CLOSED: S.MISSING,
        E.ENDED: S.GONE,
    },
    S.GONE: {
        E.APPEARED: S.COMPLETE_IN_DOUBT,
        E.DROPPED: S.FORGOTTEN,
    },
    S.FORGOTTEN: {},
}
"""What is not in the table can't happen: a segment is closed before it is doubted, for one."""

HAS_OPEN_FILE: Final = frozenset({S.OPEN, S.MOVED, S.DELETED})
"""States in which the segment's file is open."""

HAS_NO_NAME: Final = frozenset({S.MISSING, S.MOVED, S.DELETED, S.GONE})
"""States in which no file has the segment's name."""

IS_COMPLETE: Final = frozenset({S.COMPLETE, S.COMPLETE_IN_DOUBT, S.GONE})
"""States in which the segment has been read, as far as it ever could be."""

IS_QUEUED: Final = frozenset(
    {S.WAITING, S.OPEN, S.IN_DOUBT, S.COMPLETE_IN_DOUBT, S.COPY, S.DELETED}
)
"""States in which the segment waits for its turn (a copy for its original)."""

IS_TO_BE_READ: Final = frozenset({S.WAITING, S.OPEN, S.DELETED})
"""States in which the segment's lines are read, so that a copy had better wait."""


class ImpossibleEventError(Exception):
    """An event that can't happen to a segment in its state: a fault of this program."""


def first_state(*, has_file: bool, complete: bool) -> State:
    """The state of a segment that becomes known, by what an earlier run said of it."""
    if has_file:
        return State.COMPLETE if complete else State.WAITING
    return State.GONE if complete else State.MISSING


def next_state(state: State, event: Event) -> State:
    """The state that `event` leads to from `state`; ImpossibleEventError where none does."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        message = f"{event.name} can't happen to a segment that is {state.name}"
        raise ImpossibleEventError(message) from None
