"""Asks kumod whether it does what was published, and sums up the answers.

In: the options that the overlay sets, and what the pusher knows of suspensions and
bounces.  Out: an :class:`Obedience`, a value for the status and the metrics.
:mod:`sidecar.publish.obey` decides what to ask, and what the answers mean.

kumod asks the DNS before it answers.  So a slow answer is no trouble with kumod.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.http_client import Unreachable
from sidecar.publish.admin_api import AdminApi, read_json
from sidecar.publish.link import Link, Refused
from sidecar.publish.obey import Effect, Place, Questions, Setting, Shown, Verdict, read_answer
from sidecar.publish.pusher import Pusher
from sidecar.times import NS, format_rfc3339

EFFECTS: tuple[Effect, ...] = ("in effect", "not obeyed", "cancelled in kumod", "unknown")
_SHOWN = 1000
_PIECE = 500  # entries judged before the event loop has its turn


@dataclass(frozen=True, slots=True)
class Obedience:
    """How many entries have which verdict, and the verdicts by entry's key.

    Of very many a thousand are here: those that are not in effect first.
    """

    counts: Mapping[Effect, int] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    def first(self, effect: Effect) -> tuple[str, Verdict] | None:
        """An entry with that verdict."""
        return next(((k, v) for k, v in self.verdicts.items() if v.effect == effect), None)

    def document(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "counts": dict(self.counts),
            "verdicts": {key: _as_json(verdict) for key, verdict in self.verdicts.items()},
        }


def _as_json(verdict: Verdict) -> dict[str, str]:
    found: dict[str, str] = {"effect": verdict.effect}
    if verdict.since_ns:
        found["since"] = format_rfc3339(verdict.since_ns)
    if verdict.why:
        found["why"] = verdict.why
    return found


class Inspector:
    """Two tasks: one asks, one sums up."""

    def __init__(self, link: Link, pusher: Pusher) -> None:
        self._link = link
        self._pusher = pusher
        self._questions = Questions()
        self._changed = asyncio.Event()
        self.obedience = Obedience()
        """The last sum."""

    def take(self, settings: Mapping[str, Setting | None]) -> None:
        """Note the settings that changed."""
        if settings:
            self._questions.take(settings, time.time_ns())
            self._changed.set()

    async def ask(self) -> None:
        """Ask whenever a question is due, for ever."""
        while True:
            await self._until_due()
            try:
                async with AdminApi(self._link.address, seconds=self._link.pace.answer) as api:
                    while place := self._questions.next(time.time_ns()):
                        shown = await self._ask(api, place)
                        self._questions.answered(place, shown, time.time_ns())
                        await asyncio.sleep(self._link.pace.inspect)
            except (Unreachable, Refused):
                # The other tasks report it.  What could not be asked stays due.
                await asyncio.sleep(self._link.pace.last_retry)

    async def _until_due(self) -> None:
        self._changed.clear()
        due_ns = self._questions.due_ns()
        seconds = None if due_ns is None else (due_ns - time.time_ns()) / NS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _ask(self, api: AdminApi, place: Place) -> Shown:
        try:
            answer = await self._link.request(api, "GET", place.path, may_lack=True)
            body = read_json(answer) if answer.status == 200 else None
        except Unreachable as reason:
            if self._link.problems.current:
                raise
            return Shown(failure=str(reason))
        return read_answer(answer.status, body, answer.text)

    async def sum_up(self) -> None:
        """Keep :attr:`obedience` up to date, for ever."""
        while True:
            self.obedience = await self._summed_up()
            for effect in EFFECTS:
                count = self.obedience.counts.get(effect, 0)
                self._link.metrics.kumod_entries.labels(effect).set(count)
            await asyncio.sleep(self._link.pace.sum_up)

    async def _summed_up(self) -> Obedience:
        counts: dict[Effect, int] = dict.fromkeys(EFFECTS, 0)
        others: dict[str, Verdict] = {}
        in_effect: dict[str, Verdict] = {}
        for number, (key, verdict) in enumerate(self._verdicts(), start=1):
            counts[verdict.effect] += 1
            kept = in_effect if verdict.effect == "in effect" else others
            if len(kept) < _SHOWN:
                kept[key] = verdict
            if number % _PIECE == 0:
                await asyncio.sleep(0)
        shown = dict(list((others | in_effect).items())[:_SHOWN])
        return Obedience(counts, shown)

    def _verdicts(self) -> Iterator[tuple[str, Verdict]]:
        for target in self._pusher.targets():
            yield from self._pusher.verdicts(target).items()
        for key in self._questions.keys():  # noqa: SIM118 - a method, of no mapping
            verdict = self._questions.verdict(key)
            if verdict is not None:
                yield key, self._with_trouble(verdict)

    def _with_trouble(self, verdict: Verdict) -> Verdict:
        """The verdict while kumod does not answer: what was not in effect is not obeyed."""
        trouble = next(iter(self._link.problems.current), None)
        if trouble is None or verdict.effect == "in effect":
            return verdict
        return Verdict("not obeyed", why=trouble.message)
