"""The service's log lines on stderr: text for people, or JSON for machines.

In: an event, a level and its fields.  Out: one line.  Text is ``LEVEL event
key=value …``; systemd's journal adds the time.  JSON has the time in it.  A kind
of line is written a few times a minute at most, with the number left out.

:func:`everything_to` has the messages of libraries and of the interpreter written
here, too, so that nothing goes to stderr past these limits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, TextIO

from sidecar.problems import Problem, one_line
from sidecar.times import format_rfc3339

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_PER_MINUTE = 10
_PER_MINUTE_IN_ALL = 1000
_MINUTE_NS = 60_000_000_000
_TEXT_MAX = 1000

_Kind = tuple[str, object]
_ALL: _Kind = ("", None)


class Log:
    """Writes log lines, from any thread.

    At most ten a minute of the same event and file, a thousand in all.
    """

    __slots__ = ("_clock", "_format", "_lock", "_recent", "_stream")

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
        # Reentrant: while a line is written, a warning or a destructor's error may come up.
        self._lock = threading.RLock()
        # By kind of line: when its minute began, lines written, lines left out.
        self._recent: dict[_Kind, tuple[int, int, int]] = {}

    def info(self, event: str, **fields: object) -> None:
        """Something an operator may want to know."""
        self.write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something that an operator should look at."""
        self.write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that does not work until an operator mends it."""
        self.write("error", event, fields)

    def problem(self, problem: Problem) -> None:
        """A problem as one line.  The tenth of the same within a minute is the last."""
        fields: dict[str, object] = {"code": problem.code}
        if problem.file is not None:
            fields["file"] = problem.file
        if problem.line is not None:
            fields["line"] = problem.line
        if problem.where is not None:
            fields["where"] = problem.where
        self.write(problem.level, problem.message, fields)

    def write(
        self, level: Level, event: str, fields: dict[str, object], *, kind: str | None = None
    ) -> None:
        """Write one line, unless there were too many of its `kind` (by default: of its event)."""
        now = self._clock()
        with self._lock:
            left_out = self._admit((kind or event, fields.get("file")), now)
            if left_out is None:
                return
            if left_out:
                fields = {**fields, "left_out": left_out}
            # Shaping goes on though the log can't be written.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(self._line(level, event, fields, now) + "\n")
                self._stream.flush()

    def _line(self, level: Level, event: str, fields: dict[str, object], now: int) -> str:
        if self._format == "json":
            said = {"time": format_rfc3339(now), "level": level, "event": event, **fields}
            return json.dumps(said, default=str)
        parts = [level.upper(), one_line(event)]
        parts += [f"{name}={_word(value)}" for name, value in fields.items()]
        return " ".join(parts)

    def _admit(self, kind: _Kind, now: int) -> int | None:
        """How many lines of this kind were left out before it; None: leave it out as well."""
        if len(self._recent) > 4096:
            self._recent = {_ALL: self._recent.get(_ALL, (now, 0, 0))}
        left_out = 0
        for key, most in ((kind, _PER_MINUTE), (_ALL, _PER_MINUTE_IN_ALL)):
            began, written, missed = self._recent.get(key, (now, 0, 0))
            if not 0 <= now - began < _MINUTE_NS:
                left_out, (began, written, missed) = max(left_out, missed), (now, 0, 0)
            if written >= most:
                self._recent[key] = (began, written, missed + 1)
                return None
            self._recent[key] = (began, written + 1, missed)
        return left_out


def _word(value: object) -> str:
    text = one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


@contextlib.contextmanager
def everything_to(log: Log) -> Iterator[None]:
    """Have what libraries and the interpreter say written by `log`, until the end of the block.

    That is: the logging module (asyncio and watchdog use it), warnings, errors in
    destructors and in threads.  None of it may fill the journal by itself.
    """
    root, handler = logging.getLogger(), _Handler(log)
    before = root.handlers[:], root.level, sys.unraisablehook, threading.excepthook
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.unraisablehook = lambda args: _say_error(
        log, "an error was passed over", args.exc_value or args.exc_type, args.exc_traceback
    )
    threading.excepthook = lambda args: _say_error(
        log, "a thread ended with an error", args.exc_value or args.exc_type, args.exc_traceback
    )
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:], level, sys.unraisablehook, threading.excepthook = before
        root.setLevel(level)


class _Handler(logging.Handler):
    """Passes records of the logging module to our log.  One format is one kind of line."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's format may not fit its arguments
            text = str(record.msg)
        fields: dict[str, object] = {"by": record.name, "text": text[:_TEXT_MAX]}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= _error_fields(record.exc_info[1], record.exc_info[2])
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        kind = f"{record.name} {str(record.msg)[:200]}"
        self._log.write(level, "a library says", fields, kind=kind)


def _say_error(
    log: Log, event: str, error: BaseException | type | None, trace: TracebackType | None
) -> None:
    if error is not SystemExit:
        log.write("error", event, _error_fields(error, trace))


def _error_fields(error: object, trace: TracebackType | None) -> dict[str, object]:
    """The fields that say what went wrong and where, without a traceback."""
    fields: dict[str, object] = {"error": repr(error)[:_TEXT_MAX]}
    if frames := traceback.extract_tb(trace, limit=-1):
        fields["at"] = f"{frames[0].filename}:{frames[0].lineno}"
    return fields
