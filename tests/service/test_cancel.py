"""Taking entries back while the service runs as a user of its own: every answer says what is so."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.automation.selection import Selection
from sidecar.service.cancel import ask, requests_path
from sidecar.service.orders import Order

from .support import Nursery, Setup, failure, until

OWNER = 65534 if os.geteuid() == 0 else os.geteuid()
"""Whom the service runs as: only root can be another user."""


def own(setup: Setup) -> None:
    """Everything belongs to the user that the service runs as."""
    for path in (setup.base, *setup.base.rglob("*")):
        os.chown(path, OWNER, -1)


def cancel(setup: Setup) -> tuple[int | None, str]:
    (row,) = setup.saved().entries.values()
    id_ = json.loads(row.episode)["id"]
    running = setup.command("cancel", "--state", str(setup.state_file), str(id_))
    return running.code, running.output


@pytest.fixture
def unprivileged(nursery: Nursery) -> Iterator[Setup]:
    """A service with one entry, which runs as another user than this test.

    Not below pytest's own directory, which each pytest that starts closes to others.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        setup = Setup(nursery, Path(name) / "one")
        setup.log(failure(1, domain="one.example"))
        setup.once()
        own(setup)
        yield setup
        setup.close()


def test_root_takes_an_entry_back_from_a_service_of_another_user(unprivileged: Setup) -> None:
    setup = unprivileged
    running = setup.run(prepare="tests.service.broken:unprivileged")
    directory = requests_path(setup.state_file)
    assert directory.stat().st_uid == OWNER
    before = os.umask(0o077)
    try:
        code, output = cancel(setup)
    finally:
        os.umask(before)
    assert code == 0, output
    until(lambda: setup.overlay() == {})
    assert list(directory.iterdir()) == []
    assert running.stop() == 0, running.output


def test_a_directory_of_requests_that_the_service_cannot_read_is_said(
    unprivileged: Setup,
) -> None:
    setup = unprivileged
    requests_path(setup.state_file).mkdir(mode=0o000)
    running = setup.run(prepare="tests.service.broken:unprivileged")
    until(lambda: any("`tsa-sidecar cancel` has no effect" in e for e in setup.errors()))
    code, output = cancel(setup)
    assert code == 1
    # Another than root may not write there either.
    assert "can't be read by the service's user" in output or "Permission denied" in output
    assert running.stop() == 0, running.output


def test_a_request_that_is_made_before_the_service_is_there_belongs_to_it(
    unprivileged: Setup,
) -> None:
    setup = unprivileged
    request = ask(setup.state_file, Order("cancel", Selection(keys=tuple(setup.saved().entries))))
    assert request.path.parent.stat().st_uid == request.path.stat().st_uid == OWNER
    running = setup.run(prepare="tests.service.broken:unprivileged")
    assert until(request.answer).cancelled == (1,)
    until(lambda: setup.overlay() == {})
    assert running.stop() == 0, running.output


@pytest.mark.parametrize("kind", ["fifo", "link", "rubbish", "huge"])
def test_a_request_that_cannot_be_read_is_answered_and_holds_up_nothing(
    setup: Setup, kind: str
) -> None:
    setup.log(failure(1, domain="one.example"))
    running = setup.run()
    until(lambda: "one.example" in setup.overlay())
    path = requests_path(setup.state_file) / "1.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "rubbish":
        path.write_text("{")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    answer = path.with_name("1.json.answer")
    until(answer.exists)
    assert "can't be read by the service" in answer.read_text()
    assert cancel(setup)[0] == 0
    until(lambda: setup.overlay() == {})
    assert running.stop() == 0, running.output
