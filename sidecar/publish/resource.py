"""One body that HTTP serves, plain or gzipped, each with its entity tag.

In: a function that makes the bytes.  Out: representations.  Each is made when first
asked for, and kept: publishing costs nothing until somebody asks, and then once.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"

_TAG = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Representation:
    """``body`` as it goes out, in ``encoding`` (None or ``gzip``); ``etag`` with its quotes."""

    body: bytes
    etag: str
    encoding: str | None


class Resource:
    """The bytes of one path and their forms.  Safe to use from several threads."""

    __slots__ = ("_build", "_known", "_lock", "content_type", "headers")

    def __init__(
        self,
        content_type: str,
        build: Callable[[], bytes],
        *,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.content_type = content_type
        self.headers = headers
        self._build = build
        self._lock = threading.Lock()
        self._known: dict[bool, Representation] = {}

    def representation(self, *, zipped: bool) -> Representation:
        """The plain or the gzipped form."""
        with self._lock:
            if False not in self._known:
                body = self._build()
                self._known[False] = Representation(body, f'"{_digest(body)}"', None)
            if zipped and True not in self._known:
                plain = self._known[False]
                # Level 1, as upstream: the reader is mostly on the same host.  No time: the
                # same text must have the same tag.
                body = gzip.compress(plain.body, compresslevel=1, mtime=0)
                self._known[True] = Representation(body, f'{plain.etag[:-1]}-gzip"', "gzip")
            return self._known[zipped]


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def accepts_gzip(header: str | None) -> bool:
    """Whether an Accept-Encoding header asks for gzip (RFC 9110, section 12.5.3)."""
    wildcard = False
    for item in (header or "").lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        wanted = not any(re.fullmatch(r"q=0(\.0{0,3})?", p) for p in parameters)
        if coding in ("gzip", "x-gzip"):
            return wanted
        wildcard = wildcard or (coding == "*" and wanted)
    return wildcard


def etag_matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names `etag`, compared weakly (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in _TAG.findall(header)
