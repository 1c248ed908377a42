"""Logs to measure with: as many records as wanted, in the shapes that a real kumod wrote.

In: a :class:`LogSpec`.  Out: a directory of finished segments; the same spec always
gives the same bytes.  The shapes (fields, their order, texts of responses) are those of
``tests/data/logs``; what varies from record to record in a real log varies here: ids,
recipients, times, ports, sessions, subjects, what remote servers put into their answers.
Each answer to a failure has something of its own, as those of large providers do: no
two records say the same.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import zstandard

from sidecar.times import NS
from tests.kumod_writer import segment_name, take_write_bits

RECORDINGS: Final = Path(__file__).parent.parent / "data" / "logs"
BEGIN_S: Final = 1795348800
"""When the first record was written: 2026-11-22T12:00:00Z."""

NATURAL_SIZE: Final = 1000
"""Bytes of an average record of the recordings, nearly."""

_PER_SESSION: Final = 20
_HEX: Final = "0123456789abcdef"
_FAILURES: Final = ("TransientFailure", "Bounce")

_SHORT: Final = (
    '{"type":"Delivery","recipient":"%(recipient)s","queue":"camp%(campaign)d:tenant%(tenant)d'
    '@%(domain)s","site":"ip%(source)d-\\u003emx.%(domain)s@smtp_client",'
    '"egress_source":"ip%(source)d","response":{"code":250,"content":""},'
    '"timestamp":%(stamp)d,"event_time":"%(event)s"}'
)
"""A delivery as the short template writes it: kumod's ``tojson`` escapes ``>``."""

# What differs from record to record in the answers of remote servers.
_VARYING: Final = (
    (r"4Zx", "%(token)s"),
    (r"1666000000 x-20020a05", "%(stamp)d %(token)s"),
    (r"RL000001", "RL%(number)06d"),
    (r"10\.0\.0\.1", "10.0.0.%(host)d"),
    (r"mta1000\.mail", "mta%(host)d.mail"),
)


@dataclass(frozen=True, slots=True)
class LogSpec:
    """What a log is like.

    ``failures`` is the share of records that report one (0 to 1), ``size`` about
    how many bytes a record has (never less than the recorded ones), ``rate`` how many
    there are in a second of the log's own time.
    """

    records: int
    failures: float = 0.02
    size: int = NATURAL_SIZE
    domains: int = 1000
    rate: float = 10_000
    seed: int = 7
    per_segment: int = 500_000
    answer: str = ""
    """What a failure's response says, at least; "" for all that were recorded."""
    deliveries: float = 0.5
    """The share of deliveries among the records that report no failure; the rest is receptions."""
    short: bool = False
    """Whether deliveries are written by the short template that packaging/doc/rules.md has."""

    @property
    def end_s(self) -> int:
        """When the last record was written, Unix seconds."""
        return BEGIN_S + int(self.records / self.rate)

    @property
    def name(self) -> str:
        """A directory name that says it all."""
        return (
            f"r{self.records}-f{self.failures:g}-s{self.size}-d{self.domains}"
            f"-p{self.rate:g}-x{self.seed}-n{self.per_segment}-ids{self.answer}"
            f"-v{self.deliveries:g}{'-short' if self.short else ''}"
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """A recorded record with gaps for :func:`lines` to fill."""

    template: str
    domain: str


def generate(spec: LogSpec, parent: Path) -> Path:
    """The directory of the segments, made if it isn't there yet."""
    directory = parent / spec.name
    if (directory / ".complete").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    written = 0
    records = lines(spec)
    while written < spec.records:
        count = min(spec.per_segment, spec.records - written)
        opened_ns = BEGIN_S * NS + int(written * NS / spec.rate)
        path = directory / segment_name(opened_ns)
        encoder = zstandard.ZstdCompressor(level=3).compressobj()
        with path.open("wb") as file:
            for _ in range(count):
                file.write(encoder.compress(next(records)))
            file.write(encoder.flush())
        take_write_bits(path)
        written += count
    (directory / ".complete").write_text(json.dumps(asdict(spec)))
    return directory


def segments(directory: Path) -> list[Path]:
    """The segments in a directory, oldest first."""
    return sorted(p for p in directory.iterdir() if not p.name.startswith("."))


def lines(spec: LogSpec) -> Iterator[bytes]:
    """The records, each a line, without an end."""
    rng = random.Random(spec.seed)
    shapes = _shapes()
    if spec.short:
        shapes["Delivery"] = [_Shape(_SHORT, shape.domain) for shape in shapes["Delivery"]]
    failing = [s for kind in _FAILURES for s in shapes[kind] if spec.answer in s.template]
    session = ""
    number = 0
    while True:
        if number % _PER_SESSION == 0:
            session = _uuid(rng)
        if rng.random() < spec.failures:
            shape = rng.choice(failing)
        else:
            delivered = rng.random() >= 1 - spec.deliveries
            shape = rng.choice(shapes["Delivery" if delivered else "Reception"])
        yield _line(rng, shape, spec, number=number, session=session)
        number += 1


def _line(rng: random.Random, shape: _Shape, spec: LogSpec, *, number: int, session: str) -> bytes:
    at, nanosecond = divmod(BEGIN_S * NS + int(number * NS / spec.rate), NS)
    padding = max(spec.size - NATURAL_SIZE, 0)
    moment = _moment(at)
    user = rng.randrange(1_000_000)
    # The recorded providers keep their names; the other half of the mail goes to many domains.
    domain = shape.domain
    if domain.startswith("corp"):
        domain = f"corp{rng.randrange(spec.domains)}.example"
    recipient = f"user{user}@{domain}"
    hidden = base64.b64encode(b'{"_@_":"\\\\_/","recipient":"%b"}' % recipient.encode()).decode()
    values: dict[str, object] = {
        "id": f"{0xA5FDE189 + number:08x}e68811f1{rng.getrandbits(14):04x}ee2202717a0c",
        "recipient": recipient,
        "domain": domain,
        "stamp": at,
        "event": f"{moment}.{nanosecond + rng.randrange(100_000):09d}Z",
        "created": f"{moment}.{nanosecond // 100:07d}00Z",
        "ref": hidden,
        "port": 32768 + rng.randrange(28000),
        "subject": rng.randrange(1000),
        "tenant": rng.randrange(4),
        "campaign": rng.randrange(3),
        "source": rng.randrange(1, 3),
        "session": session,
        "token": f"{rng.getrandbits(48):012x}",
        "number": rng.randrange(1_000_000),
        "host": rng.randrange(1, 250),
        "padding": f"{rng.getrandbits(4 * padding):0{padding}x}" if padding else "",
    }
    return (shape.template % values).encode() + b"\n"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _uuid(rng: random.Random) -> str:
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"


def _shapes() -> dict[str, list[_Shape]]:
    """One shape for each type, answer and order of headers in the recordings."""
    found: dict[str, dict[tuple[str, ...], _Shape]] = {}
    for record in _recorded():
        domain = record["recipient"].partition("@")[2]
        if (
            record["queue"]
            != f"{record['headers'].get('X-Campaign')}:{record['headers'].get('X-Tenant')}@{domain}"
        ):
            continue  # a few without tenant or campaign: too few to matter
        key = (record["response"]["content"], domain, *record["headers"])
        found.setdefault(record["type"], {}).setdefault(key, _shape(record))
    return {kind: [shapes[key] for key in sorted(shapes)] for kind, shapes in found.items()}


def _recorded() -> Iterator[dict[str, Any]]:
    for path in segments(RECORDINGS / "plain" / "logs"):
        with path.open("rb") as file:
            text = zstandard.ZstdDecompressor().stream_reader(file).read()
        yield from map(json.loads, text.splitlines())


def _shape(record: dict[str, Any]) -> _Shape:
    """`record` with a ``%(…)s`` in place of everything that varies."""
    domain = record["queue"].split("@")[1]
    recipient = record["recipient"]
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("%", "%%")
    content = json.dumps(record["response"]["content"], ensure_ascii=False).replace("%", "%%")
    varied = content
    for pattern, gap in _VARYING:
        varied = re.sub(pattern, gap, varied)
    if record["type"] in _FAILURES:
        varied = f'{varied[:-1]} %(token)s"'
    gaps = [
        (f'"content":{content}', f'"content":{varied}'),
        (record["id"], "%(id)s"),
        (recipient, "%(recipient)s"),
        (record["headers"]["X-KumoRef"], "%(ref)s"),
        (record["event_time"], "%(event)s"),
        (record["created_time"], "%(created)s"),
        (f":{record['timestamp']},", ":%(stamp)d,"),
        (f":{record['created']},", ":%(stamp)d,"),
        (f'"Subject":"{record["headers"]["Subject"]}"', '"Subject":"Offer %(subject)d%(padding)s"'),
        (record["headers"]["X-Tenant"], "tenant%(tenant)d"),
        (record["headers"]["X-Campaign"], "camp%(campaign)d"),
    ]
    if record["egress_source"] is not None:
        gaps.append((record["egress_source"] + "->", "ip%(source)d->"))
        gaps.append(
            (f'"egress_source":"{record["egress_source"]}"', '"egress_source":"ip%(source)d"')
        )
        port = record["source_address"]["address"]
        gaps.append((f'"{port}"', f'"{port.split(":")[0]}:%(port)d"'))
        gaps.append((record["session_id"], "%(session)s"))
    if domain.startswith("corp"):
        gaps.append((domain, "%(domain)s"))
    for old, new in gaps:
        text = text.replace(old, new)
    return _Shape(text, domain)
