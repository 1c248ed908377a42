"""The text of shaping files: from disk or from a URL, and the format it is in.

In: a path or an ``http(s)`` URL.  Out: the text, or a :class:`SourceError`
with the reason; then, by the name's ending, a document.

Source: KumoMTA's documentation of ``kumo.shaping.load``: ``.toml``, ``.json``,
anything else is tried as both.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Final

import aiofiles

from .documents import Document, DocumentError, parse_json, parse_toml

LARGEST: Final = 16 << 20
"""Bytes.  A shaping file of this size is something else by mistake."""

_REDIRECTS: Final = 5


class SourceError(Exception):
    """A file or URL can't be read; the message says why."""


def is_url(name: str) -> bool:
    """Whether a shaping file is fetched instead of read."""
    return name.startswith(("http://", "https://"))


async def read_local(path: str) -> str:
    """The text of a local file; SourceError when there is none to be had."""
    try:
        # Reading a pipe or a device might never end.  For a directory the system's error is better.
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # noqa: ASYNC240 - one stat of a local file
            raise SourceError("is no regular file")
        async with aiofiles.open(path, "rb") as file:
            data = await file.read(LARGEST + 1)
    except OSError as err:
        raise SourceError(err.strerror or str(err)) from None
    except ValueError:
        raise SourceError("no file can have this name") from None
    return _decode(data)


async def fetch(url: str, timeout_s: float) -> str:
    """The text at a URL; SourceError when it does not come whole within `timeout_s` seconds."""
    from sidecar.http_client import Unreachable, get  # noqa: PLC0415 - 30 ms, for those who need it

    try:
        answer = await get(
            url, seconds=timeout_s, largest=LARGEST, redirects=_REDIRECTS, use_proxy=True
        )
    except Unreachable as err:
        raise SourceError(f"can't be fetched: {err}") from None
    if answer.status != 200:
        raise SourceError(f"the server answers {answer.status} {_phrase(answer.status)}".rstrip())
    if not answer.whole:
        raise SourceError(
            "the server does not say how long it is (Content-Length or chunks), "
            "so a part can't be told from the whole"
        )
    if not answer.body.strip():
        raise SourceError("the server answers with an empty file")
    return _decode(answer.body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _decode(data: bytes) -> str:
    if len(data) > LARGEST:
        raise SourceError(f"is larger than {LARGEST >> 20} MiB, so it is no shaping file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise SourceError(
            f"is not UTF-8 text: byte 0x{data[err.start]:02x} on line {line}"
        ) from None


def parse(name: str, text: str) -> Document:
    """The document in `text` by the ending of `name`; DocumentError where it is none."""
    if name.endswith(".toml"):
        return parse_toml(text)
    return parse_json(text)


def formats(name: str) -> tuple[str, ...]:
    """The endings to try `name` as, the first first."""
    for ending in (".toml", ".json"):
        if name.endswith(ending):
            return (ending,)
    return (".toml", ".json")


__all__ = [
    "LARGEST",
    "DocumentError",
    "SourceError",
    "fetch",
    "formats",
    "is_url",
    "parse",
    "read_local",
]
