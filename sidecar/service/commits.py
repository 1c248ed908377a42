"""What is decided and not committed yet.  Only what is committed is published.

In: transactions with their outcomes, and a store.  Out: commits.  Each returns
the outcome that may now be published.  While the disk is full or broken, the
commit is tried again.  What waits meanwhile grows with its keys, not with the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from sidecar.automation.decide import Outcome
from sidecar.faults import reached
from sidecar.problems import Problem, ProblemError
from sidecar.store import Store, StoreError, StoreLostError, Transaction

from .logging import Log
from .state import effects

_COMMIT_SECONDS = 0.5
"""How long what has no outcome (a position, a threshold's count) may wait for its commit,
and what has one while there is more to read at once."""

_EVENTS_MAX = 4096
"""How many suspensions and bounces may wait to be told."""

_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
_LAST_TRIES = 3


class Commits:
    """The pending changes of one store.

    What outcomes change in the store is written down once for all that was decided
    since the last commit, of which only the last of each key counts.
    ``tell``: the rows of the outbox that tell of an outcome.
    ``everything``: the whole state as one transaction, for a store that lost
    its file.
    """

    def __init__(
        self,
        store: Store,
        *,
        everything: Callable[[], Transaction],
        log: Log,
        took: Callable[[float], object] = lambda _seconds: None,
        tell: Callable[[Outcome], Mapping[str, str | None]] = lambda _outcome: {},
    ) -> None:
        self._store = store
        self._everything = everything
        self._log = log
        self._took = took
        self._tell = tell
        self._pending = Transaction()
        self._decided = Outcome()  # its effects are not in _pending yet
        self._unpublished = Outcome()
        self._since: float | None = None
        self._awaited: list[asyncio.Future[None]] = []
        self.failure: Problem | None = None
        """Why the state file can't be written; None while it can."""
        self.patient = True
        """Whether :meth:`commit` waits for the disk; if not, it gives up as at the end."""

    def add(self, changes: Transaction, outcome: Outcome | None = None) -> None:
        """Have `changes` and the effects of `outcome` committed soon; `outcome` published then."""
        told = {} if outcome is None else self._tell(outcome)
        self._pending.add(changes)
        self._pending.outbox.update(told)
        if outcome is not None:
            self._decided.add(
                Outcome(
                    outcome.entries,
                    outcome.dropped,
                    episodes=outcome.episodes,
                    ended=outcome.ended,
                    counted=outcome.counted,
                )
            )
            self._unpublished.add(outcome)
        self._note_time()

    def add_unpublished(self, outcome: Outcome) -> None:
        """Have the effects of `outcome` committed soon, of which nothing is to be published."""
        self._pending.outbox.update(self._tell(outcome))
        self._decided.add(outcome)
        self._note_time()

    def committed(self) -> asyncio.Future[None]:
        """A future that is done when all that was added so far is committed."""
        future = asyncio.get_running_loop().create_future()
        if self._since is None:
            future.set_result(None)
        else:
            self._awaited.append(future)
        return future

    def _note_time(self) -> None:
        if self._since is None and (self._pending or self._decided or self._decided.counted):
            self._since = time.monotonic()

    @property
    def outcomes(self) -> bool:
        """Whether the next commit gives anything to publish."""
        return bool(self._unpublished)

    @property
    def due(self) -> bool:
        """Whether it is time to commit: something has waited long enough, or there is much."""
        if self._since is None:
            return False
        waited = time.monotonic() - self._since >= _COMMIT_SECONDS
        return waited or len(self._unpublished.events) >= _EVENTS_MAX

    async def commit(self) -> Outcome:
        """Commit what is pending; returns what may now be published.  Waits for the disk."""
        if not self.patient:
            return await self.last_commit()
        failures = 0
        while (committed := self.try_commit()) is None:
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1
        return committed

    async def last_commit(self) -> Outcome:
        """Commit what is pending, before the end.  Raises ProblemError after a few tries.

        Nothing is lost then: positions and effects both stay as they were, and the
        log is read again from there.
        """
        for number in range(_LAST_TRIES):
            if (committed := self.try_commit()) is not None:
                return committed
            await asyncio.sleep(_RETRY_SECONDS[number])
        assert self.failure is not None
        raise ProblemError([self.failure])

    def try_commit(self) -> Outcome | None:
        """Commit what is pending; returns what may now be published, None when that failed."""
        if self._since is not None:
            reached("before-commit")
            self._pending.add(effects(self._decided))
            self._decided = Outcome()
            began = time.perf_counter()
            try:
                self._store.commit(self._pending)
            except StoreLostError as error:
                # The file was damaged or removed, and a new one was made: write everything into it.
                self._failed(error.problem)
                self._pending = self._everything()
                return None
            except StoreError as error:
                self._failed(error.problem)
                return None
            self._took(time.perf_counter() - began)
            reached("after-commit")
        return self._committed()

    def _failed(self, problem: Problem) -> None:
        if self.failure is None or self.failure.code != problem.code:
            self._log.problem(problem)
        self.failure = problem

    def _committed(self) -> Outcome:
        if self.failure is not None:
            self._log.info("the state file can be written again")
            self.failure = None
        outcome, self._unpublished = self._unpublished, Outcome()
        self._pending = Transaction()
        self._since = None
        awaited, self._awaited = self._awaited, []
        for future in awaited:
            if not future.done():
                future.set_result(None)
        return outcome
