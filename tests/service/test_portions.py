"""Portions of a log: the lines that rules match, numbered as whoever reads all of it counts."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.automation.attempts import Attempts, attempts_of
from sidecar.automation.pipeline import Tally, candidates
from sidecar.log.blocks import Block, SegmentReader
from sidecar.log.record import decode
from sidecar.service.portions import Matching, attempts_from_json, attempts_to_json
from sidecar.service.rules import Rules, load_rules
from sidecar.settings import Reloaded
from sidecar.shaping.mx import ZoneResolver
from tests.kumod_writer import record

RULES = """
[["default".automation]]
regex = "blocked"
action = "Suspend"
duration = "1 hour"
"""
ALL = RULES.replace('"blocked"', '"[b]locked|[x]yz"')
RATIO = RULES + 'sidecar.ratio = {over = "50%", of = "attempts", window = "1 hour", least = 1}\n'


@lru_cache
def rules(text: str) -> Rules:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "shaping.toml"
        file.write_text(text)
        reloaded = Reloaded(
            policy=None,
            shaping=(str(file),),
            merge_options={},
            skip_record_types=frozenset({"Reception"}),
            history_ns=0,
            max_entries=100,
            ttl_ns=10**12,
        )
        return asyncio.run(load_rules(reloaded, ZoneResolver([])))


def a_line(number: int, text: str, kind: str) -> bytes:
    one: Any = record(
        number,
        type=kind,
        response={"code": 421, "enhanced_code": None, "content": text, "command": None},
    )
    return json.dumps(one).encode()


lines_of_a_log = st.lists(
    st.tuples(
        st.sampled_from(["blocked", "delivered", "was locked", "blocked by \u0416"]),
        st.sampled_from(["TransientFailure", "Reception", "Delivery", "Bounce"]),
    )
    | st.sampled_from([b"", b"no record", b"{}", b'{"blocked": '])
)


def blocks_of(data: bytes, sizes: Sequence[int]) -> list[Block]:
    """The log as a tail hands it on while it grows."""
    reader, blocks, at = SegmentReader("segment"), list[Block](), 0
    for size in (*sizes, len(data)):
        reader.feed(data[at : at + size])
        at += size
        while (block := reader.next_block()) is not None:
            blocks.append(block)
    reader.finish()
    while (block := reader.next_block()) is not None:
        blocks.append(block)
    return blocks


@pytest.mark.parametrize("text", [RULES, ALL, RATIO], ids=["sifted", "unsifted", "ratio"])
@settings(max_examples=60, deadline=None)
@given(log=lines_of_a_log, sizes=st.lists(st.integers(1, 5000), max_size=5), ended=st.booleans())
def test_numbers_are_those_of_whoever_reads_every_line(
    text: str, log: list[Any], sizes: list[int], ended: bool
) -> None:
    lines = [
        one if isinstance(one, bytes) else a_line(number, *one) for number, one in enumerate(log)
    ]
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    loaded = rules(text)
    matching = Matching(loaded, Tally())
    for block in blocks_of(data, sizes):
        sifted, numbers = loaded.sift_numbered(block.data)
        whole = Block(
            block.segment,
            sifted,
            block.position,
            block.lines,
            block.size,
            block.bad_lines,
            block.lost_bytes,
            numbers,
        )
        for _ in matching.parts(whole):
            pass
    told = [
        (item.line, item.data)
        for portion in matching.portions
        for item in portion.items
        if item.kind == "line"
    ]
    assert told == [
        (number, line)
        for number, line in enumerate(lines, 1)
        if candidates(
            [line],
            matcher=loaded.matcher,
            skip_types=loaded.settings.skip_record_types,
            tally=Tally(),
        )
    ]
    ends = [0, *(portion.to_line for portion in matching.portions)]
    assert [portion.from_line for portion in matching.portions] == ends[:-1]


def test_attempts_travel_summed_up() -> None:
    lines = [a_line(n, "ok", "Delivery") for n in range(3)] + [a_line(9, "blocked", "Bounce")]
    data = b"".join(line + b"\n" for line in lines)
    [block] = blocks_of(data, [])
    matching = Matching(rules(RATIO), Tally())
    for _ in matching.parts(block):
        pass
    [portion] = matching.portions
    assert [(item.kind, item.line) for item in portion.items] == [("line", 4), ("attempts", 4)]
    expected: Attempts = {}
    for line in lines[:3]:  # the other is counted where the line is read
        for key, count in attempts_of(decode(line)).items():
            expected[key] = expected.get(key, 0) + count
    assert attempts_from_json(portion.items[1].data) == expected


def test_a_part_of_attempts_is_rounded() -> None:
    attempts: Attempts = {("q", "ip1", "d.example", None, True, 5): 10}
    assert attempts_from_json(attempts_to_json(attempts)) == attempts
    assert set(attempts_from_json(attempts_to_json(attempts), 0.26).values()) == {3}
    assert attempts_from_json(attempts_to_json(attempts), 0.01) == {}


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[[1]]", b'[["q","s","d",null,true,5,0]]', b'[["q","s","d",null,true,-5,1]]'],
)
def test_what_is_no_sum_of_attempts_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        attempts_from_json(data)
