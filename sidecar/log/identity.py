"""Which segment is which: by its first bytes, whatever its name and compression.

No I/O.  In: the first bytes of a file.  Out: a fingerprint of them that can be stored.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from .codec import BLOCK_MAX, HEAD_MIN, detect, new_decoder

HEAD_SIZE: Final = 4096
"""How many bytes of a segment's beginning tell it from others."""

_TIME = re.compile(rb'"(?:timestamp|event_time)":[^,}]+[,}]')


@dataclass(frozen=True, slots=True)
class SegmentId:
    """What tells a segment from others, even of the same name.

    ``fingerprint`` is of its first raw bytes, ``content`` of its first
    decompressed bytes and so survives recompression; see :func:`fingerprint`.
    """

    name: str
    inode: int
    fingerprint: str = ""
    content: str = ""


def fingerprint(head: bytes) -> str:
    """``COUNT:HEX`` of the first :data:`HEAD_SIZE` bytes, or of all there are; "" for none."""
    head = head[:HEAD_SIZE]
    return f"{len(head)}:{hashlib.sha256(head).hexdigest()[:32]}" if head else ""


def fingerprint_fits(known: str, head: bytes) -> bool | None:
    """Whether `head` begins with what `known` was made from; None where `head` is too short."""
    count = int(known.split(":", 1)[0] or 0)
    if len(head) < count:
        return None
    return fingerprint(head[:count]) == known


def is_unique(head: bytes) -> bool:
    """Whether no two segments of kumod's can begin with `head`: it has a record's id and time.

    An empty beginning, a ``segment_header`` or a template's lines prove nothing.
    """
    return b'"id":"' in head and _TIME.search(head) is not None


def content_head(raw: bytes) -> bytes:
    """The first :data:`HEAD_SIZE` decompressed bytes of a segment that begins with `raw`."""
    if len(raw) < HEAD_MIN:
        return b""
    decoder = new_decoder(detect(raw))
    decoder.feed(raw)
    buffer = bytearray(BLOCK_MAX)
    head = b""
    while len(head) < HEAD_SIZE:
        count = decoder.decode_into(memoryview(buffer))
        if count == 0 or decoder.broken:
            break
        head += buffer[: min(count, HEAD_SIZE)]
    return head[:HEAD_SIZE]
