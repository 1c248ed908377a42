"""The senders: the sidecar with its rules, and other laws to compare it with."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sidecar.automation.attempts import Attempts
from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.matching import Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.service.published import Published
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.shaping.specs import parse_throttle
from sidecar.times import NS, format_rfc3339
from tests.bench.provider.simulation import CONFIGURED, Sender

_START: Final = 1_795_392_000
"""Unix seconds of the day's first: a midnight."""
_DOMAIN: Final = "example.com"
_HEAD: Final = f"""
["{_DOMAIN}"]
mx_rollup = false
max_message_rate = "{CONFIGURED:.0f}/min"
[["{_DOMAIN}".automation]]
regex = "rate limited"
"""


class Sidecar:
    """A kumod that obeys the sidecar at once: real rules, records, decisions and overlay.

    ``lag``: how many seconds pass from a refusal until it is in the log that is read.
    """

    def __init__(self, rule: str, *, lag: int = 0) -> None:
        """`rule`: what the rule does, as lines of a shaping file."""
        shaping = _load(_HEAD + rule)
        assert shaping.warnings == ()
        self._matcher = Matcher(shaping)
        self._automation = Automation()
        self._automation.follow(shaping)
        self._view = Published()
        self._lag = lag
        self._log: list[tuple[int, list[bytes] | Attempts]] = []
        self._needs_attempts = any(rule.sidecar.needs_attempts for rule in shaping.all_rules())
        self._now = -1
        self._due = 0
        self._suspended: set[str] = set()
        self._limits: dict[str, float] = {}
        self._text = ""

    def limit(self, source: int, second: int) -> float:
        """What the overlay says, and whether the ready queue is suspended."""
        if second != self._now:
            self._now = second
            if second >= self._due:
                self._advance(second)
        if _ready_queue(source) in self._suspended:
            return 0.0
        return self._limits.get(_name(source), CONFIGURED)

    def refused(self, source: int, second: int, count: int) -> None:
        """Each attempt is a record of the log."""
        self._append(second, [_record(source, second)] * count)
        if self._lag == 0:
            self._advance(second)

    def delivered(self, source: int, second: int, count: int) -> None:
        """What was taken is counted where the rule asks for it."""
        if self._needs_attempts:
            key = _ready_queue(source), _name(source), _DOMAIN, None, True, _START + second
            self._append(second, {key: count})

    def _append(self, second: int, logged: list[bytes] | Attempts) -> None:
        self._log.append((second + self._lag, logged))
        self._due = min(self._due, second + self._lag)

    def _advance(self, second: int) -> None:
        """Do what is due, and note when the next is: a day has many seconds without."""
        self._now = second
        now_ns = (_START + second) * NS
        self._automation.expire(now_ns)
        while self._log and self._log[0][0] <= second:
            self._view.commit(self._decide(self._log.pop(0)[1], now_ns))
        self._view.expire(now_ns)
        text = self._view.overlay.text()
        if text != self._text:
            self._text = text
            self._limits = dict(_limits(tomllib.loads(text)))
        self._suspended = {entry.site for entry in self._view.entries.of_kind("ready_q")}
        change = self._view.next_change()
        changes = [] if change is None else [-(-change // NS) - _START]
        self._due = min([*changes, *(at for at, _ in self._log[:1])], default=sys.maxsize)

    def _decide(self, logged: list[bytes] | Attempts, now_ns: int) -> Outcome:
        if isinstance(logged, dict):
            return self._automation.apply([logged], mx={}, now_ns=now_ns)
        found = candidates(logged, matcher=self._matcher, skip_types=frozenset(), tally=Tally())
        return self._automation.apply(found, mx={}, now_ns=now_ns)


def _limits(overlay: Mapping[str, Any]) -> Mapping[str, float]:
    """Messages a minute, by source."""
    sources = overlay.get(_DOMAIN, {}).get("sources", {})
    rates = {
        name: parse_throttle(path["max_message_rate"])
        for name, path in sources.items()
        if "max_message_rate" in path
    }
    return {name: rate.limit * 60 / rate.period for name, rate in rates.items()}


def _load(text: str) -> Shaping:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shaping.toml"
        path.write_text(text)
        return asyncio.run(
            load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([]))
        )


def _name(source: int) -> str:
    return f"ip{source + 1}"


def _ready_queue(source: int) -> str:
    return f"{_name(source)}->mx.{_DOMAIN}@smtp_client"


def _record(source: int, second: int) -> bytes:
    record = {
        "type": "TransientFailure",
        "recipient": f"user@{_DOMAIN}",
        "queue": _DOMAIN,
        "site": _ready_queue(source),
        "egress_source": _name(source),
        "response": {"code": 421, "content": "4.7.0 you are rate limited"},
        "event_time": format_rfc3339((_START + second) * NS),
    }
    return json.dumps(record).encode()


class Increasing:
    """Down by a share of what is in force; up by a share of the configured limit, in steps."""

    def __init__(self, *, down: float, up: float, every: int, settle: int = 60) -> None:
        self._down, self._up, self._every, self._settle = down, up, every, settle
        self._state: dict[int, tuple[float, int, int]] = {}  # value, last match, last cut

    def limit(self, source: int, second: int) -> float:
        """What has come back since the last match."""
        value, since, _ = self._state.get(source, (CONFIGURED, 0, 0))
        return min(CONFIGURED, value + (second - since) // self._every * self._up * CONFIGURED)

    def refused(self, source: int, second: int, count: int) -> None:
        """A cut, once per ``settle``."""
        value, _, cut = self._state.get(source, (CONFIGURED, 0, -self._settle))
        if second - cut >= self._settle:
            value, cut = max(1.0, self.limit(source, second) * (1 - self._down)), second
        self._state[source] = value, second, cut

    def delivered(self, source: int, second: int, count: int) -> None:
        """No news."""


class LastRefused:
    """Up by a share of the rate last refused; beyond it each step is larger by a factor."""

    def __init__(self, *, down: float, up: float, every: int, widen: float) -> None:
        self._down, self._up, self._every, self._widen = down, up, every, widen
        self._state: dict[int, tuple[float, float, int, int]] = {}  # value, top, match, cut

    def limit(self, source: int, second: int) -> float:
        """Even steps to the rate last refused, then wider ones."""
        if source not in self._state:
            return CONFIGURED
        value, top, since, _ = self._state[source]
        step = self._up * top
        steps = (second - since) // self._every
        while steps and value < top:
            value, steps = value + step, steps - 1
        while steps and value < CONFIGURED:
            step *= self._widen
            value, steps = value + step, steps - 1
        return min(CONFIGURED, value)

    def refused(self, source: int, second: int, count: int) -> None:
        """A cut, once a minute."""
        now = self.limit(source, second)
        value, top, _, cut = self._state.get(source, (CONFIGURED, CONFIGURED, 0, -60))
        if second - cut >= 60:
            value, top, cut = max(1.0, now * (1 - self._down)), max(1.0, now), second
        self._state[source] = value, top, second, cut

    def delivered(self, source: int, second: int, count: int) -> None:
        """No news."""


_SETS: Final = 'action = {{SetConfig = {{name = "max_message_rate", value = "{}/min"}}}}\n'
_HOUR: Final = 'duration = "1 hour"\n'
_PROBES: Final = """
action = "Suspend"
duration = "2 minutes"
sidecar.probe = { max_message_rate = "10/min", deliveries = 20, for = "10 minutes" }
sidecar.escalate = { factor = 2, max = "30 minutes", forget = "1 hour" }
"""


def adjusting(lag: int = 0) -> Sidecar:
    """The sidecar with ``sidecar.adjust = true``."""
    return Sidecar(_SETS.format(1) + _HOUR + "sidecar.adjust = true\n", lag=lag)


LATE: Final = 20
"""Seconds from a refusal to its effect, where the log is slow and kumod looks seldom."""

SENDERS: Final[Mapping[str, Callable[[], Sender]]] = MappingProxyType(
    {
        "a fixed 30/min for 1 h (upstream)": lambda: Sidecar(_SETS.format(30) + _HOUR),
        "a fixed 100/min for 1 h (upstream)": lambda: Sidecar(_SETS.format(100) + _HOUR),
        "Suspend for 1 h (upstream)": lambda: Sidecar('action = "Suspend"\n' + _HOUR),
        "Suspend for 2 min, with sidecar.probe and sidecar.escalate": lambda: Sidecar(_PROBES),
        "half; up 10 % of the configured limit every 10 min": lambda: Increasing(
            down=0.5, up=0.1, every=600
        ),
        "half; up 2 % of it every 10 min": lambda: Increasing(down=0.5, up=0.02, every=600),
        "down 30 %; up 1 % of it every 5 min": lambda: Increasing(down=0.3, up=0.01, every=300),
        "down 30 %; up 5 % of the rate refused every 5 min": lambda: LastRefused(
            down=0.3, up=0.05, every=300, widen=1.3
        ),
        "sidecar.adjust = true": adjusting,
        f"the same, each refusal seen after {LATE} s": lambda: adjusting(LATE),
    }
)
"""The laws to compare."""
