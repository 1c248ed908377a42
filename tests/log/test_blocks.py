"""Raw bytes of a segment become blocks of whole lines, whatever the bytes."""

from __future__ import annotations

import gc
import itertools
import random
import struct
import time
import tracemalloc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.log.blocks import BLOCK_SIZE, LINE_MAX, START, Block, SegmentReader, count_lines
from sidecar.log.codec import BLOCK_MAX, detect, foreign_format
from sidecar.log.identity import HEAD_SIZE, content_head, fingerprint, fingerprint_fits

from .support import Read, decompress, gzipped, read_pieces, recorded, take, zstd

MIB = 1024 * 1024
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"hello"
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstd,
    "zstd with checksum": lambda data: zstd(data, checksum=True),
    "gzip": gzipped,
    "plain": lambda data: data,
}


def pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def some_lines(count: int, *, seed: int = 0, length: int = 900) -> list[bytes]:
    """Lines that compress about as records do."""
    source = random.Random(seed)
    filler = source.randbytes(length // 2).hex().encode()
    return [
        b'{"n":%d,"r":"%d","f":"%s"}' % (n, source.random() * 1e9, filler) for n in range(count)
    ]


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


# -- recorded segments -------------------------------------------------------------------------


@pytest.mark.parametrize("path", recorded("plain") + recorded("suffix") + recorded("template"))
def test_a_finished_segment_of_kumods_is_read_whole(path: object) -> None:
    assert hasattr(path, "read_bytes")
    raw = path.read_bytes()
    read = read_pieces(pieces(raw, 10_000))
    assert read.data == decompress(raw)
    assert (read.lost, read.bad) == (0, 0)
    assert sum(block.lines for block in read.blocks) == read.data.count(b"\n")


def test_of_a_killed_kumods_segment_all_but_the_cut_line_is_read() -> None:
    killed, _ = recorded("killed")
    raw = killed.read_bytes()
    read = read_pieces([raw])
    whole = decompress(raw)
    assert len(whole) == 22 * BLOCK_MAX
    assert read.data == whole[: whole.rfind(b"\n") + 1]
    assert read.lost == len(whole) - len(read.data) == 985


# -- any pieces, any lines ---------------------------------------------------------------------

LINE = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" "))


@pytest.mark.parametrize("kind", ENCODERS)
@given(
    parts=st.lists(st.lists(LINE, max_size=8), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 50), min_size=1),
    skippable=st.booleans(),
)
def test_in_any_pieces_the_same_lines(
    kind: str, parts: list[list[bytes]], cuts: list[int], skippable: bool
) -> None:
    if kind == "plain":  # which text must look like
        parts = [[b"text"], *parts]
    between = SKIPPABLE if skippable and kind.startswith("zstd") else b""
    raw = b"".join(ENCODERS[kind](joined(lines)) + between for lines in parts)
    edges = itertools.accumulate(itertools.islice(itertools.cycle(cuts), len(raw)), initial=0)
    offsets = [at for at in edges if at < len(raw)] + [len(raw)]
    read = read_pieces(raw[a:b] for a, b in itertools.pairwise(offsets))
    assert read.data == joined([line for lines in parts for line in lines])
    assert read.lost == 0


@pytest.mark.parametrize("kind", ENCODERS)
def test_large_segments_come_in_blocks_of_bounded_size(kind: str) -> None:
    text = joined(some_lines(5_000))
    read = read_pieces(pieces(ENCODERS[kind](text), MIB))
    assert read.data == text
    assert all(len(block.data) > BLOCK_SIZE // 2 for block in read.blocks[:-1])
    assert all(len(block.data) <= BLOCK_SIZE + 2 * BLOCK_MAX for block in read.blocks)
    assert read.blocks[-1].position.offset == len(text)
    assert read.blocks[-1].position.lines == 5_000


def test_lines_are_handed_on_as_soon_as_their_compressor_block_is_there() -> None:
    raw = zstd(joined(some_lines(1_000)))
    reader, read = SegmentReader("segment"), Read()
    seen = []
    for piece in pieces(raw, 1_000):
        reader.feed(piece)
        take(reader, read)
        seen.append(len(read.lines))
    assert seen == sorted(seen)
    assert len(set(seen)) >= len(joined(some_lines(1_000))) // BLOCK_MAX


def test_an_unfinished_line_is_waited_for() -> None:
    reader, read = SegmentReader("segment"), Read()
    reader.feed(b'{"a":1}\n{"b"')
    take(reader, read)
    assert read.data == b'{"a":1}\n'
    take(reader, read)
    reader.feed(b":2}\n")
    take(reader, read)
    assert read.data == b'{"a":1}\n{"b":2}\n'


def test_nothing_and_next_to_nothing_can_be_read() -> None:
    assert read_pieces([]).blocks == []
    assert read_pieces([b""]).blocks == []
    assert read_pieces([zstd(b"")]).blocks == []
    assert read_pieces([b"{}"]).data == b"{}"
    assert read_pieces([b"\n"]).data == b"\n"


# -- the last line -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    ("last", "kept"),
    [
        (b'{"type":"Bounce"}', True),
        (b'{"type":"Bou', False),
        (b'{"header":1}{"type":"Bounce"}', False),
        (b"DELIVERED 17cc", False),
    ],
)
def test_a_last_line_without_an_end_is_kept_if_it_is_whole(
    kind: str, last: bytes, kept: bool
) -> None:
    read = read_pieces([ENCODERS[kind](b'{"a":1}\n' + last)])
    assert read.data == b'{"a":1}\n' + (last if kept else b"")
    assert read.lost == (0 if kept else len(last))
    assert sum(block.lines for block in read.blocks) == 1 + kept
    assert read.blocks[-1].position.lines == 1 + kept


# -- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENCODERS)
@given(
    parts=st.lists(st.lists(LINE, max_size=8), min_size=1, max_size=5),
    size=st.integers(1, 60),
)
def test_reading_can_go_on_from_every_position(
    kind: str, parts: list[list[bytes]], size: int
) -> None:
    parts = [[b"text"], *parts]
    raw = b"".join(ENCODERS[kind](joined(lines)) for lines in parts)
    whole = read_pieces(pieces(raw, size))
    done = b""
    for block in whole.blocks:
        done += block.data
        position = block.position
        assert position.offset == len(done)
        assert position.lines == done.count(b"\n")
        assert position.frame_offset <= position.offset
        reader = SegmentReader("segment", position=position, kind=detect(raw))
        rest = read_pieces([raw[position.frame_start :]], reader=reader)
        assert done + rest.data == whole.data
        assert rest.lost == 0


def test_a_position_is_at_the_last_frame_before_it() -> None:
    frames = [zstd(joined(some_lines(700, seed=seed))) for seed in range(4)]
    raw = b"".join(frames)
    read = read_pieces(pieces(raw, 4_000))
    starts = {0, *itertools.accumulate(len(frame) for frame in frames)}
    used = {block.position.frame_start for block in read.blocks}
    assert used <= starts
    assert len(used) >= 4


def test_the_end_position_of_a_finished_segment_is_its_size() -> None:
    cut = []
    for path in recorded("killed"):
        raw = path.read_bytes()
        reader = SegmentReader("segment")
        read = read_pieces(pieces(raw, 5_000), reader=reader)
        end = reader.end_position()
        assert end.frame_start == len(raw)
        assert end.frame_offset == len(decompress(raw))
        assert end.offset == len(read.data)
        cut.append(end.cut_short)
    assert cut == [True, False]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_cut_end_is_told_from_a_whole_one(kind: str) -> None:
    lines = some_lines(50, seed=1)
    raw = ENCODERS[kind](joined(lines))
    for size, cut_short in ((len(raw), False), (len(raw) * 2 // 3, True)):
        reader = SegmentReader("segment")
        read = read_pieces([raw[:size]], reader=reader)
        end = reader.end_position()
        assert end.cut_short is cut_short
        assert end.offset == len(read.data)
        assert end.lines == len(read.lines)


def test_what_goes_on_behind_a_damaged_place_is_not_cut_short() -> None:
    parts, frames = three_frames()
    damaged = frames[0] + frames[1][: len(frames[1]) // 2] + frames[2]
    reader = SegmentReader("segment")
    read = read_pieces([damaged], reader=reader)
    assert read.lines[-1] == parts[2][-1]
    assert read.lost > 0
    assert not reader.end_position().cut_short


# -- damage ------------------------------------------------------------------------------------


def three_frames() -> tuple[list[list[bytes]], list[bytes]]:
    parts = [some_lines(600, seed=seed) for seed in range(3)]
    return parts, [zstd(joined(lines)) for lines in parts]


def test_a_bad_block_costs_the_rest_of_its_frame_only() -> None:
    parts, frames = three_frames()
    second = bytearray(frames[1])
    second[len(second) // 2] ^= 0xFF
    second[len(second) // 2 + 1] ^= 0xFF
    raw = frames[0] + bytes(second) + frames[2]
    reader = SegmentReader("segment")
    read = read_pieces(pieces(raw, 7_000), reader=reader)
    lines = read.lines
    assert lines[:600] == parts[0]
    assert lines[-600:] == parts[2]
    kept = lines[600:-600]
    assert kept == parts[1][: len(kept)]
    assert len(kept) > 100  # the blocks before the bad one
    assert 0 < read.lost < len(frames[1]) + BLOCK_MAX
    assert reader.damage is not None
    assert len(frames[0]) < reader.damage.offset < len(frames[0]) + len(frames[1])


def test_a_bad_block_is_found_bad_in_any_pieces() -> None:
    _, frames = three_frames()
    raw = bytearray(b"".join(frames))
    raw[len(raw) // 2] ^= 0x55
    reference = read_pieces([bytes(raw)])
    for size in (1_000, 4_096, 50_000):
        read = read_pieces(pieces(bytes(raw), size))
        assert read.data == reference.data
        assert read.lost == reference.lost


def test_a_frame_cut_short_costs_nothing_of_the_next() -> None:
    parts, frames = three_frames()
    raw = frames[0][: len(frames[0]) // 2] + frames[1]
    read = read_pieces([raw])
    assert read.lines[-600:] == parts[1]
    assert read.lines[:-600] == parts[0][: len(read.lines) - 600]
    assert read.lost > 0


def test_a_wrong_checksum_is_said_and_costs_nothing() -> None:
    lines = some_lines(300)
    raw = bytearray(zstd(joined(lines), checksum=True))
    raw[-1] ^= 1
    reader = SegmentReader("segment")
    read = read_pieces([bytes(raw), zstd(b'{"next":1}\n')], reader=reader)
    assert read.lines == [*lines, b'{"next":1}']
    assert reader.damage is not None
    assert "checksum" in reader.damage.reason


def test_zeroes_behind_the_end_as_a_power_cut_leaves_them_are_counted() -> None:
    raw = zstd(b'{"a":1}\n')
    read = read_pieces([raw + bytes(5_000)])
    assert read.data == b'{"a":1}\n'
    assert read.lost == 5_000


def test_a_damaged_beginning_is_searched_for_the_next_frame() -> None:
    raw = bytearray(zstd(b'{"a":1}\n'))
    raw[1] ^= 4
    read = read_pieces([bytes(raw) + zstd(b'{"b":1}\n')])
    assert read.data == b'{"b":1}\n'
    assert read.lost == len(raw)


@pytest.mark.parametrize("size", [1_000, 40_000, 1_000_000])
@pytest.mark.parametrize("first", [1_000, 20_000, 40_000])
def test_gzip_members_that_expand_much_end_where_they_end(first: int, size: int) -> None:
    lines = [b'{"a":1}'] * first + some_lines(200)
    raw = gzipped(joined(lines[:first])) + gzipped(joined(lines[first:]))
    reader = SegmentReader("segment")
    read = Read()
    for piece in pieces(raw, size):
        reader.feed(piece)
        while (block := reader.next_block()) is not None:
            read.blocks.append(block)
            assert reader.damage is None  # then there may be no end to it
    reader.finish()
    take(reader, read)
    assert read.lines == lines
    assert read.lost == 0


def test_a_bad_gzip_member_costs_the_rest_of_it_only() -> None:
    first, second = some_lines(2_000, seed=1), some_lines(50, seed=2)
    raw = bytearray(gzipped(joined(first)))
    raw[len(raw) // 2] ^= 0xFF
    read = read_pieces(pieces(bytes(raw) + gzipped(joined(second)), 3_000))
    assert read.lines[-50:] == second
    assert read.lines[0] == first[0]
    assert read.lost > 0


def test_of_a_bad_gzip_member_what_came_before_is_kept() -> None:
    lines = some_lines(60)
    raw = bytearray(gzipped(joined(lines)))
    raw[len(raw) // 2] ^= 0xFF
    read = read_pieces([bytes(raw)])
    same = (got == line for got, line in zip(read.lines, lines, strict=False))
    assert 5 < sum(itertools.takewhile(bool, same)) < 60


@given(st.integers(20, 4_000), st.integers(1, 255), st.integers(1, 3_000))
def test_what_a_bad_gzip_member_leaves_does_not_depend_on_how_it_came(
    place: int, change: int, size: int
) -> None:
    raw = bytearray(gzipped(joined(some_lines(400, seed=1))))
    assert len(raw) > 4_000
    raw[place] ^= change
    raw += gzipped(joined(some_lines(10, seed=2)))
    whole, parts = read_pieces([bytes(raw)]), read_pieces(pieces(bytes(raw), size))
    assert parts.data == whole.data
    assert parts.lost == whole.lost
    assert parts.blocks[-1].position.offset == whole.blocks[-1].position.offset


def test_a_window_larger_than_128_mib_is_refused() -> None:
    huge = b"\x28\xb5\x2f\xfd\x00" + bytes([18 << 3]) + b"\x03\x00\x00x"  # 256 MiB
    large = b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + b"\x11\x00\x00{}"  # 128 MiB
    assert read_pieces([huge]).lost == len(huge)
    assert read_pieces([large]).data == b"{}"


def test_reading_goes_on_after_damage_from_every_position() -> None:
    _, frames = three_frames()
    raw = bytearray(b"".join(frames) + b"rubbish" * 50)
    raw[len(frames[0]) + 2_000] ^= 0xFF
    whole = read_pieces(pieces(bytes(raw), 500))
    done, lost = b"", 0
    for block in whole.blocks:
        done += block.data
        lost += block.lost_bytes
        reader = SegmentReader("segment", position=block.position, kind="zstd")
        rest = read_pieces([bytes(raw[block.position.frame_start :])], reader=reader)
        assert done + rest.data == whole.data
        assert lost + rest.lost == whole.lost


SMALL = recorded("template")[0].read_bytes()


@settings(max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 7)), max_size=6))
@example(flips=[(0, 0)])
@example(flips=[(4, 3)])
def test_bit_flips_never_crash(flips: list[tuple[int, int]]) -> None:
    raw = bytearray(SMALL)
    for at, bit in flips:
        raw[at] ^= 1 << bit
    read = read_pieces(pieces(bytes(raw), 1_000))
    assert read.data or read.lost


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
@settings(max_examples=200)
@given(noise=st.binary(max_size=400), flips=st.lists(st.integers(0, 3_000), max_size=4))
def test_rubbish_in_a_segment_never_hides_the_frame_behind_it(
    kind: str, noise: bytes, flips: list[int]
) -> None:
    raw = bytearray(ENCODERS[kind](joined(some_lines(30))))
    for at in flips if kind == "zstd" else []:  # a bad deflate stream may well run into the next
        raw[at % (len(raw) - 20) + 12] ^= 0x10
    last = joined([b'{"last":%d}' % n for n in range(20)])
    read = read_pieces(pieces(bytes(raw) + noise + ENCODERS[kind](last), 100))
    assert read.data.endswith(last)


@pytest.mark.parametrize("kind", ENCODERS)
def test_cut_anywhere_the_lines_before_the_cut_are_read(kind: str) -> None:
    lines = some_lines(40, length=60)
    text = joined(lines)
    raw = ENCODERS[kind](text[:900]) + ENCODERS[kind](text[900:])
    for end in range(len(raw)):
        read = read_pieces([raw[:end]])
        assert text.startswith(read.data)
        assert read.data.count(b"\n") <= len(read.lines) <= read.data.count(b"\n") + 1


# -- bounds ------------------------------------------------------------------------------------


def bomb(blocks: int, byte: bytes) -> bytes:
    """A frame that yields 128 KiB for every four bytes."""
    header = struct.pack("<I", BLOCK_MAX << 3 | 1 << 1)[:3]
    last = struct.pack("<I", BLOCK_MAX << 3 | 1 << 1 | 1)[:3]
    return b"\x28\xb5\x2f\xfd\x00\x58" + (header + byte) * (blocks - 1) + last + byte


def peak_and_read(raw: bytes) -> tuple[int, int, Read]:
    """Peak memory, bytes handed on, and a Read without its data."""
    reader, read, size = SegmentReader("segment"), Read(), 0
    tracemalloc.start()
    try:
        for piece in [*pieces(raw, 256 * 1024), None]:
            if piece is None:
                reader.finish()
            else:
                reader.feed(piece)
            while (block := reader.next_block()) is not None or reader.paused:
                if reader.hopeless:
                    read.blocks.append(reader.give_up(len(raw)))
                    return tracemalloc.get_traced_memory()[1], size, read
                if block is None:
                    continue
                size += len(block.data)
                if block.bad_lines or block.lost_bytes or len(block.data) < 100:
                    read.blocks.append(block)
        return tracemalloc.get_traced_memory()[1], size, read
    finally:
        tracemalloc.stop()


def test_a_bomb_of_line_ends_takes_no_memory() -> None:
    peak, size, _ = peak_and_read(bomb(1_000, b"\n"))
    assert size == 1_000 * BLOCK_MAX  # sixteen times as much as it may take
    assert peak < 8 * MIB


@pytest.mark.parametrize("blocks", [300, 16_000])
def test_a_line_of_megabytes_is_skipped_and_one_of_gigabytes_ends_it(blocks: int) -> None:
    """What has no line end in 64 MiB is no log: to read on would cost as long as it likes."""
    raw = zstd(b'{"a":1}\n') + bomb(blocks, b"x") + zstd(b'\n{"b":2}\n')
    peak, _, read = peak_and_read(raw)
    given_up = blocks > 300
    assert read.data == b'{"a":1}\n' + (b"" if given_up else b'{"b":2}\n')
    assert read.bad == 1
    assert (read.lost > 0) == given_up
    assert read.blocks[-1].position.lines == 3 - given_up
    assert peak < 40 * MIB


@pytest.mark.parametrize(
    ("head", "again", "times"),  # in parts: together they would fill every worker's memory
    [
        (b"", b"\x28\xb5\x2f\xfd", 2_000_000),
        (b"", b"\x28\xb5\x2f\xfd\x20\x00" + b"\x07\x00\x00", 200_000),
        (b"", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff", 200_000),
        (b"", b"\0", 200 * MIB),
        (b"", b"x", 200 * MIB),
        (b"", zstd(b""), 1_000_000),
        (b"\x50\x2a\x4d\x18" + (2**31).to_bytes(4, "little"), b"\0", 200 * MIB),
    ],
    ids=["headers", "bad blocks", "members", "zeroes", "no line ends", "empty frames", "skipped"],
)
def test_what_holds_no_lines_is_given_up_after_a_bounded_effort(
    head: bytes, again: bytes, times: int
) -> None:
    raw = head + again * times
    reader, blocks, turns = SegmentReader("segment"), list[Block](), 0
    fed = pieces(raw, 512 * 1024)
    # To trace what 300,000 frames allocate takes long; that they take little is tested below.
    if again != zstd(b""):
        tracemalloc.start()
    try:
        for piece in fed:
            reader.feed(piece)
            while not reader.hopeless:
                before, block = reader.effort, reader.next_block()
                turns += 1
                blocks += [block] if block is not None else []
                assert reader.effort - before < 2 * MIB
                if block is None and not reader.paused:
                    break
            if reader.hopeless:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.hopeless
    assert turns < 400
    assert peak < 24 * MIB  # a line of 8 MiB, twice while its buffer grows
    last = reader.give_up(len(raw))
    lost = sum(block.lost_bytes for block in [*blocks, last])
    assert last.data == b""
    assert lost > 0 or last.bad_lines
    assert lost <= len(raw)


def test_a_gzip_bomb_takes_no_memory() -> None:
    peak, size, _ = peak_and_read(gzipped(b"\n" * (64 * MIB)))
    assert size == 64 * MIB
    assert peak < 8 * MIB


@pytest.mark.parametrize("frame", [zstd(b""), SKIPPABLE, zstd(b"x")], ids=["empty", "skip", "x"])
def test_many_tiny_frames_take_little(frame: bytes) -> None:
    raw = frame * 25_000 + zstd(b'\n{"a":1}\n')
    began = time.process_time()
    peak, size, _ = peak_and_read(raw)
    assert size == len(decompress(frame) if frame != SKIPPABLE else b"") * 25_000 + 9
    assert peak < 3 * MIB  # half of that without any
    assert time.process_time() - began < 5


def test_a_reader_is_gone_as_soon_as_it_is_dropped() -> None:
    # Each has zstd's window of some megabytes: the garbage collector would come too late.
    raw = recorded("plain")[0].read_bytes()
    gc.disable()
    try:
        reader = SegmentReader("segment")
        read_pieces(pieces(raw[:-10] + raw, 5_000), reader=reader)
        decoder = weakref.ref(reader._decoder) if reader._decoder else None
        assert decoder is not None
        assert decoder() is not None
        del reader
        assert decoder() is None
    finally:
        gc.enable()


def test_empty_blocks_are_read_over() -> None:
    empty = b"\x00\x00\x00" * 50_000
    raw = b"\x28\xb5\x2f\xfd\x00\x58" + empty + b"\x41\x00\x00" + b'{"a":1}\n'
    assert read_pieces(pieces(raw, 20_000)).data == b'{"a":1}\n'


@pytest.mark.parametrize("kind", ["zstd", "plain"])
@pytest.mark.parametrize("length", [LINE_MAX, LINE_MAX + 1, LINE_MAX + 3 * BLOCK_SIZE])
@pytest.mark.parametrize("size", [100_000, 64 * MIB])
def test_a_line_is_skipped_exactly_when_it_is_too_long(kind: str, length: int, size: int) -> None:
    text = b'{"a":1}\n' + b"x" * length + b'\n{"b":2}\n'
    read = read_pieces(pieces(ENCODERS[kind](text), size))
    too_long = length > LINE_MAX
    assert read.bad == too_long
    assert read.data == (b'{"a":1}\n{"b":2}\n' if too_long else text)
    assert read.lost == 0
    assert read.blocks[-1].position.offset == len(text)


def test_a_line_too_long_at_the_end_is_a_bad_one() -> None:
    read = read_pieces([b'{"a":1}\n', b"x" * (LINE_MAX + 1)])
    assert (read.data, read.bad, read.lost) == (b'{"a":1}\n', 1, 0)


def test_a_too_long_line_is_not_resumed_in_its_middle() -> None:
    raw = zstd(b'{"a":1}\n') + zstd(b"x" * (LINE_MAX + MIB)) + zstd(b'y\n{"b":2}\n')
    whole = read_pieces(pieces(raw, 100))
    for block in whole.blocks:
        reader = SegmentReader("segment", position=block.position, kind="zstd")
        rest = read_pieces([raw[block.position.frame_start :]], reader=reader)
        before = whole.data[: whole.data.find(block.data) + len(block.data)]
        assert before + rest.data == whole.data
    assert [block.bad_lines for block in whole.blocks] == [0, 1]


# -- kinds and identity ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (zstd(b"x")[:4], "zstd"),
        (SKIPPABLE[:4], "zstd"),
        (gzipped(b"x")[:4], "gzip"),
        (b'{"ty', "plain"),
        (b"# id", "plain"),
        ("ü€".encode()[:4], "plain"),
        (b"\xef\xbb\xbf{", "plain"),
        (b"\n", "plain"),
        (b"\x00\x00\x00\x00", "damaged"),
        (b"\x28\xb5\x2f\xfc", "damaged"),
        (b"\xff\xfe{\x00", "damaged"),
    ],
)
def test_the_first_bytes_tell_the_kind(head: bytes, kind: str) -> None:
    assert detect(head) == kind


def test_foreign_compressions_are_named() -> None:
    assert foreign_format(b"\xfd7zXZ\x00rest") == "xz"
    assert foreign_format(b"BZh91AY") == "bzip2"
    assert foreign_format(zstd(b"x")) is None


def test_a_fingerprint_is_recognised_in_what_the_file_has_grown_to() -> None:
    text = bytes(range(256)) * 32
    for count in (0, 1, 300, HEAD_SIZE, HEAD_SIZE + 1):
        known = fingerprint(text[:count])
        assert fingerprint_fits(known, text)
        assert fingerprint_fits(known, text[:count])
    assert fingerprint_fits(fingerprint(text[:300]), text[:299]) is None
    assert fingerprint_fits(fingerprint(text[:300]), text[1:]) is False


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_content_of_a_segment_is_the_same_however_compressed(kind: str) -> None:
    text = joined(some_lines(100))
    raw = ENCODERS[kind](text)
    assert content_head(raw) == text[:HEAD_SIZE]
    reader = SegmentReader("segment")
    read_pieces(pieces(raw, 1_000), reader=reader)
    assert reader.content == text[:HEAD_SIZE]


def test_positions_start_at_nothing() -> None:
    assert SegmentReader("segment").position == START
    assert SegmentReader("segment").end_position() == START


@given(st.binary())
def test_lines_are_counted(data: bytes) -> None:
    assert count_lines(data) == data.count(b"\n")
