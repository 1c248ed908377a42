"""What befalls segments over their life, seen at the counters of the whole service."""

from __future__ import annotations

import gzip
import shutil
import time
from pathlib import Path

import pytest
import zstandard

from sidecar.automation.overlay import Overlay
from tests.kumod_writer import segment_name, take_write_bits

from .support import Setup, failure, until


def read(setup: Setup) -> int:
    return setup.saved().counters.get("read", 0)


def plain(path: Path) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def test_thousands_of_segments_waiting_are_each_read_once(setup: Setup) -> None:
    line = plain(setup.log(failure(1)))
    for number in range(3000):
        path = setup.logs / segment_name(1795360648_000000000 + number * 1_000_000)
        # No two records have one id: else these were copies of one segment.
        path.write_bytes(line.replace(b'"id":"', b'"id":"%d-' % number))
        take_write_bits(path)
    setup.once("--from", "beginning")
    assert read(setup) == 3001
    setup.once("--from", "beginning")
    assert read(setup) == 3001
    assert setup.saved().counters["matched"] == 3001


def test_a_segment_finished_while_down_is_read_on_from_where_it_was(setup: Setup) -> None:
    writer = setup.writer()
    for number in range(4000):
        writer.log(failure(number, "nothing of note"))
    setup.once()
    half = read(setup)
    assert 0 < half < 4000
    writer.close()
    setup.once()
    assert read(setup) == 4000


def test_a_segment_recompressed_after_it_was_read_is_not_read_again(setup: Setup) -> None:
    path = setup.log(*(failure(n) for n in range(50)))
    setup.once()
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(plain(path)))
    take_write_bits(packed)
    path.unlink()
    setup.once()
    assert read(setup) == 50


def test_a_segment_renamed_after_it_was_read_is_not_read_again(setup: Setup) -> None:
    running = setup.run()
    path = setup.log(*(failure(n) for n in range(50)))
    until(lambda: read(setup) == 50)
    path.rename(path.with_name(path.name + ".old"))
    setup.log(failure(51, domain="after.example"))
    until(lambda: "after.example" in setup.overlay())
    assert running.stop() == 0
    setup.once()
    assert read(setup) == 51
    assert "segments_lost" not in setup.saved().counters


def test_a_segment_restored_from_a_backup_is_not_read_again(setup: Setup) -> None:
    path = setup.log(*(failure(n) for n in range(50)))
    setup.once()
    copy = setup.base / "backup"
    shutil.copy2(path, copy)
    path.unlink()
    setup.log(failure(50))
    setup.once()
    shutil.copy2(copy, path)
    setup.once()
    assert read(setup) == 51
    assert "segments_lost" not in setup.saved().counters


def test_the_same_name_with_other_content_is_read(setup: Setup) -> None:
    path = setup.log(*(failure(n) for n in range(50)))
    setup.once()
    other = setup.log(*(failure(n, domain="other.example") for n in range(100, 120)))
    other.rename(path)
    setup.once()
    assert read(setup) == 70
    assert "other.example" in setup.overlay()


def test_a_segment_cut_short_after_it_was_read_costs_nothing(setup: Setup) -> None:
    path = setup.log(*(failure(n) for n in range(50)))
    setup.once()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    take_write_bits(path)
    setup.log(failure(50, domain="after.example"))
    setup.once()
    assert read(setup) == 51
    assert "after.example" in setup.overlay()


def test_a_log_directory_replaced_while_running_is_followed(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="before.example"))
    until(lambda: "before.example" in setup.overlay())
    setup.logs.rename(setup.base / "logs.old")
    running.says("the log directory can't be read")
    setup.logs.mkdir()
    setup.log(failure(2, domain="after.example"))
    until(lambda: "after.example" in setup.overlay())
    assert running.stop() == 0
    assert read(setup) == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 500, b"\x28\xb5\x2f\xfd" + b"x" * 500, b"{" * 500])
def test_a_segment_that_is_none_costs_only_itself(setup: Setup, damage: bytes) -> None:
    setup.log(failure(1, domain="before.example"))
    bad = setup.logs / segment_name(1795360648_000000000)
    bad.write_bytes(damage)
    take_write_bits(bad)
    setup.log(failure(2, domain="after.example"))
    setup.once("--from", "beginning")
    assert setup.overlay().keys() == {"before.example", "after.example"}
    assert setup.saved().counters["matched"] == 2


def test_without_anything_decided_the_overlay_is_the_empty_one(setup: Setup) -> None:
    setup.log(failure(1, "nothing of note"))
    setup.once()
    assert setup.overlay_file.read_text() == Overlay().text()


SHORT = """
[["default".automation]]
regex = "Throttled"
action = "Suspend"
duration = "1 minute"
"""


def test_segments_that_are_forgotten_are_never_read_again(setup: Setup) -> None:
    setup.rules.write_text(SHORT)
    for number in range(5):
        setup.log(failure(number))
    setup.once()
    assert len(setup.saved().checkpoints) == 5
    # A day later nothing of theirs can matter: all but the last, which has no successor, may go.
    setup.once("--at", str(int(time.time()) + 86_400))
    assert len(setup.saved().checkpoints) == 1
    # The clock was wrong.  What is not remembered is not taken for unread.
    setup.log(failure(5))
    setup.once()
    assert read(setup) == 6
    assert setup.saved().counters["matched"] == 6


def test_with_retention_no_segment_that_is_there_is_forgotten(setup: Setup) -> None:
    setup.rules.write_text(SHORT)
    for number in range(5):
        setup.log(failure(number))
    setup.once("--retention", "7 days")
    setup.once("--retention", "7 days", "--at", str(int(time.time()) + 86_400))
    assert len(setup.saved().checkpoints) == 5
