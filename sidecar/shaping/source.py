"""The text of shaping files: from disk or from a URL, and the format it is in.

In: a path or an ``http(s)`` URL.  Out: the text, or a :class:`SourceError`
with the reason; then, by the name's ending, a document.

Source: KumoMTA's documentation of ``kumo.shaping.load``: ``.toml``, ``.json``,
anything else is tried as both.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from http.client import HTTPException, HTTPResponse
from threading import Thread
from typing import Final

import aiofiles

from .documents import Document, DocumentError, parse_json, parse_toml

LARGEST: Final = 16 << 20
"""Bytes.  A shaping file of this size is something else by mistake."""


class SourceError(Exception):
    """A file or URL can't be read; the message says why."""


def is_url(name: str) -> bool:
    """Whether a shaping file is fetched instead of read."""
    return name.startswith(("http://", "https://"))


async def read_local(path: str) -> str:
    """The text of a local file; SourceError when there is none to be had."""
    try:
        # A pipe or a device would block or never end; a directory has its own message.
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
    answer: Future[bytes] = Future()
    # A thread of its own, that nobody waits for: a server that drips its headers holds it
    # up for as long as it likes, and neither reading the log nor ending may wait for that.
    Thread(target=_fetch, args=(answer, url, timeout_s), daemon=True, name="fetch").start()
    try:
        data = await asyncio.wait_for(asyncio.wrap_future(answer), timeout_s + 0.5)
    except TimeoutError:
        raise SourceError(f"no answer within {timeout_s:g} s") from None
    return _decode(data)


def _fetch(answer: Future[bytes], url: str, timeout: float) -> None:
    answer.set_running_or_notify_cancel()  # from here on it can't be cancelled, only not awaited
    try:
        answer.set_result(_get(url, timeout))
    except Exception as err:  # noqa: BLE001 - whoever awaits the answer gets it
        answer.set_exception(err)


def _get(url: str, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    try:
        request = urllib.request.Request(url, headers={"Accept": "*/*"})  # noqa: S310 - http(s) only, see is_url
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - as above
            return _read_all(response, deadline)
    except urllib.error.HTTPError as err:
        err.close()
        raise SourceError(f"the server answers {err.code} {err.reason}") from None
    except urllib.error.URLError as err:
        raise SourceError(f"can't be fetched: {err.reason}") from None
    except (OSError, HTTPException, ValueError) as err:
        raise SourceError(f"can't be fetched: {err or type(err).__name__}") from None


def _read_all(response: HTTPResponse, deadline: float) -> bytes:
    """The body.  The socket's time limit is for each part; a server that drips needs this one."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            break
        if time.monotonic() > deadline:
            raise SourceError("does not come whole in time")
    return b"".join(parts)


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
