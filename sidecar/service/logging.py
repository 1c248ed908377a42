"""Log lines: structured, on stderr, as text for people or JSON for machines.

In: an event, a level and its fields.  Out: one line.  Text is ``LEVEL event
key=value …`` (systemd's journal adds the time; without it, set
``--log-format json``, which has its own).  What the input can repeat is
limited to a few lines a minute per event, with the number left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

from sidecar.problems import Problem
from sidecar.times import format_rfc3339

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_PER_MINUTE = 10


class Log:
    """Writes log lines; at most ten a minute of the same event and file."""

    __slots__ = ("_clock", "_format", "_recent", "_stream")

    def __init__(
        self,
        *,
        log_format: LogFormat = "text",
        stream: TextIO | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._format = log_format
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._recent: dict[tuple[str, object], list[int]] = {}

    def info(self, event: str, **fields: object) -> None:
        """Something an operator may want to know."""
        self.write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something an operator should look at."""
        self.write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that does not work until an operator mends it."""
        self.write("error", event, fields)

    def problem(self, problem: Problem) -> None:
        """A problem as one line; the same one again within a minute is left out after a while."""
        fields: dict[str, object] = {"code": problem.code}
        if problem.file is not None:
            fields["file"] = problem.file
        if problem.line is not None:
            fields["line"] = problem.line
        if problem.where is not None:
            fields["where"] = problem.where
        self.write(problem.level, problem.message, fields)

    def write(self, level: Level, event: str, fields: dict[str, object]) -> None:
        """One line, unless there were too many of its kind."""
        now = self._clock()
        left_out = self._too_many(event, fields.get("file"), now)
        if left_out is None:
            return
        if left_out:
            fields = {**fields, "left_out": left_out}
        if self._format == "json":
            line = json.dumps(
                {"time": format_rfc3339(now), "level": level, "event": event, **fields},
                default=str,
            )
        else:
            parts = [level.upper(), _word(event, bare=True)]
            parts += [f"{name}={_word(value)}" for name, value in fields.items()]
            line = " ".join(parts)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # A log that can't be written is no reason to stop shaping traffic.
            return

    def _too_many(self, event: str, file: object, now: int) -> int | None:
        """None: leave the line out; else how many were left out before it."""
        if len(self._recent) > 4096:
            self._recent.clear()
        minute, written, left_out = self._recent.setdefault((event, file), [now, 0, 0])
        if not 0 <= now - minute < 60_000_000_000:
            self._recent[event, file] = [now, 1, 0]
            return left_out
        entry = self._recent[event, file]
        if written >= _PER_MINUTE:
            entry[2] += 1
            return None
        entry[1] += 1
        return 0


def _word(value: object, *, bare: bool = False) -> str:
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if bare:
        return text
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
