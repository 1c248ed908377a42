"""A kumod that is busy: a process that writes records at a steady rate, some with a mark.

Run as ``python -m tests.bench.writer DIRECTORY RATE SECONDS``.  Each mark is a failure at a
domain of its own; what the compressor holds goes to the file right behind it.  On
standard output a line for each: its number and when it was in the file (``CLOCK_MONOTONIC``,
nanoseconds, the same clock for all processes).
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path

import zstandard

from tests.bench.logs import LogSpec, lines
from tests.kumod_writer import segment_name, take_write_bits

MARK_SECONDS = 0.05
_TICK = 0.002
_POOL = 20_000


def mark(number: int, now_s: int) -> bytes:
    """A failure that the rule of :data:`MARK_RULE` matches, at domain ``mN.mark.example``."""
    return (
        f'{{"type":"TransientFailure","id":"{number:032x}","sender":"b@news.example",'
        f'"recipient":"user@m{number}.mark.example","queue":"camp:tenant@m{number}.mark.example",'
        f'"site":"ip1->mx.m{number}.mark.example@smtp_client","size":265,"response":{{"code":451,'
        f'"enhanced_code":{{"class":4,"subject":7,"detail":1}},"content":"marked for measuring",'
        f'"command":"RCPT TO:<user@m{number}.mark.example>\\r\\n"}},"timestamp":{now_s},'
        f'"egress_source":"ip1","reception_protocol":"HTTP"}}\n'
    ).encode()


MARK_RULE = """
[["default".automation]]
regex = 'marked for measuring'
action = {SetConfig={name="max_message_rate", value="1/m"}}
duration = "1 hour"
"""


def main() -> None:
    """Write until the time is up, then finish the segment."""
    directory, rate, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pool = list(islice(lines(LogSpec(_POOL)), _POOL))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / segment_name(time.time_ns())
    encoder = zstandard.ZstdCompressor(level=3).compressobj()
    written = marks = 0
    with path.open("wb", buffering=0) as file:
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * rate)
            while written < due:
                file.write(encoder.compress(pool[written % _POOL]))
                written += 1
            if elapsed >= marks * MARK_SECONDS:
                file.write(encoder.compress(mark(marks, int(time.time()))))
                file.write(encoder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
                print(marks, time.monotonic_ns())
                marks += 1
            time.sleep(_TICK)
        file.write(encoder.flush())
    take_write_bits(path)
    print("written", written, file=sys.stderr)


if __name__ == "__main__":
    main()
