"""Whatever bytes a segment holds: no error, and the good records around them are counted."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.log.tail import Start, Tail
from sidecar.service.logging import Log
from sidecar.service.published import Published
from sidecar.service.rules import Settled
from sidecar.settings import resolve_settings
from sidecar.store import Store
from tests.kumod_writer import segment_name, take_write_bits

from .parts import Parts, parts
from .support import RULES, failure

GOOD = 3
BEGAN = 1795360648_000000000


def line(number: int, domain: str) -> bytes:
    record = failure(number, domain=domain, at=int(time.time()))
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


async def processed(directory: Path, rules_file: Path) -> tuple[Parts, list[str]]:
    """The whole path over the segments in `directory`, state and all; and what it said."""
    settled = Settled(
        resolve_settings({"shaping": [str(rules_file)], "log_dir": str(directory)}, {}, None)
    )
    said = io.StringIO()
    log = Log(stream=said)
    with Store.open(":memory:") as store:
        made = await parts(store, settled, overlay=directory / "overlay.toml", log=log)
        ledger = made.ledger
        start = Start("beginning")
        async with Tail(directory, start=start, on_problem=log.problem) as tail:
            await made.flow.follow(tail, for_ever=False)
        await made.flow.last_commit()
        assert len(Published(ledger.automation.entries).entries) == len(made.view.entries)
        assert store.load().counters == ledger.counters
    about_files = [text for text in said.getvalue().splitlines() if "rule struck" not in text]
    return made, about_files


def run(segments: list[bytes]) -> tuple[Parts, list[str]]:
    with tempfile.TemporaryDirectory() as name:
        rules = Path(name) / "rules.toml"
        rules.write_text(RULES)
        directory = Path(name) / "logs"
        directory.mkdir()
        for number, data in enumerate(segments):
            path = directory / segment_name(BEGAN + number)
            path.write_bytes(data)
            take_write_bits(path)
        return asyncio.run(processed(directory, rules))


def zstd(data: bytes) -> bytes:
    return zstandard.compress(data)


def good(number: int) -> bytes:
    return zstd(line(number, f"good{number}.example"))


def domains(made: Parts) -> set[str]:
    return {getattr(e, "domain", "") for e in made.ledger.automation.entries}


EVERY_GOOD = {f"good{n}.example" for n in range(GOOD)}
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(st.binary(max_size=3000), st.sampled_from([bytes, zstd, gzip.compress]))
def test_any_bytes_as_a_segment_cost_only_that_segment(
    junk: bytes, pack: Callable[[bytes], bytes]
) -> None:
    made, _ = run([good(0), pack(junk), good(1), junk, good(2)])
    assert domains(made) >= EVERY_GOOD
    assert made.ledger.counters["matched"] == GOOD


@FEW
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6), st.data())
def test_any_lines_among_good_ones_cost_only_themselves(
    junk: list[bytes], data: st.DataObject
) -> None:
    lines = [line(n, f"good{n}.example") for n in range(GOOD)]
    for bad in junk:
        at = data.draw(st.integers(0, len(lines)))
        lines.insert(at, bad.replace(b"\n", b"") + b"\n")
    made, said = run([zstd(b"".join(lines))])
    assert domains(made) >= EVERY_GOOD
    assert made.ledger.counters["matched"] == GOOD
    assert len(said) <= 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@FEW
@given(st.data())
def test_records_with_any_values_are_taken_or_counted_as_bad(data: st.DataObject) -> None:
    record = failure(7, at=int(time.time()))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.sampled_from(sorted(record)))] = data.draw(VALUES)
    text = json.dumps(record).encode() + b"\n"
    made, _ = run([zstd(line(0, "good0.example") + text + line(1, "good1.example")), good(2)])
    assert domains(made) >= EVERY_GOOD
    assert made.ledger.counters["read"] == GOOD + 1


@FEW
@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 10_000))
def test_a_flipped_bit_or_a_cut_costs_only_that_segment(at: int, bit: int, cut: int) -> None:
    whole = bytearray(zstd(b"".join(line(n, f"d{n}.example") for n in range(40))))
    whole[at % len(whole)] ^= 1 << bit
    made, _ = run([good(0), bytes(whole), good(1), bytes(whole[: cut % len(whole)]), good(2)])
    assert domains(made) >= EVERY_GOOD


def test_a_bomb_does_not_take_the_memory_nor_hide_what_comes_after() -> None:
    bomb = zstd(b"\0" * 64_000_000)
    assert len(bomb) < 10_000
    made, said = run([good(0), bomb, good(1), good(2)])
    assert domains(made) >= EVERY_GOOD
    assert made.ledger.counters["matched"] == GOOD
    assert made.ledger.counters.get("bad", 0) + made.ledger.counters.get("bytes_lost", 0) > 0
    assert len(said) <= 3


@pytest.mark.parametrize("domain", ["default", "provider", 'a"]\n[evil', "\u2028x"])
def test_hostile_domains_leave_the_overlay_what_it_means(domain: str) -> None:
    record = failure(1, domain=domain, at=int(time.time()))
    text = json.dumps(record).encode() + b"\n"
    made, _ = run([zstd(text), *(good(n) for n in range(GOOD))])
    overlay = tomllib.loads(made.view.overlay.text())
    assert EVERY_GOOD <= overlay.keys() <= EVERY_GOOD | {domain}
    assert not overlay.keys() & {"default", "provider", "evil"}
