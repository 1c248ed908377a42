"""A log record: the fields of one JSON line that the rules can see.

In: the bytes of one line.  Out: a :class:`Record`, or why it is none.
Unknown fields are ignored, absent ones get upstream's defaults, wrong types
make the line a bad one (KumoMTA's documentation, "Log record").
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Annotated, Any, Final

import msgspec

from sidecar.times import NS, parse_rfc3339

INTERNAL_PREFIX = "KumoMTA internal: "
"""How the content of a response begins that kumod made up itself."""

UNSPECIFIED_SOURCE = "unspecified"
"""What KumoMTA calls the egress source of a record that names none."""

SKIPPED_TYPES = frozenset(
    {
        "AdminRebind",
        "DeferredInjectionRebind",
        "Delayed",
        "Reception",
        "Rejection",
        "XferIn",
        "XferOut",
    }
)
"""Record types that upstream's client does not send to the automation by default."""

LOG_PROTOCOL = "LogRecord"
"""``reception_protocol`` of kumod's own log traffic, never sent to the automation."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the automation uses of a log record.

    ``recipients`` has one item or more; ``time_ns`` is ``event_time`` where
    present, else ``timestamp``, which is in seconds; ``enhanced`` is ``"5.7.1"`` or None;
    ``egress_source`` is :data:`UNSPECIFIED_SOURCE` when the record has none;
    ``classification`` is what kumod's bounce classifier says, "" where the record does not.
    """

    type: str
    recipients: tuple[str, ...]
    queue: str
    site: str
    egress_source: str
    code: int
    enhanced: str | None
    content: str
    time_ns: int
    reception_protocol: str | None = None
    classification: str = ""
    timestamp: int | None = None

    @property
    def is_internal(self) -> bool:
        """True for a response that kumod made up itself."""
        return self.content.startswith(INTERNAL_PREFIX)

    @property
    def response_line(self) -> str:
        """The text that rules match: ``CODE [C.S.D ]content`` on one line.

        Each CR LF, CR or LF is one space (upstream's ``Response::to_single_line``).
        """
        text = self.content
        if "\r" in text or "\n" in text:
            text = text.replace("\r\n", " ").replace("\r", " ").replace("\n", " ")
        if self.enhanced is None:
            return f"{self.code} {text}"
        return f"{self.code} {self.enhanced} {text}"


_TIME_MAX_NS: Final = 2**63 - 1
"""The year 2262, as far as chrono's and SQLite's 64 bits of nanoseconds reach."""

_MAX_GLUED: Final = (
    8  # beginnings of a record tried in one line: a hostile one must not cost a square
)
_RECORD_START: Final = re.compile(rb'\{\s*"type"\s*:')

_U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
_U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class BadLine(ValueError):  # noqa: N818 - it is a thing found in a log, not a fault of the program
    """A line that is no log record; the message says why, in a few words."""


class _Enhanced(msgspec.Struct):
    class_: _U8 = msgspec.field(name="class")
    subject: _U16
    detail: _U16


class _Response(msgspec.Struct):
    code: _U16
    content: str = ""
    enhanced_code: _Enhanced | None = None


class _Line(msgspec.Struct):
    """The fields used, with the types kumod gives them; all others are skipped unread."""

    type: str
    recipient: str | list[str]
    response: _Response
    queue: str | None = None
    site: str | None = None
    egress_source: str | None = None
    timestamp: int | None = None
    event_time: str | None = None
    reception_protocol: str | None = None
    bounce_classification: Any = None


_DECODER: Final = msgspec.json.Decoder(_Line)


def decode(line: bytes) -> Record:
    """The record in `line` (with or without its line end); :class:`BadLine` where there is none.

    A record behind other text, as a ``segment_header`` without a line end of
    its own leaves it, is found (KumoMTA's documentation, ``segment_header``).
    """
    try:
        return _decode(line)
    except BadLine as error:
        for start in islice(_RECORD_START.finditer(line, 1), _MAX_GLUED):
            try:
                return _decode(line[start.start() :])
            except BadLine:
                continue
        raise error


def _decode(text: bytes) -> Record:
    try:
        if not text.isascii():
            text.decode("utf-8")  # msgspec doesn't look at the strings it skips
        return _record(_DECODER.decode(text))
    except UnicodeDecodeError as error:
        raise BadLine("not UTF-8") from error
    except RecursionError as error:
        raise BadLine("nested too deeply") from error
    except ValueError as error:  # msgspec's errors are ValueErrors, and so is a bad time
        raise BadLine(str(error)) from error


def _record(line: _Line) -> Record:
    recipients = (line.recipient,) if isinstance(line.recipient, str) else tuple(line.recipient)
    if not recipients:
        raise BadLine("no recipient")
    enhanced = line.response.enhanced_code
    return Record(
        type=line.type,
        recipients=recipients,
        queue=line.queue or "",
        site=line.site or "",
        egress_source=UNSPECIFIED_SOURCE if line.egress_source is None else line.egress_source,
        code=line.response.code,
        enhanced=(
            None if enhanced is None else f"{enhanced.class_}.{enhanced.subject}.{enhanced.detail}"
        ),
        content=line.response.content,
        time_ns=_time_ns(line),
        reception_protocol=line.reception_protocol,
        classification=(
            line.bounce_classification if isinstance(line.bounce_classification, str) else ""
        ),
        timestamp=line.timestamp,
    )


def _time_ns(line: _Line) -> int:
    if line.event_time is not None:
        time_ns = parse_rfc3339(line.event_time)
    elif line.timestamp is not None:
        time_ns = line.timestamp * NS
    else:
        raise BadLine("neither event_time nor timestamp")
    if abs(time_ns) > _TIME_MAX_NS:
        raise BadLine("its time is out of range")
    return time_ns
