"""Lines that are no log records: said once, counted always."""

from __future__ import annotations

from .support import Setup, failure, until


def test_a_bad_line_is_said_once_with_its_segment(setup: Setup) -> None:
    running = setup.run()
    for name in ("20261122-160000.000000001", "20261122-160001.000000001"):
        file = setup.logs / name
        file.write_text("Throttled, but no record\n" * 3)
        file.chmod(0o444)
    setup.log(failure(1, domain="good.example"))
    until(lambda: setup.status().get("counters", {}).get("bad") == 6)
    assert running.stop() == 0
    assert running.output.count("code=bad-line ") == 1
    assert f"file={setup.logs}/20261122-16000" in running.output
