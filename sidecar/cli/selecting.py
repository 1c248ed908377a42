"""Filters that several commands have, and how they print what fits."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import click
from rich.console import Console

from sidecar.automation.selection import Selection
from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339
from sidecar.tools.standing import standing
from sidecar.tools.stories import Story
from sidecar.tools.text import counted, distinct, rough_duration, shown_entry

from .console import STYLES, line
from .status import Seen

_F = TypeVar("_F", bound=Callable[..., Any])

_FILTERS: Final = (
    ("--domain", "domains", "NAME", "Of this domain; * stands for anything, as in each filter."),
    ("--site", "sites", "NAME", "Of this site or ready queue."),
    ("--source", "sources", "NAME", "Of this egress source."),
    ("--tenant", "tenants", "NAME", "Of this tenant."),
    ("--campaign", "campaigns", "NAME", "Of this campaign."),
    ("--rule", "rules", "RULE", "By this rule: its name, or file:line."),
)
_KINDS: Final = ("override", "ready_q", "sched_q", "bounce")
_NARROWEST: Final = 40


def filter_options(function: _F) -> _F:
    """The options by which entries are selected; each may be given several times."""
    function = click.option(
        "--kind",
        "kinds",
        multiple=True,
        type=click.Choice(_KINDS),
        help="Of this kind: an option set, a ready queue or scheduled queue suspended, a bounce.",
    )(function)
    for option, name, metavar, text in reversed(_FILTERS):
        function = click.option(option, name, multiple=True, metavar=metavar, help=text)(function)
    return function


def selection_of(options: dict[str, Any], *, ids: Sequence[int] = ()) -> Selection:
    """What the options of :func:`filter_options` select; they are taken out of `options`."""
    names = [name for _, name, _, _ in _FILTERS] + ["kinds"]
    return Selection(ids=tuple(ids), **{name: tuple(options.pop(name)) for name in names})


def say_if_down(console: Console, seen: Seen) -> None:
    """That nothing new is decided or published, where no service runs."""
    if not seen.running:
        console.print(line(("the service is not running", STYLES["warning"])))


def terminal_width() -> int:
    """How wide what is printed may be."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def print_stories(console: Console, stories: Iterable[Story], now_ns: int) -> None:
    """A table, as wide as the terminal; those in force say how long yet, others how they ended."""
    width = terminal_width()
    found = list(stories)
    if not found:
        return
    entries = [story.entry for story in found]
    does = distinct(entries, map(shown_entry, entries))
    rows = [(story, _columns(story, now_ns)) for story in found]
    ended = rows[0][0].end is not None
    heads = ("ID", "ENDED" if ended else "LEFT", "MATCHES")
    sizes = [max(len(texts[i]) for texts in (heads, *(row for _, row in rows))) for i in range(3)]
    console.print(line((_joined(heads, sizes) + "WHAT", "bold")))
    indent = sum(sizes) + 2 * len(sizes)
    for (story, texts), what in zip(rows, does, strict=True):
        lines = [
            (text, style)
            for told, style in ((what, ""), (_about(story, now_ns), "dim"))
            for text in wrapped(told, width - indent)
        ]
        for number, (text, style) in enumerate(lines):
            head = " " * indent if number else _joined(texts, sizes)
            console.print(line(head, (text, style)))


def _columns(story: Story, now_ns: int) -> tuple[str, str, str]:
    episode, end = story.episode, story.end
    if end is None:
        when = rough_duration(story.entry.expires_ns - now_ns)
    else:
        when = shown_moment(end.at_ns)
    return str(episode.id or "-"), when, f"{episode.matches:,}"


def _about(story: Story, now_ns: int) -> str:
    """By which rule it is, and how it stands with it or how it ended."""
    episode, end = story.episode, story.end
    by = [one_line(episode.label or story.entry.reason)]
    if episode.rule_gone:
        by.append("the rule is gone")
    if story.is_left_out:
        by.append("left out of the overlay since the name is reserved")
    if story.aside:
        by.append("not in the overlay: the source is another host's")
    if story.behind is not None:
        by.append(f"the overlay has what {story.behind} sets")
    if end is not None:
        by.append(shown_end(story))
    elif said := standing(story.entry, episode, story.then, now_ns):
        by.append(said)
    return "; ".join(by)


def shown_end(story: Story) -> str:
    """How it ended, by whom and why."""
    end = story.end
    assert end is not None
    by = f" by {end.by}" if end.by else ""
    if end.how == "released":
        by = f" after {counted(story.episode.delivered, 'delivery')}"
    return one_line(f"{end.how}{by}" + (f": {end.reason}" if end.reason else ""))


def shown_moment(ns: int) -> str:
    """A moment to the second, UTC."""
    return format_rfc3339(ns // NS * NS) if ns else "not known"


def _joined(texts: Sequence[str], sizes: Sequence[int]) -> str:
    id_, when, matches = texts
    return f"{id_:>{sizes[0]}}  {when:<{sizes[1]}}  {matches:>{sizes[2]}}  "


def wrapped(text: str, width: int) -> list[str]:
    """The lines of `text`, `width` or 12 columns wide; one at least."""
    return textwrap.wrap(text, max(width, 12), break_on_hyphens=False) or [""]
