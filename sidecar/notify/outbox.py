"""The outbox: what waits for each target, and how it has fared.

In: events with their targets; then what became of a message.  Out: the rows that
change in the state file, each time, and the same in memory.  The caller commits
the rows: events in the same transaction as the effects that they are about, a
sealed message before it is sent.

A target has at most one sealed message and one open group.  Of a group the first
few events are kept whole and the others counted, so a target that is away
costs a bounded number of rows, and gets two messages when it is back.

Who was told of a beginning is kept until its end is told to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from .event import Event, from_row, shortened, to_row
from .message import Group, Message, seal

Rows = dict[str, str | None]
"""Keys of the outbox with their new texts; None: removed."""


class Fate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a target has fared, since the state was made.

    ``failing_since_ns`` and ``failures`` (in a row) are 0 while it takes messages.
    ``dropped``: events that it was never told, since they grew too old or the target was
    taken out of the settings.
    """

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    last_sent_ns: int = 0
    failures: int = 0
    failing_since_ns: int = 0
    last_error: str = ""


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The targets that are told of something."""

    targets: tuple[str, ...]


@dataclass(slots=True)
class Queue:
    """What waits for one target."""

    group: Group | None = None
    listed: dict[int, Event] = field(default_factory=dict)
    message: Message | None = None
    fate: Fate = field(default_factory=Fate)

    @property
    def count(self) -> int:
        """How many events the target has not been told."""
        return (self.group.count if self.group else 0) + (self.message.count if self.message else 0)

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest of them came; None: none waits."""
        first = self.message or self.group
        return None if first is None else first.opened_ns


class Outbox:
    """What waits, by target; and by subject (an episode, a condition) who was told of it."""

    __slots__ = ("_queues", "told")

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self.told: dict[str, Told] = {}

    def __getitem__(self, target: str) -> Queue:
        return self._queues.setdefault(target, Queue())

    @property
    def names(self) -> list[str]:
        """The targets that something is known of."""
        return sorted(self._queues)

    def begin(self, subject: str, event: Event, targets: Mapping[str, int]) -> Rows:
        """Have `targets` told that `subject` began: for each, how many events it has listed."""
        if not targets:
            return {}
        event = event.bounded()
        told = self.told[subject] = Told(tuple(targets))
        rows: Rows = {f"told {subject}": _text(told)}
        for target, most in targets.items():
            rows |= self.take(target, (event,), listed_most=most)
        return rows

    def end(self, subject: str, event: Event, listed_most: Callable[[str], int]) -> Rows:
        """Have those told that `subject` ended who were told that it began."""
        told = self.told.pop(subject, None)
        if told is None:
            return {}
        event = event.bounded()
        rows: Rows = {f"told {subject}": None}
        for target in told.targets:
            if target in self._queues:
                rows |= self.take(target, (event,), listed_most=listed_most(target))
        return rows

    def take(self, target: str, events: Iterable[Event], *, listed_most: int) -> Rows:
        """Add `events`, all but the first `listed_most` of a group counted only."""
        queue, rows = self[target], Rows()
        for event in events:
            group = queue.group or Group(event.at_ns, event.at_ns, last=0)
            listed = len(queue.listed) < listed_most
            queue.group = group.with_event(event, listed=listed)
            if listed:
                queue.listed[queue.group.last] = event
                rows[_event_key(target, queue.group.last)] = to_row(event)
        if queue.group is not None:
            rows[f"group {target}"] = _text(queue.group)
        return rows

    def seal(self, target: str, *, host: str) -> Rows:
        """Make the target's message of its group, which there is."""
        queue = self[target]
        assert queue.group is not None
        assert queue.message is None
        rows: Rows = {_event_key(target, number): None for number in queue.listed}
        queue.message = seal(queue.group, queue.listed.values(), host=host, target=target)
        queue.group, queue.listed = None, {}
        return {**rows, f"group {target}": None, f"message {target}": _text(queue.message)}

    def sent(self, target: str, now_ns: int) -> Rows:
        """Note that the target has taken its message."""
        queue = self[target]
        queue.message = None
        fate = queue.fate
        return {
            f"message {target}": None,
            **self._fare(
                target,
                msgspec.structs.replace(
                    fate,
                    sent=fate.sent + 1,
                    last_sent_ns=now_ns,
                    failures=0,
                    failing_since_ns=0,
                ),
            ),
        }

    def failed(self, target: str, error: str, now_ns: int) -> Rows:
        """Note that the target has not taken its message: `error` says why."""
        fate = self[target].fate
        return self._fare(
            target,
            msgspec.structs.replace(
                fate,
                failed=fate.failed + 1,
                failures=fate.failures + 1,
                failing_since_ns=fate.failing_since_ns or now_ns,
                last_error=shortened(error),
            ),
        )

    def drop_older(self, target: str, before_ns: int) -> Rows:
        """Give up the message if all of it is older than `before_ns`."""
        queue, rows, dropped = self[target], Rows(), 0
        if queue.message is not None and queue.message.newest_ns < before_ns:
            rows[f"message {target}"] = None
            dropped, queue.message = queue.message.count, None
        return {**rows, **self._dropped(target, dropped)}

    def forget(self, target: str) -> Rows:
        """Give up what waits for a target that there is no more, and what is known of it."""
        queue = self._queues.pop(target)
        keys = [_event_key(target, number) for number in queue.listed]
        return dict.fromkeys([*keys, *(f"{part} {target}" for part in _PARTS)])

    def rows(self) -> dict[str, str]:
        """All of it, for a state file that lost what it had."""
        return dict(self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        for target, queue in self._queues.items():
            for number, event in queue.listed.items():
                yield _event_key(target, number), to_row(event)
            for part in _PARTS:
                value = getattr(queue, part)
                if value is not None:
                    yield f"{part} {target}", _text(value)
        for subject, told in self.told.items():
            yield f"told {subject}", _text(told)

    def _dropped(self, target: str, count: int) -> Rows:
        fate = self[target].fate
        if not count:
            return {}
        return self._fare(target, msgspec.structs.replace(fate, dropped=fate.dropped + count))

    def _fare(self, target: str, fate: Fate) -> Rows:
        self[target].fate = fate
        return {f"fate {target}": _text(fate)}


_PARTS: Mapping[str, type[Group | Message | Fate]] = {
    "group": Group,
    "message": Message,
    "fate": Fate,
}


def restore(saved: Mapping[str, str]) -> tuple[Outbox, Rows, list[str]]:
    """The outbox that the state file holds; rows to remove, and why, where they can't be read."""
    outbox, bad, reasons = Outbox(), Rows(), []
    for key, row in sorted(saved.items()):
        part, _, rest = key.partition(" ")
        target, _, number = rest.partition(" ")
        try:
            if part == "told":
                outbox.told[rest] = msgspec.json.decode(row, type=Told)
            elif part == "event":
                outbox[target].listed[int(number)] = from_row(row)
            else:
                setattr(outbox[target], part, msgspec.json.decode(row, type=_PARTS[part]))
        except (ValueError, KeyError) as error:
            bad[key] = None
            reasons.append(f"{shortened(key)}: {shortened(str(error))}")
    for target in outbox.names:
        queue = outbox[target]
        if queue.group is None and queue.listed:  # the group's row could not be read
            bad |= {_event_key(target, number): None for number in queue.listed}
            events = [queue.listed[number] for number in sorted(queue.listed)]
            queue.listed = {}
            bad |= outbox.take(target, events, listed_most=len(events))
    return outbox, bad, reasons


def _event_key(target: str, number: int) -> str:
    return f"event {target} {number:06d}"


def _text(value: Group | Message | Fate | Told) -> str:
    return msgspec.json.encode(value).decode()
