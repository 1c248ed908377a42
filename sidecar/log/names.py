"""What a segment's name says: when it was opened, and which series it belongs to.

kumod names a segment after the UTC moment it was opened, ``%Y%m%d-%H%M%S.%f``
with up to nine fractional digits, plus the series' suffix (KumoMTA's
documentation, ``configure_local_logs``).  A site's own jobs put endings behind
that (``.gz``) or text in front of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.times import NS, seconds_since_epoch

_STAMP = re.compile(
    r"(?<!\d)(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)(?:\.(\d{1,9}))?(?!\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A segment's name, taken apart.

    ``opened_ns`` is Unix nanoseconds, None where the name holds no moment.
    ``suffix`` is what stands behind the moment, "" where there is none.
    """

    opened_ns: int | None
    suffix: str

    @property
    def series(self) -> str:
        """The suffix up to the first dot, for a dot may begin an ending (``.gz``).

        It may belong to kumod's suffix as well (``.csv``), so that several series
        may look like one.  All names without a moment are one series.
        """
        return self.suffix.split(".", 1)[0]

    @property
    def identity(self) -> tuple[int, str] | None:
        """What a renamed or recompressed copy of the segment has in common with it."""
        return None if self.opened_ns is None else (self.opened_ns, self.series)


def parse_name(name: str) -> SegmentName:
    """Take a file name apart."""
    stamp = _STAMP.search(name)
    if stamp is None:
        return SegmentName(None, "")
    try:
        year, month, day, hour, minute, second = map(int, stamp.groups()[:6])
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:  # 20261399-...
        return SegmentName(None, "")
    fraction = int((stamp[7] or "").ljust(9, "0"))
    return SegmentName(seconds_since_epoch(moment) * NS + fraction, name[stamp.end() :])
