"""Having an order carried out: by the service where it runs, else in the state file itself."""

from __future__ import annotations

import getpass
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.automation.decide import Automation
from sidecar.problems import ProblemError
from sidecar.publish.overlay_file import write_atomically
from sidecar.service.cancel import ask
from sidecar.service.logging import Log
from sidecar.service.orders import Answer, Order
from sidecar.service.overlay_place import locked_overlay
from sidecar.service.own_files import read_regular
from sidecar.service.published import Published
from sidecar.service.status import status_path
from sidecar.service.takeover import carry_out_in
from sidecar.settings import Fixed
from sidecar.shaping.specs import parse_duration
from sidecar.store import Store

from .roads import roads_of
from .status import Seen

_SECONDS = 10.0
_LONGEST_NS = 10 * 366 * 86400 * 10**9
_UNTOLD = (
    "the service is not running, so the other hosts of the group do not hear of it: "
    "say it on one that runs as well"
)


@dataclass(frozen=True, slots=True)
class Carried:
    """What was done; where no service runs, ``notes`` say what takes effect when."""

    answer: Answer
    notes: tuple[str, ...] = ()


def who() -> str:
    """The user who orders: also behind sudo."""
    behind = os.environ.get("SUDO_USER", "")
    try:
        return behind or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def span(said: str, where: str) -> int:
    """The nanoseconds of a duration on the command line; ProblemError where it is none."""
    try:
        found = parse_duration(said)
    except ValueError as error:
        raise ProblemError.one("bad-option", str(error), where=where) from None
    if not 0 < found <= _LONGEST_NS:
        raise ProblemError.one("bad-option", "say a time from 1s to 10 years", where=where)
    return found


def carry_out(settings: Fixed, order: Order, seen: Seen) -> Carried:
    """Have `order` done.  ProblemError where it is not."""
    state = settings.state
    try:
        with Store.open(state) as store:
            answer, automation = carry_out_in(store, order, time.time_ns())
    except ProblemError as error:
        if error.problems[0].code != "state-in-use":
            raise
        carried = Carried(_by_service(state, order))
    else:
        notes = [*_notes(automation, answer, seen)]
        if not order.here and not answer.refused and _shares(settings, seen):
            notes.append(_UNTOLD)
        carried = Carried(answer, tuple(notes))
    if carried.answer.refused:
        message = f"nothing was done: {carried.answer.refused}"
        raise ProblemError.one("order-refused", message, file=str(state))
    return carried


def _by_service(state: Path, order: Order) -> Answer:
    request = ask(state, order)
    deadline = time.monotonic() + _SECONDS
    while (answer := request.answer()) is None:
        if time.monotonic() > deadline:
            raise _waits(state)
        time.sleep(0.05)
    return answer


def _waits(state: Path) -> ProblemError:
    """That the service has not done it, and what it says is wrong."""
    message = f"asked for, but the service has not done it within {_SECONDS:g} s"
    try:
        errors = json.loads(read_regular(status_path(state)))["errors"]
    except (OSError, ValueError, LookupError, TypeError):
        errors = []
    said = "; ".join(str(text) for text in errors) or "`tsa-sidecar status` says how it is"
    return ProblemError.one("cancel-waits", f"{message}: {said}", file=str(state))


def _notes(automation: Automation, answer: Answer, seen: Seen) -> Iterator[str]:
    """Rewrite the files that the stopped service has left; what that does, and does not, change."""
    if not answer.cancelled:
        return
    roads = roads_of(seen)
    overlay = roads.get("overlay")
    if overlay is None or not Path(overlay).exists():
        yield "the service is not running: it takes effect at its next start"
        return
    try:
        _rewrite(Path(overlay), automation)
    except ProblemError as error:
        yield f"the service is not running: it takes effect at its next start ({error})"
        return
    yield f"the service is not running: {overlay} was rewritten here"
    if others := [name for name in ("listener", "kumod") if name in roads]:
        names = {"listener": "subscribers", "kumod": "kumod's admin API"}
        told = " and ".join(names[name] for name in others)
        yield f"{told} will hear of it at the next start of the service"


def _shares(settings: Fixed, seen: Seen) -> bool:
    """Whether the service shares: by the settings of this command, or as it did last."""
    return settings.share is not None or isinstance((seen.document or {}).get("share"), dict)


def _rewrite(overlay: Path, automation: Automation) -> None:
    """Write the overlay and the files beside it as the service would."""
    with locked_overlay(overlay, Log(stream=io.StringIO())):
        snapshot = Published(automation.entries).snapshot(version=0, status=b"{}")
        for path, data in snapshot.files(overlay).items():
            write_atomically(path, data)


def as_json(carried: Carried) -> dict[str, Any]:
    """What was done as JSON has it."""
    answer = carried.answer
    return {
        "cancelled": list(answer.cancelled),
        "unknown": list(answer.unknown),
        "hold": answer.held or None,
        "released": list(answer.released),
        "notes": list(carried.notes),
    }
