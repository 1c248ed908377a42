"""The overlay is never written over a file that somebody else wrote and the sidecar reads."""

from __future__ import annotations

import pytest

from .support import Setup, failure


@pytest.mark.parametrize("link", [False, True])
def test_rule_files_are_not_replaced_by_the_overlay(setup: Setup, link: bool) -> None:
    rules = setup.rules.read_text()
    place = setup.rules
    if link:
        place = setup.base / "link.toml"
        place.symlink_to(setup.rules)
    running = setup.start("--once", listen=False, overlay=str(place))
    assert running.wait() == 1
    assert f"{place}: the overlay would replace this file, which is read" in running.output
    assert setup.rules.read_text() == rules


def test_a_policy_is_not_replaced_by_the_overlay(setup: Setup) -> None:
    policy = setup.base / "tsa_init.lua"
    policy.write_text("-- mine\n")
    running = setup.start("--once", "--policy", str(policy), listen=False, overlay=str(policy))
    assert running.wait() == 1
    assert policy.read_text() == "-- mine\n"


def test_the_overlay_may_be_among_the_rule_files_as_in_kumods_list(setup: Setup) -> None:
    setup.once()
    setup.log(failure(1, domain="both.example"))
    setup.once("--shaping", str(setup.overlay_file))
    assert "both.example" in setup.overlay()


@pytest.mark.parametrize("end", ["", ".lock", ".status.json", "-wal"])
def test_the_state_is_not_replaced_by_the_overlay(setup: Setup, end: str) -> None:
    setup.once()
    place = setup.state_file.with_name(setup.state_file.name + end)
    before = setup.state_file.read_bytes()
    running = setup.start("--once", listen=False, overlay=str(place))
    assert running.wait() == 1
    assert f"{place}: another file of tsa-sidecar's own has this name" in running.output
    assert setup.state_file.read_bytes() == before


@pytest.mark.parametrize("name", ["suspended.json", "bounced.json"])
def test_the_files_beside_the_overlay_are_not_the_overlay(setup: Setup, name: str) -> None:
    running = setup.start("--once", listen=False, overlay=str(setup.base / name))
    assert running.wait() == 1
    assert "another file of tsa-sidecar's own has this name" in running.output


def test_the_overlay_is_not_among_the_segments(setup: Setup) -> None:
    place = setup.logs / "shaping.toml"
    running = setup.start("--once", listen=False, overlay=str(place))
    assert running.wait() == 1
    assert f"{place}: it would be read as a segment of the log" in running.output


def test_two_sidecars_do_not_share_an_overlays_directory(setup: Setup) -> None:
    running = setup.run()
    state = str(setup.base / "other.db")
    other = setup.start("--once", listen=False, state=state)
    assert other.wait() == 1
    assert f"process {running.pid} keeps an overlay in this directory" in other.output
    another = str(setup.overlay_file.with_name("another.toml"))
    other = setup.start("--once", listen=False, state=state, overlay=another)
    assert other.wait() == 1
    elsewhere = str(setup.base / "elsewhere" / "shaping.toml")
    assert setup.start("--once", listen=False, state=state, overlay=elsewhere).wait() == 0
    running.kill()
    assert setup.start("--once", listen=False, state=state).wait() == 0


def test_a_directory_that_cannot_be_locked_is_no_reason_not_to_start(setup: Setup) -> None:
    lock = setup.overlay_file.with_name(".tsa-sidecar.lock")
    lock.mkdir(parents=True)
    running = setup.run()
    assert "can't be locked against a second sidecar" in running.output
    assert running.stop() == 0
