"""What the log writes, and that nothing else gets past it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from sidecar.service.logging import Log, everything_to


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(said: io.StringIO, clock: Clock) -> Log:
    return Log(stream=said, clock=clock)


@pytest.fixture
def everything(log: Log) -> Iterator[None]:
    with everything_to(log):
        yield


def test_the_same_event_is_written_ten_times_a_minute_and_then_counted(
    log: Log, said: io.StringIO, clock: Clock
) -> None:
    for number in range(1000):
        log.warning("again", number=number)
    assert len(said.getvalue().splitlines()) == 10
    clock.ns += 60_000_000_000
    log.warning("again", number=1000)
    assert said.getvalue().splitlines()[-1] == "WARNING again number=1000 left_out=990"


def test_however_many_events_there_are_a_thousand_lines_a_minute_are_written(
    log: Log, said: io.StringIO, clock: Clock
) -> None:
    for number in range(10_000):
        log.warning(f"event {number}")
    assert len(said.getvalue().splitlines()) == 1000
    clock.ns += 60_000_000_000
    log.warning("the next")
    assert said.getvalue().splitlines()[-1] == "WARNING the next left_out=9000"


@pytest.mark.usefixtures("everything")
def test_a_flood_of_a_librarys_messages_is_ten_lines(said: io.StringIO) -> None:
    for number in range(5000):
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
        logging.getLogger("watchdog").error("event %d was lost", number)
    lines = said.getvalue().splitlines()
    assert len(lines) == 20
    assert lines[0] == 'WARNING a library says by=asyncio text="socket.send() raised exception."'
    assert lines[1] == 'ERROR a library says by=watchdog text="event 0 was lost"'


def test_what_the_interpreter_says_goes_to_the_log(
    log: Log, said: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("in a destructor")

    def fail() -> None:
        raise RuntimeError("in a thread\n\x1b[2J")

    with warnings.catch_warnings(), everything_to(log):
        warnings.simplefilter("always")
        broken = Broken()
        del broken
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        warnings.warn("a warning", stacklevel=1)
    text = said.getvalue()
    for what in ("in a destructor", "in a thread", "a warning"):
        assert what in text
    assert "\x1b" not in text
    assert "Traceback" not in text
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("everything")
def test_a_task_whose_error_nobody_took_is_one_line(said: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError("x" * 100_000)

    async def leave_alone() -> None:
        task = asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    asyncio.run(leave_alone())
    (line,) = said.getvalue().splitlines()
    assert "ValueError" in line
    assert "test_logging.py:" in line
    assert len(line) < 5000


def test_afterwards_everything_is_as_it_was(log: Log) -> None:
    before = logging.getLogger().handlers[:], sys.unraisablehook, threading.excepthook
    with everything_to(log):
        assert sys.unraisablehook is not before[1]
    assert (logging.getLogger().handlers[:], sys.unraisablehook, threading.excepthook) == before


def test_lines_for_machines_hold_their_fields(said: io.StringIO, clock: Clock) -> None:
    Log(stream=said, clock=clock, log_format="json").info("an event\n", file="a b")
    assert json.loads(said.getvalue()) == {
        "time": "2023-11-14T22:13:20Z",
        "level": "info",
        "event": "an event\n",
        "file": "a b",
    }
