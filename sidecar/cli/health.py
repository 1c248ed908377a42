"""How the service is, for people (one screen) and for monitoring plugins (one line).

In: what can be seen of the service, what is in force, the time.  Out: lines; and for
``status --check`` a line and an exit code as the Monitoring Plugins Development
Guidelines have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339, parse_rfc3339
from sidecar.tools.standing import is_waiting
from sidecar.tools.stories import Story
from sidecar.tools.text import counted, rough_duration, shown_entry

from .console import STYLES, line

Document = Mapping[str, Any]

_KINDS = {
    "override": ("option set", "options set"),
    "ready_q": ("ready queue held", "ready queues held"),
    "sched_q": ("scheduled queue held", "scheduled queues held"),
    "bounce": ("bounce", "bounces"),
}
_STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


# For people.


def describe(
    document: Document | None,
    *,
    running: bool,
    troubles: Sequence[str],
    stories: Sequence[Story],
    now_ns: int,
) -> Iterator[Text | str]:
    """What to know first, first: whether it runs, what is wrong; then the rest of one screen."""
    yield _process(document, running=running)
    for text in troubles:
        yield line(("error", STYLES["error"]), f": {one_line(text)}")
    for text in (document or {}).get("warnings", ()):
        yield line(("warning", STYLES["warning"]), f": {one_line(str(text))}")
    if document is not None:
        yield from _work(document, now_ns)
    # What costs nothing yet is no option set.
    yield _row("in force", _in_force([s for s in stories if not is_waiting(s.entry, now_ns)]))
    latest = max((s for s in stories if s.episode.latest), key=lambda s: s.entry.seq, default=None)
    if latest is not None:
        yield from _last_match(latest, now_ns)
    if document is not None:
        yield from _roads(document)
        yield from _losses(document)


def _row(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _process(document: Document | None, *, running: bool) -> Text:
    if running and document is not None:
        version, pid = one_line(str(document.get("version"))), document.get("pid")
        said = f"running since {shown_time(document, 'started')}, process {pid}, version {version}"
        return line((said, "bold"))
    last = (
        "as far as can be seen" if document is None else f"last seen {shown_time(document, 'at')}"
    )
    return line(("running" if running else "not running", STYLES["error"]), f", {last}")


def shown_time(document: Document, name: str) -> str:
    """A moment of the document to the second."""
    ns = moment_of(document, name)
    return "none" if ns is None else format_rfc3339(ns // NS * NS)


def moment_of(document: Document, name: str) -> int | None:
    """A moment of the document in ns; None where there is none."""
    try:
        return parse_rfc3339(str(document.get(name)))
    except ValueError:
        return None


def _work(document: Document, now_ns: int) -> Iterator[str]:
    files = ", ".join(one_line(str(name)) for name in document.get("files", ()))
    yield _row("rules", f"{document.get('rules')} from {files or 'nothing'}")
    newest_ns = moment_of(document, "newest_record")
    newest = "no record yet" if newest_ns is None else f"newest record {_ago(newest_ns, now_ns)}"
    yield _row(
        "log",
        f"{newest}, {document.get('bytes_waiting') or 0:,} bytes behind in "
        f"{counted(document.get('segments_waiting') or 0, 'segment')}",
    )
    if document.get("records_waiting"):
        waiting = f"{document['records_waiting']:,} records for the MX of their domain"
        yield _row("waiting", f"{waiting}, {document.get('dns_look_ups')} look-ups under way")
    if document.get("clock_behind_seconds"):
        seconds = document["clock_behind_seconds"]
        yield _row("clock", f"it leapt: expiry is {seconds} s behind it, and catching up")
    counters = document.get("counters", {})
    parts = [f"{one_line(str(name))} {count:,}" for name, count in counters.items() if count]
    yield _row("counted", ", ".join(parts) or "nothing")
    yield from _told(document, now_ns)


def _told(document: Document, now_ns: int) -> Iterator[str]:
    targets = document.get("notify")
    for name, target in targets.items() if isinstance(targets, dict) else ():
        sent_ns = moment_of(target, "last_sent")
        said = "nothing sent yet" if sent_ns is None else f"last sent {_ago(sent_ns, now_ns)}"
        if target.get("waiting"):
            said += f", {counted(target['waiting'], 'event')} waiting"
        yield _row("notify", f"{one_line(str(name))}: {said}")


def _ago(at_ns: int, now_ns: int) -> str:
    return f"{rough_duration(max(now_ns - at_ns, 0))} ago"


def _in_force(stories: Sequence[Story]) -> str:
    counts: Counter[str] = Counter(
        story.entry.kind for story in stories if not story.entry.simulated
    )
    parts = [
        f"{counts[kind]:,} {names[counts[kind] != 1]}"
        for kind, names in _KINDS.items()
        if counts[kind]
    ]
    simulated = sum(story.entry.simulated for story in stories)
    if simulated:
        parts.append(f"{simulated:,} simulated")
    return ", ".join(parts) + " (tsa-sidecar list)" if parts else "nothing"


def _last_match(story: Story, now_ns: int) -> Iterator[str]:
    latest = story.episode.latest
    assert latest is not None
    yield _row("match", f"{_ago(latest.time_ns, now_ns)}, {latest.domain}: {latest.response}")
    yield _row("", f"{shown_entry(story.entry)} (tsa-sidecar show {story.episode.id})")


def _roads(document: Document) -> Iterator[str]:
    roads = document.get("roads")
    kumod = document.get("kumod")
    if roads == {}:
        yield _row("road", "none: a run with --simulate publishes nothing")
    for name, to in roads.items() if isinstance(roads, dict) else ():
        said = one_line(f"{name} {to}")
        if name == "kumod" and isinstance(kumod, dict):
            counts = kumod.get("counts", {})
            obeys = ", ".join(f"{one_line(str(k))} {n}" for k, n in counts.items() if n)
            said += f": {obeys or 'nothing to obey'}"
        yield _row("road", said)


def _losses(document: Document) -> Iterator[Text]:
    lost = document.get("segments_lost") or ()
    if lost:
        names = ", ".join(one_line(str(name)) for name in lost)
        yield line((f"{'lost':<10}", STYLES["warning"]), f"deleted before they were read: {names}")


# For monitoring plugins.


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a value is a warning, and critical; None: never."""

    warning: int | None = None
    critical: int | None = None

    def state(self, value: int | None) -> int:
        """0, 1 or 2."""
        if value is None:
            return 0
        if self.critical is not None and value >= self.critical:
            return 2
        return 1 if self.warning is not None and value >= self.warning else 0

    def __str__(self) -> str:
        """As performance data has them."""
        shown = ("" if limit is None else str(limit) for limit in (self.warning, self.critical))
        return ";".join(shown)


def check(
    document: Document | None,
    *,
    running: bool,
    troubles: Sequence[str],
    now_ns: int,
    limits: Mapping[str, Limits],
) -> tuple[int, str]:
    """An exit code from 0 to 3, and one line: what is so, then performance data.

    `limits`: of ``age`` (seconds since the newest record), ``behind`` (bytes) and
    ``in_force`` (entries).
    """
    if not running:
        return 2, "TSA-SIDECAR CRITICAL - the service is not running"
    if document is None:
        return 3, "TSA-SIDECAR UNKNOWN - " + _first(troubles or ("it says nothing of itself",))
    newest_ns = moment_of(document, "newest_record")
    values = {
        "age": None if newest_ns is None else max(now_ns - newest_ns, 0) // NS,
        "behind": document.get("bytes_waiting") or 0,
        "in_force": sum(document.get("entries", {}).values()),
    }
    state, said = _judged(document, troubles, values, limits)
    units = {"age": "s", "behind": "B", "in_force": ""}
    data = " ".join(
        f"{name}={value}{units[name]};{limits.get(name, Limits())};0"
        for name, value in values.items()
        if value is not None
    )
    return state, f"TSA-SIDECAR {_STATES[state]} - {said} | {data}"


def _judged(
    document: Document,
    troubles: Sequence[str],
    values: Mapping[str, int | None],
    limits: Mapping[str, Limits],
) -> tuple[int, str]:
    over = {name: one.state(values[name]) for name, one in limits.items()}
    said = [f"{_NAMES[name]} is {values[name]}" for name, state in over.items() if state]
    state = max(over.values(), default=0)
    if troubles:
        return 2, _first([*troubles, *said])
    warnings = [str(text) for text in document.get("warnings", ())]
    if said or warnings:
        return max(state, 1), _first([*said, *warnings])
    return 0, f"{values['in_force']} in force, {values['behind']} bytes behind"


_NAMES = {
    "age": "the age of the newest record in seconds",
    "behind": "the number of bytes behind",
    "in_force": "the number of entries in force",
}


def _first(texts: Sequence[str]) -> str:
    """The first, and how many more; a plugin's line has no bar but the one before its data."""
    more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
    return one_line(texts[0]).replace("|", "/") + more
