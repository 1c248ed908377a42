"""Orders that are given while the service is stopped."""

from __future__ import annotations

import json
from pathlib import Path

from .support import run

ENGINE = "redis://127.0.0.1:9"
HOLD = ("hold", "--domain", "example.com", "--for", "1h")


def notes(path: Path, *command: str, share: str = ENGINE) -> list[str]:
    """What is said besides, to programs and to people."""
    state = ("--state", str(path / "state.db"))
    result = run(*command, *state, "--json", TSA_SIDECAR_SHARE=share)
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)["notes"]
    shown = run(*command, *state, TSA_SIDECAR_SHARE=share)
    assert "other hosts" in shown.output or not said
    return [str(note) for note in said]


def test_an_order_to_a_stopped_service_says_that_the_group_does_not_hear_of_it(
    tmp_path: Path,
) -> None:
    [said] = notes(tmp_path, *HOLD)
    assert said.startswith("the service is not running, so the other hosts")
    assert notes(tmp_path, *HOLD, "--here") == []
    assert notes(tmp_path, *HOLD, share="") == []
    state = ("--state", str(tmp_path / "state.db"))
    released = run("release", "--all", *state, TSA_SIDECAR_SHARE=ENGINE)
    assert "other hosts of the group do not hear" in released.output


def test_a_service_that_shared_when_it_ran_last_counts_as_well(tmp_path: Path) -> None:
    document = {"state": "stopped", "share": {"group": "mail"}}
    (tmp_path / "state.db.status.json").write_text(json.dumps(document))
    [said] = notes(tmp_path, *HOLD, share="")
    assert "say it on one that runs" in said
