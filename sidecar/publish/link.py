"""The connection to one kumod: exchanges, their troubles, how often to try.

In: tasks.  Out: their exchanges, counted; each kind of trouble, reported once until
it is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sidecar.http_client import Answer, Unreachable
from sidecar.problems import Problem
from sidecar.publish.admin_api import AdminApi, ApiAddress
from sidecar.publish.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to try, in seconds.

    ``bump``: at least so long between two bumps.  ``inspect``: between two questions
    about what is in effect.  ``sum_up``: between two sums of the answers.
    ``first_retry`` doubles up to ``last_retry``, each with jitter.  ``refused``: until
    an API that refuses us is asked again.  ``reconcile``: between two readings of
    kumod's lists.  ``answer``: for one exchange.
    """

    bump: float = 1.0
    first_retry: float = 0.25
    last_retry: float = 15.0
    refused: float = 60.0
    reconcile: float = 30.0
    answer: float = 10.0
    inspect: float = 0.1
    sum_up: float = 5.0


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """kumod refuses us altogether: it does not trust this host, or it is not its API there."""


class Task(Protocol):
    """What is done again and again: the bumper or the pusher."""

    name: str

    async def ready(self) -> None:
        """Wait until there is something to do."""

    async def work(self, api: AdminApi) -> None:
        """Do it.  Raises Unreachable and Refused."""


class Problems:
    """Reports each kind of trouble once until it is over."""

    def __init__(self, address: ApiAddress, on_problem: Callable[[Problem], None]) -> None:
        self._shown = address.url
        self._on_problem = on_problem
        # By code: who has it.  A kumod that is down is one trouble, not one for each task.
        self._ill: dict[str, set[str]] = {}
        self._current: dict[str, Problem] = {}

    @property
    def current(self) -> tuple[Problem, ...]:
        """The troubles that last."""
        return tuple(self._current.values())

    def report(self, code: str, message: str, *, who: str = "") -> None:
        """Note that `who` has this trouble; report it if nobody had it before."""
        ill = self._ill.setdefault(code, set())
        problem = Problem("warning", f"kumod-{code}", message, where=self._shown)
        if not ill:
            self._on_problem(problem)
        self._current[code] = problem
        ill.add(who)

    def well(self, code: str, *, who: str = "") -> None:
        """Note that `who` does not have this trouble any more."""
        ill = self._ill.get(code, set())
        ill.discard(who)
        if not ill:
            self._current.pop(code, None)


class Link:
    """The connection to one kumod."""

    def __init__(
        self,
        address: ApiAddress,
        *,
        on_problem: Callable[[Problem], None],
        metrics: Metrics,
        pace: Pace,
    ) -> None:
        self.metrics = metrics
        self.pace = pace
        self.problems = Problems(address, on_problem)
        self.address = address

    async def keep_at(self, task: Task) -> None:
        """Do `task` again and again; after a failure wait, each time longer."""
        pause = self.pace.first_retry
        while True:
            await task.ready()
            try:
                async with AdminApi(self.address, seconds=self.pace.answer) as api:
                    await task.work(api)
            except Unreachable as reason:
                self.metrics.kumod_up.set(0)
                message = f"{reason}; tried again until it answers"
                self.problems.report("unreachable", message, who=task.name)
                # Jitter: those who lost kumod together do not come back together.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(2 * pause, self.pace.last_retry)
            except Refused as reason:
                self.metrics.kumod_up.set(0)
                self.problems.report("refused", str(reason), who=task.name)
                await asyncio.sleep(self.pace.refused)
            else:
                self.metrics.kumod_up.set(1)
                self.problems.well("unreachable", who=task.name)
                self.problems.well("refused", who=task.name)
                pause = self.pace.first_retry

    async def request(
        self,
        api: AdminApi,
        method: str,
        path: str,
        payload: Mapping[str, object] | None = None,
        *,
        may_lack: bool = False,
    ) -> Answer:
        """One exchange, counted.  Raises Unreachable and Refused; returns other 4xx.

        `may_lack`: an older kumod does not know the path; its 404 is returned as well.
        """
        try:
            answer = await api.request(method, path, payload)
        except Unreachable:
            self.metrics.kumod_requests.labels(method, "unreachable").inc()
            raise
        outcome = "ok" if answer.status < 400 else "refused" if answer.status < 500 else "failed"
        self.metrics.kumod_requests.labels(method, outcome).inc()
        if answer.status in (401, 403):
            raise Refused(
                f"{method} {path} is refused ({answer.status} {answer.text}): add this host to "
                "trusted_hosts of kumod's http listener"
            )
        if answer.status in (404, 405) and method != "DELETE" and not may_lack:
            raise Refused(
                f"{method} {path} is unknown there ({answer.status}): "
                "is this kumod's HTTP listener?"
            )
        if answer.status < 200 or 300 <= answer.status < 400:
            raise Unreachable(f"{method} {path}: an unexpected answer, {answer.status}")
        return answer


def failed(answer: Answer) -> bool:
    """Whether the same request may succeed later."""
    return answer.status >= 500 or answer.status in (408, 425, 429)
