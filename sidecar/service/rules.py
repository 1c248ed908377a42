"""The rules in force, and their reload.

In: a function that settles the settings (and runs the policy), and who answers for
MX.  Out: a :class:`Rules`, whole and checked.  A reload that fails changes
nothing: the last good rules stay in force, and the status shows the problems.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sidecar.automation.matching import Matcher
from sidecar.automation.prefilter import Prefilter
from sidecar.fancy.pattern import Pattern
from sidecar.problems import Problem, ProblemError
from sidecar.settings import Reloaded, Settings, restart_problem
from sidecar.shaping.blocks import all_simulated
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import Resolver
from sidecar.shaping.rules import SidecarTable
from sidecar.shaping.sidecar_table import CODE
from sidecar.shaping.specs import shown
from sidecar.times import NS

from .reload import Signature
from .threads import in_thread

_SOONEST_NS = 30 * NS  # a load of many thousand rules takes seconds
_RELOAD_SECONDS = 10  # the status names a reload that takes longer


@dataclass(frozen=True, slots=True)
class Settled:
    """The settings, the policy's files that they were read from, and what the policy logged."""

    settings: Settings
    policy_files: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The local files whose change calls for a reload."""
        shaping = [
            f for f in self.settings.reloaded.shaping if not f.startswith(("http://", "https://"))
        ]
        notify = self.settings.fixed.notify
        return [*shaping, *self.policy_files, *([] if notify is None else [str(notify)])]


Settle = Callable[[], Settled]
"""Reads options, environment and policy anew; raises ProblemError."""


@dataclass(frozen=True)
class Rules:
    """One load of the rules, and what is made of it."""

    settings: Reloaded
    shaping: Shaping
    matcher: Matcher
    prefilter: Prefilter
    warnings: tuple[Problem, ...] = ()
    """What the settings have."""

    @cached_property
    def count(self) -> int:
        """How many rules there are."""
        return len(self.shaping.all_rules())

    @cached_property
    def own_keys(self) -> tuple[list[SidecarTable], list[Problem]]:
        """The rules' tables ``sidecar``, and what is wrong in them.

        Not all of it is in the hash of the files: a name is no part of what a rule does.
        """
        tables = [rule.sidecar for rule in self.shaping.all_rules()]
        return tables, [problem for problem in self.shaping.warnings if problem.code == CODE]

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of all the rules, each object once."""
        return tuple({id(p): p for rule in self.shaping.all_rules() for p in rule.regexes}.values())

    @property
    def found(self) -> tuple[Problem, ...]:
        """Problems of the shaping files that did not stop the load."""
        return (*self.shaping.warnings, *self.shaping.errors, *self._unresolved())

    @property
    def switched_off(self) -> tuple[Problem, ...]:
        """A problem for each rule of which a regex is switched off: it took too long too often."""
        if all(pattern.off is None for pattern in self.patterns):
            return ()
        return tuple(
            Problem(
                "error",
                "regex-switched-off",
                f"regex {shown(pattern.source)} is switched off, so the rule misses matches: "
                f"{pattern.off}; rewrite it without repetitions inside repetitions, or take it "
                "out (it is tried again after a restart)",
                rule.file,
                rule.line,
                rule.where,
            )
            for rule in self.shaping.all_rules()
            for pattern in rule.regexes
            if pattern.off is not None
        )

    def take_over(self, former: Rules) -> None:
        """Take over the counts of regexes that `former` has as well; one switched off stays so."""
        known = {pattern.source: pattern for pattern in former.patterns}
        for pattern in self.patterns:
            if pattern.source in known:
                pattern.take_over(known[pattern.source])

    def sift(self, data: bytes) -> bytes:
        """The lines of `data`, which holds whole ones, that some rule may match or needs."""
        return data if self.matcher.needs_attempts else self.prefilter.sift(data)

    def sift_numbered(self, data: bytes) -> tuple[bytes, Sequence[int] | None]:
        """The same, and which lines they are, counted from 0; None: all of them."""
        return (data, None) if self.matcher.needs_attempts else self.prefilter.sift_numbered(data)

    def _unresolved(self) -> Iterator[Problem]:
        """A warning of domains that don't resolve, which kumod keeps to itself unless asked.

        Here it means that rules are missing.
        """
        unresolved = self.shaping.unresolved
        if unresolved and self.settings.merge_options.get("dns_fail", "Ignore") == "Ignore":
            names = ", ".join(sorted(unresolved)[:5]) + (", …" if len(unresolved) > 5 else "")
            reason = unresolved[min(unresolved)]
            one = len(unresolved) == 1
            of, their = ("1 domain", "its") if one else (f"{len(unresolved)} domains", "their")
            message = (
                f"the rules and options of {of} are left out, since {their} MX does not resolve: "
                f"{names} ({reason}); asked again later"
            )
            yield Problem("warning", "mx-failed", message)

    def reload_ns(self, now_ns: int) -> int:
        """After how long to read the rules again: the ttl, or sooner to ask the DNS again."""
        ttl_ns = self.settings.ttl_ns
        if not self.shaping.unresolved:
            return ttl_ns
        return min(ttl_ns, max(_SOONEST_NS, self.shaping.expires_ns - now_ns))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Problems of the shaping files and of the settings."""
        return (*self.warnings, *self.found)


async def load_rules(
    settings: Reloaded,
    resolver: Resolver,
    copies: MutableMapping[str, str] | None = None,
    *,
    warnings: tuple[Problem, ...] = (),
    simulate: bool = False,
) -> Rules:
    """Load and merge the shaping files; ProblemError when they do not load.

    `copies`: the last good text of each URL, kept up to date.  `simulate`: no rule
    is to have an effect.
    """
    shaping = await load_shaping(
        settings.shaping,
        options=MergeOptions.from_mapping(settings.merge_options),
        resolver=resolver,
        copies=copies,
    )
    if simulate:
        shaping = all_simulated(shaping)
    # In a thread: to arrange thousands of rules takes a while, and the log goes on.
    return await in_thread(lambda: _arrange(settings, shaping, warnings))


def _arrange(settings: Reloaded, shaping: Shaping, warnings: tuple[Problem, ...]) -> Rules:
    return Rules(
        settings=settings,
        shaping=shaping,
        matcher=Matcher(shaping),
        prefilter=Prefilter.for_rules(shaping.all_rules(), skip_types=settings.skip_record_types),
        warnings=warnings,
    )


class RuleBook:
    """Holds the rules in force and replaces them when a reload succeeds."""

    def __init__(
        self,
        settle: Settle,
        resolver: Resolver,
        settled: Settled,
        rules: Rules,
        *,
        seen: Signature,
        copies: MutableMapping[str, str],
    ) -> None:
        self._settle = settle
        self._resolver = resolver
        self._copies = copies
        self._running = settled.settings.fixed
        self.seen = seen
        """What the files were like before they were first read."""
        self.settled = settled
        self.rules = rules
        self.failure: tuple[Problem, ...] = ()
        """Why the last reload failed; empty when it did not."""
        self._said_off: set[Problem] = set()
        self.reloading_since: float | None = None
        """When (monotonic) the reload began that is under way; None when none is."""

    @property
    def awaiting_restart(self) -> tuple[str, ...]:
        """Names of the settings that have changed and need a restart."""
        return self._running.differing(self.settled.settings.fixed)

    @property
    def restart_problem(self) -> Problem | None:
        """A problem that names them; None where there are none."""
        return restart_problem(self.awaiting_restart, self.settled.settings)

    async def reload(self) -> bool:
        """Read everything again; returns whether the rules changed.

        The policy is run in a thread that the end of the program does not wait for:
        it may hang.
        """
        self.reloading_since = time.monotonic()
        try:
            settled = await in_thread(self._settle)
            settings = settled.settings
            rules = await load_rules(
                settings.reloaded,
                self._resolver,
                self._copies,
                warnings=settings.warnings,
                simulate=self._running.simulate,
            )
            self._refuse_gone(rules)
        except ProblemError as error:
            self.failure = error.problems
            return False
        except MemoryError:
            message = "the rule files take more memory than there is; the last good rules stay"
            self.failure = (Problem("error", "too-much-memory", message),)
            return False
        finally:
            self.reloading_since = None
        rules.take_over(self.rules)
        self.failure = ()
        changed = rules.shaping.hash != self.rules.shaping.hash
        changed = changed or rules.settings != self.rules.settings
        changed = changed or rules.own_keys != self.rules.own_keys
        self.settled, self.rules = settled, rules
        return changed

    def newly_switched_off(self) -> list[Problem]:
        """What of :attr:`Rules.switched_off` is new since the last call."""
        new = [problem for problem in self.rules.switched_off if problem not in self._said_off]
        self._said_off.update(new)
        return new

    def conditions(self) -> Iterator[Problem]:
        """The problems of the rules and their files."""
        yield from self.failure
        yield from self.rules.switched_off
        if self.reloading_since is not None:
            seconds = int(time.monotonic() - self.reloading_since)
            if seconds >= _RELOAD_SECONDS:
                yield Problem("error", "reload", f"a reload has been running for {seconds} s")
        if (problem := self.restart_problem) is not None:
            yield problem
        # Even where remote_load is Ignore: rules are missing.
        yield from (p for p in self.rules.shaping.remote if p.level == "error")
        yield from self.rules.problems

    def _refuse_gone(self, rules: Rules) -> None:
        """Raise ProblemError where a file of the rules in force can't be read any more.

        kumod goes on without such a file.  But while somebody replaces a file the log
        goes on, and its records would be matched by too few rules.
        """
        missing = {p.file for p in self.rules.shaping.errors if p.code == "local-load"}
        had = set(self.rules.settings.shaping) - missing
        gone = [p for p in rules.shaping.errors if p.code == "local-load" and p.file in had]
        if gone:
            raise ProblemError(gone)
