"""An entry's story: since when it is in force, by which rule, and what caused it.

In: the first match that puts an entry into force, then each further one.  Out: an
:class:`Episode`, kept beside the entry under the same key, and an :class:`Ended`
when the entry goes.  An episode's id never changes: a person can type it.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from sidecar.log.record import Record
from sidecar.problems import one_line
from sidecar.shaping.rules import Rule

from .entries import Entry

_RESPONSE_MAX = 500
_NAME_MAX = 255

How = Literal["expired", "released", "outdated", "cancelled", "cancelled in kumod"]
"""How an episode ended.  ``released``: deliveries ended it.  ``outdated``: the files were loaded
anew, and what they set is not above the limit any more."""


class Cause(msgspec.Struct, frozen=True, gc=False):
    """What a person needs of the record that matched: no control characters, bounded lengths.

    ``domain`` is the recipient's, ``source`` the egress source.  ``host`` is whose log has
    it, "" for this host's own.
    """

    type: str
    response: str
    domain: str
    source: str
    time_ns: int
    host: str = ""

    @classmethod
    def of(cls, record: Record, domain: str, host: str = "") -> Cause:
        """That of `record`, for a recipient at `domain`."""
        return cls(
            record.type[:_NAME_MAX],
            _harmless(record.response_line, _RESPONSE_MAX),
            _harmless(domain, _NAME_MAX),
            _harmless(record.egress_source, _NAME_MAX),
            record.time_ns,
            _harmless(host, _NAME_MAX) if host else "",
        )


def _harmless(text: str, most: int) -> str:
    shown = one_line(text[:most])[:most]
    return shown + "…" if len(text) > most else shown


class Episode(msgspec.Struct, frozen=True):
    """The story of one entry.

    ``began_ns``: when the entry came into force; 0 of one that was there before
    episodes were kept.  ``first`` and ``latest``: the first and the newest record
    decided, None where it is not known.  ``matches`` counts what put it into force or
    renewed it: records, each recipient for itself.  ``file`` and ``line`` say where the
    rule stands, ``name`` and ``note`` what it is called and what people are told of it.
    ``window`` is the key of the threshold that it counts in, "" without
    one.  ``rule_gone``: the rule is not in the files any more.  ``struck_ns`` is the time
    of the newest match, ``delivered`` how many deliveries came after it: kept where
    deliveries end the entry (``sidecar.release``, ``sidecar.probe``).
    """

    id: int
    began_ns: int
    matches: int
    file: str = ""
    line: int = 0
    name: str = ""
    note: str = ""
    window: str = ""
    first: Cause | None = None
    latest: Cause | None = None
    rule_gone: bool = False
    struck_ns: int = 0
    delivered: int = 0

    @property
    def label(self) -> str:
        """What to call the rule: its name, else where it stands; "" where that is not known."""
        return self.name or (f"{self.file}:{self.line}" if self.file else "")

    def by_rule(self, rule: Rule, window: str) -> Episode:
        """The same as `rule` has it now."""
        return replace(
            self,
            file=rule.file,
            line=rule.line,
            name=rule.sidecar.name,
            note=rule.sidecar.note,
            window=window,
            rule_gone=False,
        )

    def to_payload(self) -> str:
        """The same as JSON text, for the state file."""
        return msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(Episode)


def episode_from_payload(payload: str) -> Episode:
    """What :meth:`Episode.to_payload` made; ValueError says what is wrong with it."""
    return _DECODER.decode(payload)


class Ended(msgspec.Struct, frozen=True):
    """An entry that is in force no more: when it ended, how, by whom and why.

    ``by`` and ``reason`` are an operator's; "" where nobody had a hand in it.
    """

    entry: Entry
    episode: Episode
    at_ns: int
    how: How
    by: str = ""
    reason: str = ""
