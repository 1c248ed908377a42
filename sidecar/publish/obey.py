"""Whether kumod does what was published: what to ask it next, and what its answers mean.

In: the options that the overlay sets, kumod's answers, and the time.  Out: the
next place to ask about, and a :class:`Verdict` for each entry.  No sockets and
no clock.

A place is a domain and a source: ``resolve-egress-path`` (``tests/data/api/
kumod-inspect.json``) says in one answer how kumod would deliver there.  What is
new is asked about within seconds, until it is in effect; then each place has its
turn now and then.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from sidecar.shaping.options import MERGEABLE, canonical
from sidecar.shaping.rules import TomlValue
from sidecar.times import NS

Effect = Literal["in effect", "not obeyed", "cancelled in kumod", "unknown"]

FIRST_NS = NS
"""How long after a change kumod is first asked: it takes up to a second to load it."""

APART_NS = NS // 5
"""Between two questions, where many come about at once."""

GRACE_NS = 10 * NS
"""How long kumod may take before it is said not to obey."""

_LATER_NS = 300 * NS
_TOO_OLD_NS = 600 * NS


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether kumod does what an entry asks for; since when (0: not known), and why not."""

    effect: Effect
    since_ns: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What one question is about."""

    domain: str
    source: str

    @property
    def path(self) -> str:
        """The question, for a GET."""
        domain, source = (
            quote(self.domain, "", errors="replace"),
            quote(self.source, "", errors="replace"),
        )
        return f"/api/admin/resolve-egress-path/v1?domain={domain}&source={source}"


@dataclass(frozen=True, slots=True)
class Setting:
    """An option as the overlay sets it; ``strike`` as an entry's ``seq``: the latest counts."""

    place: Place
    mx_rollup: bool
    name: str
    value: TomlValue
    strike: int


@dataclass(frozen=True, slots=True)
class Shown:
    """kumod's answer about a place: the options in effect there, or in its words why not.

    ``lacking``: this kumod is too old to be asked.
    """

    options: Mapping[str, object] | None = None
    failure: str = ""
    lacking: bool = False


@dataclass(slots=True)
class _Asked:
    """What is known of a place; ``changed_ns``: when something about it changed last."""

    settings: dict[str, Setting] = field(default_factory=dict)
    changed_ns: int = 0
    due_ns: int = 0
    shown: Shown | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)


class Questions:
    """The places to ask about, and what is known of each."""

    def __init__(self) -> None:
        self._places: dict[Place, _Asked] = {}
        self._place_of: dict[str, Place] = {}
        self._since: dict[str, int] = {}  # entry's key → since when its option is in effect
        self._queue: list[tuple[int, int, Place]] = []
        self._count = 0
        self._lacking_until = 0

    def take(self, settings: Mapping[str, Setting | None], now_ns: int) -> None:
        """The overlay sets these, by entry's key; None: not any more.  Costs what changed.

        Of many at once the first are asked about soon, and what comes later need not wait
        for the last.
        """
        changed: dict[Place, None] = {}
        for key, setting in settings.items():
            old = self._place_of.pop(key, None)
            known = None if old is None else self._places[old].settings.pop(key)
            gone = setting is None or setting.place != old
            if old is not None and gone and not self._places[old].settings:
                del self._places[old]
            if setting is None:
                self._since.pop(key, None)
                continue
            place = self._place_of[key] = setting.place
            asked = self._places.setdefault(place, _Asked())
            asked.settings[key] = setting
            if known is None or (known.value, known.name) != (setting.value, setting.name):
                self._since.pop(key, None)
                asked.changed_ns = now_ns
                changed[place] = None
        for number, place in enumerate(p for p in changed if p in self._places):
            self._ask_at(place, self._places[place], now_ns + FIRST_NS + number * APART_NS)

    def _ask_at(self, place: Place, asked: _Asked, due_ns: int) -> None:
        asked.due_ns = due_ns
        self._count += 1
        heapq.heappush(self._queue, (due_ns, self._count, place))

    def due_ns(self) -> int | None:
        """When the next question is due; None: there is none."""
        while self._queue:
            due_ns, _, place = self._queue[0]
            asked = self._places.get(place)
            if asked is not None and asked.due_ns == due_ns:
                return max(due_ns, self._lacking_until)
            heapq.heappop(self._queue)  # gone, or asked about at another time
        return None

    def next(self, now_ns: int) -> Place | None:
        """The place to ask about now, if any."""
        due_ns = self.due_ns()
        return None if due_ns is None or due_ns > now_ns else self._queue[0][2]

    def answered(self, place: Place, shown: Shown, now_ns: int) -> None:
        """kumod was asked about `place`, and answered `shown`."""
        asked = self._places.get(place)
        if shown.lacking:
            self._lacking_until = now_ns + _TOO_OLD_NS
        if asked is None:
            return
        asked.shown = shown
        winners = self._winners(asked)
        for key, setting in asked.settings.items():
            if shown.options is not None and _is_set(setting, shown.options):
                self._since.setdefault(key, now_ns)
            else:
                self._since.pop(key, None)
        age_ns = now_ns - asked.changed_ns
        asked.verdicts = {
            key: self._judged(setting, winners[setting.name], shown, age_ns)
            for key, setting in asked.settings.items()
            if key not in self._since
        }
        good = all(key in self._since for key in winners.values())
        wait_ns = _LATER_NS if good else min(max(age_ns, NS), _LATER_NS)
        self._ask_at(place, asked, now_ns + wait_ns)

    def _winners(self, asked: _Asked) -> dict[str, str]:
        """For each option set at a place the key of the entry that kumod goes by.

        A domain's own options override its site's; of equals the latest counts.
        """
        best: dict[str, tuple[bool, int, str]] = {}
        for key, setting in asked.settings.items():
            rank = (not setting.mx_rollup, setting.strike, key)
            best[setting.name] = max(best.get(setting.name, rank), rank)
        return {name: key for name, (_, _, key) in best.items()}

    def keys(self) -> list[str]:
        """The keys of the entries that are asked about."""
        return list(self._place_of)

    def verdict(self, key: str) -> Verdict | None:
        """What is known of the entry with that key; None: it is not asked about."""
        place = self._place_of.get(key)
        if place is None:
            return None
        if key in self._since:
            return Verdict("in effect", self._since[key])
        known = self._places[place].verdicts.get(key)
        return known or Verdict("unknown", why="kumod has yet to be asked")

    def _judged(self, setting: Setting, winner: str, shown: Shown, age_ns: int) -> Verdict:
        """The verdict on a setting that is not in effect."""
        if shown.lacking:
            return Verdict("unknown", why="this kumod is too old to be asked")
        if shown.options is None:
            return Verdict("not obeyed", why=f"kumod can't say what is in effect: {shown.failure}")
        if setting.name not in shown.options:
            return Verdict("unknown", why=f"kumod does not show {setting.name}")
        found = shown.options[setting.name]
        there = f"{setting.name} is {found!r} there"
        asked = self._places[setting.place]
        other = self._other(setting, found)
        if asked.settings.get(winner) != setting or other is not None:
            return Verdict("unknown", why=f"{there}: entry {other or winner} sets it, too")
        if age_ns < GRACE_NS:
            return Verdict("unknown", why="kumod is taking it up")
        if self._since:
            why = f"{there}: a shaping file that kumod reads after the overlay sets it"
        else:
            why = (
                f"{there}, and no other entry is in effect: the overlay is not among kumod's "
                "shaping files (extra_files or subscribe), or they do not load (see its log)"
            )
        return Verdict("not obeyed", why=why)

    def _other(self, setting: Setting, found: object) -> str | None:
        """An entry for another domain that sets the same option to what was found."""
        for place, asked in self._places.items():
            if place.source == setting.place.source and place != setting.place:
                for key, other in asked.settings.items():
                    if other.name == setting.name and _is_set(other, {other.name: found}):
                        return key
        return None


def read_answer(status: int, body: object, text: str) -> Shown:
    """What kumod's answer says; `body`: its JSON, None where it is none; `text`: for people."""
    if status == 404 and not text:
        return Shown(lacking=True)
    options = body.get("path_config") if isinstance(body, dict) else None
    if status == 200 and isinstance(options, dict):
        return Shown(options)
    return Shown(failure=text or f"an answer {status} without path_config")


def _is_set(setting: Setting, options: Mapping[str, object]) -> bool:
    """Whether `options`, as kumod shows them, have what was set."""
    found = options.get(setting.name)
    try:
        wanted, there = canonical(setting.name, setting.value), canonical(setting.name, found)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    if setting.name in MERGEABLE and isinstance(wanted, dict) and isinstance(there, dict):
        return all(there.get(name) == value for name, value in wanted.items())
    return wanted == there
