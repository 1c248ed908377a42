"""Whom not to ask for a while: no I/O, the time is an argument.

In: how look-ups ended.  Out: until when a look-up is not worth a wait.

Two things are told apart.  :class:`Server`: no name server answers anything.
:class:`Parents`: nothing below one domain is answered, whatever the name; who
owns that domain may make up as many names as they like.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...times import NS
from ..names import Labels


def pause_ns(failures: int, *, first_ns: int, longest_ns: int) -> int:
    """How long to wait after so many failures in a row, the first counted as 0."""
    return min(first_ns << min(failures, 20), longest_ns)


@dataclass(slots=True)
class Server:
    """Whether the name servers answer.

    A look-up without an answer is a suspicion, for it may be that domain's
    fault.  What settles it is a question that every server can answer.
    """

    FIRST_PAUSE_NS = 2 * NS
    LONGEST_PAUSE_NS = 30 * NS

    silent_since_ns: int = 0
    """Since when nothing is asked; 0 while things are asked."""
    _probes: int = 0
    _next_probe_ns: int = 0

    @property
    def silent(self) -> bool:
        """True while nothing is to be asked but :meth:`probe_due`."""
        return self.silent_since_ns != 0

    @property
    def retry_ns(self) -> int:
        """When the next question is put to a silent server."""
        return self._next_probe_ns

    def answered(self) -> None:
        """The server has said something, whatever it was."""
        self.silent_since_ns = self._probes = 0

    def probe_failed(self, now_ns: int) -> None:
        """It has not answered what every server can answer."""
        if not self.silent:
            self.silent_since_ns = now_ns
        pause = pause_ns(
            self._probes, first_ns=self.FIRST_PAUSE_NS, longest_ns=self.LONGEST_PAUSE_NS
        )
        self._next_probe_ns = now_ns + pause
        self._probes += 1

    def probe_due(self, now_ns: int) -> bool:
        """Whether a silent server is to be asked once more."""
        return self.silent and now_ns >= self._next_probe_ns


@dataclass(slots=True)
class _Parent:
    failures: int = 0
    until_ns: int = 0


class Parents:
    """Domains below which look-ups keep failing.

    After `FAILURES` in a row without one answer below a domain, nothing below
    it is asked for a while; then one name is, and so on in ever longer pauses.
    What belongs to many owners (``com``, ``co.uk``) is never paused.  Knows at
    most `CAPACITY` domains.
    """

    FAILURES: Final = 4
    FIRST_PAUSE_NS: Final = 5 * NS
    LONGEST_PAUSE_NS: Final = 300 * NS
    CAPACITY: Final = 4096
    DEEPEST: Final = 6

    def __init__(self) -> None:
        self._known: OrderedDict[Labels, _Parent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def paused_until(self, name: Labels, now_ns: int) -> int:
        """Until when nothing below a parent of `name` is asked; 0 when it may be."""
        found = (self._known.get(parent) for parent in self._of(name))
        until = max((parent.until_ns for parent in found if parent is not None), default=0)
        return until if until > now_ns else 0

    def asking(self, name: Labels, until_ns: int) -> None:
        """`name` is being asked for until `until_ns` at the latest.

        Below parents that were paused it is the only one meanwhile.
        """
        for key in self._of(name):
            parent = self._known.get(key)
            if parent is not None and parent.failures >= self.FAILURES:
                parent.until_ns = until_ns

    def failed(self, name: Labels, now_ns: int) -> None:
        """`name` was asked for in vain."""
        for key in self._of(name):
            parent = self._known.setdefault(key, _Parent())
            self._known.move_to_end(key)
            parent.failures += 1
            if parent.failures >= self.FAILURES:
                parent.until_ns = now_ns + pause_ns(
                    parent.failures - self.FAILURES,
                    first_ns=self.FIRST_PAUSE_NS,
                    longest_ns=self.LONGEST_PAUSE_NS,
                )
        while len(self._known) > self.CAPACITY:
            self._known.popitem(last=False)

    def answered(self, name: Labels) -> None:
        """Somebody knows about `name`, be it that there is no such name."""
        for key in self._of(name):
            self._known.pop(key, None)

    def _of(self, name: Labels) -> Iterator[Labels]:
        """The parents of `name` that have one owner, the highest first."""
        for count in range(len(owned(name)), min(len(name), self.DEEPEST + 1)):
            yield name[-count:]


def owned(name: Labels) -> Labels:
    """The part of `name` that somebody registered: ``a.co.uk`` of ``x.y.a.co.uk``.

    By rule of thumb: three labels where the last two are as short as in
    ``co.uk`` or ``com.au``, else two.
    """
    many = len(name) > 2 and len(name[-1]) == 2 and len(name[-2]) <= 3
    return name[-3:] if many else name[-2:]
