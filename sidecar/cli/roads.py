"""On which roads the service publishes, and what an operator must do on others by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sidecar.automation.entries import (
    Entry,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
)

from .status import Seen

_COMMANDS = {
    ReadyQSuspension: "suspend-ready-q",
    SchedQSuspension: "suspend",
    SchedQBounce: "bounce",
}


def roads_of(seen: Seen) -> Mapping[str, str]:
    """Where each road leads: ``overlay`` (a file), ``listener`` and ``kumod`` (URLs)."""
    roads = (seen.document or {}).get("roads")
    return {name: str(to) for name, to in roads.items()} if isinstance(roads, dict) else {}


def kcli_lines(entries: Iterable[Entry], seen: Seen) -> Iterator[str]:
    """How to lift in kumod by hand what no road of ours takes back there: the lines for a shell."""
    roads = roads_of(seen)
    if "kumod" in roads or "listener" not in roads:
        return
    kinds = {type(entry) for entry in entries if not entry.simulated}
    commands = [command for kind, command in _COMMANDS.items() if kind in kinds]
    if commands:
        yield (
            "a kumod that subscribes keeps a suspension or bounce until its end; to lift it "
            "there, find its id and cancel that:"
        )
    for command in commands:
        yield f"kcli {command}-list; kcli {command}-cancel --id ID"
