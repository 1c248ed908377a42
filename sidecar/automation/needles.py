"""Short needles that stand for many literals, so that a scan has few things to look for.

In: the literals of the rules.  Out: byte strings (needles), or None where it would take
too many.  Every log line that holds a literal, in whatever spelling, holds a needle.

A scan for a few dozen needles is several times as fast as one for hundreds of literals.
Rules resemble each other, so one needle serves several: ``[TSS04]`` and ``[TSS05]``, or the
four ``… frequency limited``.  A needle never crosses a space, since the log may have a line
break there.  It is ASCII, since other characters have several spellings.  ``\\u00XX`` can
spell any ASCII character, so it is a needle itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from sidecar.fancy.literals import Literal

MAX_NEEDLES: Final = 64
"""How many Rust's aho-corasick looks for with its SIMD search.  For 47 of them it takes two thirds
of Hyperscan's time, for 22 a third; with one more than this, five times as long."""

_MAX_LITERALS: Final = 800
"""With more there is hardly a small number of rare needles, and looking for them takes a while."""

_WINDOW: Final = 4  # bytes that the scan compares at once
_SHORTEST: Final = 3
_MAX_SPELLINGS: Final = 16  # of one needle in any case
_SEPARATOR: Final = re.compile(r"[ /]+")
_ESCAPED_ASCII: Final = b"\\u00"
_FOLDED: Final = frozenset(b"ksKS")  # with (?i) these have spellings beyond ASCII

# Texts of most records, or of many answers: poor needles.
_COMMON: Final = (
    b'{"type":"TransientFailure","id":"sender":"bounce@recipient":"queue":"site":"->(mx1|mx2)'
    b'@smtp_client","size":"response":{"code":421,"enhanced_code":{"class":4,"subject":"detail"'
    b'"content":"","command":"RCPT TO:<\\r\\n"},"peer_address":{"name":"addr":"timestamp":'
    b'"event_time":"created_time":"num_attempts":"bounce_classification":"Uncategorized",'
    b'"egress_pool":"egress_source":"unspecified","source_address":{"address":"server":"protocol"'
    b'"feedback_report":null,"meta":{"tenant":"campaign":"headers":{"Subject":"From":"To":"Date":'
    b'"Message-ID":"delivery_protocol":"ESMTP","reception_protocol":"HTTP","nodeid":"tls_cipher":'
    b'"TLS_AES_256_GCM_SHA384","tls_protocol_version":"TLSv1.3","tls_peer_subject_name":[]'
    b'"session_id":"provider_name":".com.net.org"https://ok queued as OK: accepted for delivery '
    b"message mail mails server service messages please address user domain sender recipient "
).lower()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a window stands: ``tail`` begins with it and is the rest of its word."""

    literal: int
    tail: bytes


def choose(literals: Iterable[Literal]) -> dict[bytes, tuple[Literal, ...]] | None:
    """The needles, each with the literals that it stands for; none for one that stands for itself.

    None where it would take more than :data:`MAX_NEEDLES`.
    """
    wanted = tuple(literals)
    if len(wanted) > _MAX_LITERALS:
        return None
    places = _windows(wanted)
    missing = set(range(len(wanted)))
    needles: dict[bytes, tuple[Literal, ...]] = {_ESCAPED_ASCII: ()}
    while missing:
        covers = {
            window: covered
            for window, found in places.items()
            if (covered := len({place.literal for place in found} & missing))
        }
        # A window never covers more than now, so too many are known early.
        if max(covers.values(), default=0) * (MAX_NEEDLES - len(needles)) < len(missing):
            return None
        best = max((_worth(window, covered), window) for window, covered in covers.items())
        chosen = [place for place in places[best[1]] if place.literal in missing]
        missing -= {place.literal for place in chosen}
        for needle, meant in _needles(best[1], chosen, wanted):
            needles[needle] = (*needles.get(needle, ()), *meant)
        if len(needles) > MAX_NEEDLES:
            return None
    return needles


def _needles(
    window: bytes, chosen: list[_Place], literals: tuple[Literal, ...]
) -> Iterator[tuple[bytes, tuple[Literal, ...]]]:
    """What to look for where `window` was chosen, with the literals that it may mean."""
    meant = tuple(literals[number] for number in dict.fromkeys(p.literal for p in chosen))
    any_case = tuple(literal for literal in meant if literal.ignore_case)
    if any_case:
        for spelling in _spellings(window):
            yield spelling, any_case
    exact = tuple(literal for literal in meant if not literal.ignore_case)
    if exact:
        tails = [place.tail for place in chosen if not literals[place.literal].ignore_case]
        yield _common_start(tails), exact


def _windows(literals: tuple[Literal, ...]) -> dict[bytes, list[_Place]]:
    places: dict[bytes, list[_Place]] = {}
    for number, literal in enumerate(literals):
        for word in _words(literal):
            for start in range(max(len(word) - _WINDOW, 0) + 1):
                window = word[start : start + _WINDOW]
                if _fit(window, any_case=literal.ignore_case):
                    places.setdefault(window, []).append(_Place(number, word[start:]))
    return places


def _words(literal: Literal) -> Iterator[bytes]:
    for word in _SEPARATOR.split(literal.text):
        # The scan must see whole characters: those beyond ASCII end a word, too.
        for text in re.split(r"[^\x20-\x7e]+", word):
            part = text.lower() if literal.ignore_case else text
            yield part.replace("\\", "\\\\").replace('"', '\\"').encode()


def _fit(window: bytes, *, any_case: bool) -> bool:
    if len(window) < _SHORTEST or (len(window) < _WINDOW and window.isalpha() and window.islower()):
        return False
    if not any_case:
        return True
    letters = sum(chr(byte).isalpha() for byte in window)
    return _FOLDED.isdisjoint(window) and 2**letters <= _MAX_SPELLINGS


def _worth(window: bytes, covered: int) -> float:
    """How good a choice `window` is: it covers many literals and is rare in lines.

    A short one is the last resort, for it makes the scan for all of them slower.
    """
    if window.lower() in _COMMON:
        return covered / 100
    if len(window) < _WINDOW:
        return covered / 1000
    return covered + sum(0.1 for byte in window if not 0x61 <= byte <= 0x7A)


def _common_start(tails: list[bytes]) -> bytes:
    first, last = min(tails), max(tails)
    length = next((n for n, byte in enumerate(first) if last[n : n + 1] != bytes((byte,))), None)
    return first[:length]


def _spellings(window: bytes) -> Iterator[bytes]:
    cases = [sorted({bytes((b,)).lower(), bytes((b,)).upper()}) for b in window]
    return (b"".join(spelling) for spelling in product(*cases))
