"""Writes segments as kumod does, byte for byte, for tests.

What it imitates (KumoMTA's ``configure_local_logs`` and its observed behaviour,
see ``tests/data/logs``): one zstd frame a segment, level 3, no checksum; no flush
per record, so that the file grows by a compressor block of 128 KiB of log at a
time, and a finished block only reaches the file with the next record; the rest
at the end; then the write bits go.  A killed kumod leaves its segments as they
are, and the next one takes the write bits of all leftovers away.

A zstd library of the same version makes the same bytes as kumod's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import zstandard

COMPRESSOR_BLOCK = 128 * 1024


class _Compressor(Protocol):
    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


@dataclass
class _Open:
    path: Path
    fd: int
    encoder: _Compressor
    pending: bytes = b""
    written: int = 0


def segment_name(at_ns: int, suffix: str = "") -> str:
    """The name of a segment opened at `at_ns`."""
    seconds, fraction = divmod(at_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y%m%d-%H%M%S}.{fraction:09d}{suffix}"


class KumodWriter:
    """One kumod with one ``configure_local_logs``.

    Starting it takes the write bits of leftovers away.  `suffixes` gives the
    ``per_record[TYPE].suffix`` (``Any`` for all others), `headers` the
    ``segment_header`` by suffix; a segment is finished after `max_file_size`
    bytes of log.  `clock` gives nanoseconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        suffixes: Mapping[str, str] | None = None,
        headers: Mapping[str, bytes] | None = None,
        max_file_size: int = 1_000_000_000,
        level: int = 0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.directory = directory
        self._suffixes = dict(suffixes or {})
        self._headers = dict(headers or {})
        self._max_file_size = max_file_size
        self._level = level
        self._clock = clock
        self._open: dict[str, _Open] = {}
        if directory.is_dir():
            for leftover in directory.iterdir():
                if not leftover.name.startswith(".") and leftover.is_file():
                    take_write_bits(leftover)

    def log(self, record: Mapping[str, Any]) -> Path:
        """Write a record; the segment it went to."""
        suffix = self._suffixes.get(record["type"], self._suffixes.get("Any", ""))
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        return self.line(line.encode("utf-8", "surrogatepass") + b"\n", suffix=suffix)

    def line(self, line: bytes, *, suffix: str = "") -> Path:
        """Write a line as it is (templates make any text); the segment it went to."""
        segment = self._open.get(suffix)
        if segment is None:
            segment = self._open[suffix] = self._new_segment(suffix)
        self._write(segment, line)
        segment.written += len(line)
        if segment.written >= self._max_file_size:
            self.finish(suffix)
        return segment.path

    def finish(self, suffix: str = "") -> Path:
        """Finish the open segment of a series, as ``max_segment_duration`` does."""
        segment = self._open.pop(suffix)
        _write_all(segment.fd, segment.pending + segment.encoder.flush())
        os.close(segment.fd)
        if segment.path.exists():
            take_write_bits(segment.path)
        return segment.path

    def close(self) -> None:
        """Stop properly: all segments are finished."""
        for suffix in list(self._open):
            self.finish(suffix)

    def kill(self) -> None:
        """SIGKILL: what has not reached the files is lost."""
        for segment in self._open.values():
            os.close(segment.fd)
        self._open.clear()

    def _new_segment(self, suffix: str) -> _Open:
        path = self.directory / segment_name(self._clock(), suffix)
        self.directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        encoder = zstandard.ZstdCompressor(level=self._level or 3).compressobj()
        segment = _Open(path, fd, encoder)
        header = self._headers.get(suffix, b"")
        if header:
            self._write(segment, header)
        return segment

    def _write(self, segment: _Open, data: bytes) -> None:
        # What the encoder has made of earlier records goes out before this one goes in.
        _write_all(segment.fd, segment.pending)
        segment.pending = segment.encoder.compress(data)


def take_write_bits(path: Path) -> None:
    """What kumod does to a finished segment."""
    path.chmod(path.stat().st_mode & 0o555)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def record(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A log record as kumod writes it, told from others by its `number`; `fields` replace some."""
    at = fields.pop("at", 1795360648 + number // 1000)
    values: dict[str, Any] = {
        "type": "TransientFailure",
        "id": f"{number:032x}",
        "sender": "bounce@news.example",
        "recipient": f"user{number}@comcast.net",
        "queue": "camp2:tenant0@comcast.net",
        "site": "ip2->(mx1|mx2).comcast.net@smtp_client",
        "size": 265,
        "response": {
            "code": 421,
            "enhanced_code": {"class": 4, "subject": 1, "detail": 0},
            "content": f"10.0.0.1 Throttled - try again later #RL{number:06d}",
            "command": f"RCPT TO:<user{number}@comcast.net>\r\n",
        },
        "peer_address": {"name": "mx1.comcast.net.", "addr": "127.0.0.1"},
        "timestamp": at,
        "event_time": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.222040083Z"),
        "created": at,
        "created_time": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.210866800Z"),
        "num_attempts": 0,
        "bounce_classification": "Uncategorized",
        "egress_pool": "pool",
        "egress_source": "ip2",
        "source_address": {"address": "127.0.0.1:43988"},
        "feedback_report": None,
        "meta": {"campaign": "camp2", "tenant": "tenant0"},
        "headers": {"Subject": f"Offer {number}", "X-Campaign": "camp2", "X-Tenant": "tenant0"},
        "delivery_protocol": "ESMTP",
        "reception_protocol": "HTTP",
        "nodeid": "00000000-0000-1000-8000-ee2202717a0c",
        "session_id": f"c86376f7-0525-4476-a7b8-{number:012x}",
    }
    values.update(fields)
    return values
