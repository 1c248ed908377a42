"""A log record: the fields of one JSON line that the rules can see.

In: the bytes of one line.  Out: a :class:`Record`, or why it is none.
Unknown fields are ignored, absent ones get upstream's defaults, wrong types
make the line a bad one (KumoMTA's documentation, "Log record").
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Record:
    """What the automation uses of a log record.

    ``recipients`` has one item or more; ``time_ns`` is ``event_time`` where
    present, else ``timestamp``; ``enhanced`` is ``"5.7.1"`` or None;
    ``egress_source`` is :data:`UNSPECIFIED_SOURCE` when the record has none.
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
