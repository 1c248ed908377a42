"""Lines that are no log records: said once, counted always."""

from __future__ import annotations

import time

from tests.kumod_writer import segment_name

from .support import Setup, failure, until


def test_a_bad_line_is_said_once_with_its_segment(setup: Setup) -> None:
    running = setup.run()
    opened_ns = time.time_ns()
    names = [segment_name(opened_ns), segment_name(opened_ns + 1)]
    for name in names:
        file = setup.logs / name
        file.write_text("Throttled, but no record\n" * 3)
        file.chmod(0o444)
    setup.log(failure(1, domain="good.example"))
    until(lambda: setup.status().get("counters", {}).get("bad") == 6)
    assert running.stop() == 0
    assert running.output.count("code=bad-line ") == 1
    assert any(f"file={setup.logs / name}" in running.output for name in names)
