"""Rule files that can't be read any more while the service runs."""

from __future__ import annotations

import pytest

from .support import Setup, failure, until


@pytest.mark.parametrize("instead", ["nothing", "a directory", "no text"])
def test_a_rule_file_that_goes_leaves_the_last_good_rules_in_force(
    setup: Setup, instead: str
) -> None:
    running = setup.run()
    kept = setup.rules.rename(setup.base / "kept.toml")
    if instead == "a directory":
        setup.rules.mkdir()
    elif instead == "no text":
        setup.rules.write_bytes(b"\xff\xd8\xff\xe0JFIF")
    running.says("the rules were not replaced; the last good ones stay")
    until(lambda: any("can't be loaded" in error for error in setup.status()["errors"]))
    setup.log(failure(1, domain="still.example"))
    until(lambda: "still.example" in setup.overlay())
    if instead == "a directory":
        setup.rules.rmdir()
    kept.rename(setup.rules)
    until(lambda: setup.status()["errors"] == [])
    assert running.stop() == 0


def test_a_rule_file_that_was_not_there_at_the_start_is_left_out_as_by_kumod(setup: Setup) -> None:
    running = setup.run("--shaping", str(setup.base / "later.toml"))
    setup.rules.write_text(setup.rules.read_text().replace("Throttled", "Somewhat busy"))
    running.says("the rules were replaced")
    assert running.stop() == 0
