"""A policy that never ends, whatever it does, is ended, and nothing that it started stays."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.policy import Limits, load_policy
from sidecar.problems import ProblemError
from tests.policy.conftest import FailPolicy, RunPolicy

HASTE = Limits(cpu_seconds=1, seconds=4.0)


def running(mark: str) -> list[int]:
    """The processes with `mark` in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


@contextmanager
def another_thread() -> Iterator[None]:
    """With it a policy's process is started afresh, as in a reload, instead of forked."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


ENDLESS_CALLS = [
    "table.move({}, 1, 1e15, 2)",
    "string.find(('a'):rep(3000), ('.-'):rep(40) .. 'b')",
    "pcall(table.move, {}, 1, 1e15, 2)",
    "coroutine.wrap(function() table.move({}, 1, 1e15, 2) end)()",
    "require('kumo').on('tsa_init', function() table.move({}, 1, 1e15, 2) end)",
]


@pytest.mark.parametrize("call", ENDLESS_CALLS)
def test_a_single_call_that_never_ends_is_ended(policy_file: Path, call: str) -> None:
    policy_file.write_text(call)
    with pytest.raises(ProblemError) as caught:
        load_policy(policy_file, env={}, limits=HASTE)
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == ("policy-endless", str(policy_file))
    assert "without coming to an end" in problem.message


def test_a_policy_that_waits_for_ever_is_ended(policy_file: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    policy_file.write_text(f"io.open('{fifo}')")
    with pytest.raises(ProblemError) as caught:
        load_policy(policy_file, env={}, limits=Limits(seconds=1.0))
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == ("policy-endless", str(policy_file))
    assert "within 1 seconds; does it wait for something (a FIFO" in problem.message


def test_a_policy_that_is_a_fifo_is_an_error(policy_file: Path) -> None:
    os.mkfifo(policy_file)
    with pytest.raises(ProblemError) as caught:
        load_policy(policy_file, env={}, limits=Limits(seconds=1.0))
    assert caught.value.problems[0].file == str(policy_file)


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        "sleep {mark} &",
        "setsid sleep {mark} &",
        "(setsid sh -c \"trap '' HUP TERM INT; sleep {mark}; :\" &) &",
        "for i in 1 2 3 4 5; do setsid setsid sleep {mark} & done",
    ],
)
def test_nothing_survives_that_a_policy_started(
    policy_file: Path, command: str, threads: bool
) -> None:
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    command = command.format(mark=mark).replace('"', '\\"')
    policy_file.write_text(f'print((os.execute("{command}")))')
    if threads:
        with another_thread():
            policy = load_policy(policy_file, env={"PATH": os.environ["PATH"]})
    else:
        policy = load_policy(policy_file, env={"PATH": os.environ["PATH"]})
    assert policy.messages[0].text == "true"
    assert running(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_end_of_who_asked(
    policy_file: Path, tmp_path: Path, number: int
) -> None:
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    policy_file.write_text(
        f"os.execute('setsid sleep {mark} & echo >{tmp_path}/on')\ntable.move({{}}, 1, 1e15, 2)"
    )
    code = (
        "import os, sys, pathlib; from sidecar.policy import load_policy; "
        "load_policy(pathlib.Path(sys.argv[1]), env=dict(os.environ))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, str(policy_file), mark])
    while not (tmp_path / "on").exists() and asking.poll() is None:
        time.sleep(0.01)
    assert len(running(mark)) > 1
    asking.send_signal(number)
    assert asking.wait() == -number
    while running(mark):
        time.sleep(0.01)


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    policy_file: Path,
) -> None:
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    policy_file.write_text(f"os.execute 'sleep {mark} & sleep {mark}; :'")
    with pytest.raises(ProblemError, match="took longer than"):
        load_policy(policy_file, env=dict(os.environ), limits=Limits(command_seconds=0.2))
    assert running(mark) == []


GREEDY = [
    ("kumo.string.split(('a,'):rep(1e7), ',')", "longer than 4 MiB"),
    ("kumo.string.split(('a,'):rep(1e6), ',')", "more than"),
    ("kumo.string.split_whitespace(('a '):rep(2e6))", "more than"),
    ("kumo.string.replace(('a'):rep(4e6), 'a', ('b'):rep(4e6))", "longer than 4 MiB"),
    ("kumo.string.replacen(('a'):rep(4e6), '', ('b'):rep(4e6), 10)", "longer than 4 MiB"),
    ("kumo.toml_parse('a = ' .. ('['):rep(1e6))", "nested too deeply"),
    ("kumo.toml_parse('[' .. ('a.'):rep(1e5) .. 'a]')", "nested"),
    ("kumo.json_parse(('['):rep(1e6))", "nested too deeply"),
    ("kumo.json_parse(('['):rep(500) .. (']'):rep(500))", "nested"),
    ("kumo.json_parse('[' .. ('1,'):rep(1.5e6) .. '1]')", "more than"),
    ("kumo.log_info(('x'):rep(8e6))", "longer than 4 MiB"),
]


@pytest.mark.parametrize(("call", "message"), GREEDY)
def test_what_crosses_the_border_to_lua_is_bounded(
    policy_file: Path, call: str, message: str
) -> None:
    policy_file.write_text(f"local kumo = require 'kumo'\n{call}")
    with pytest.raises(ProblemError) as caught:
        load_policy(policy_file, env={})
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(policy_file), 2)
    assert message in problem.message


def test_what_a_policy_says_is_bounded(policy_file: Path) -> None:
    policy_file.write_text(
        "for i = 1, 1000 do print(('x'):rep(1e5) .. i) end\n"
        "for i = 1, 5000 do require('kumo')['nothing' .. i]() end"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    policy = load_policy(policy_file, env={})
    assert sum(len(m.text) for m in policy.messages) < 5 << 20
    assert len(policy.warnings) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_an_error_of_any_length_is_cut(fail: FailPolicy) -> None:
    message = fail("error(('x'):rep(1e7))").problems[0].message
    assert message.startswith("xxx")
    assert len(message) < 2000


def test_a_policy_whose_process_is_killed_is_an_error(policy_file: Path) -> None:
    policy_file.write_text("os.execute 'kill -9 $PPID'")
    with pytest.raises(ProblemError) as caught:
        load_policy(policy_file, env={})
    (problem,) = caught.value.problems
    assert (problem.code, problem.file) == ("policy-died", str(policy_file))
    assert "signal 9" in problem.message


def test_what_a_policy_writes_with_io_write_is_not_lost(
    policy_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy_file.write_text("io.write 'from Lua'")
    load_policy(policy_file, env={})
    assert capfd.readouterr().out == "from Lua"


def test_a_policy_runs_the_same_whether_forked_or_started_afresh(
    run: RunPolicy, fail: FailPolicy
) -> None:
    source = "print(require('sidecar').version, os.getenv 'A')\nrequire('kumo').missing()"
    with another_thread():
        afresh = run(source, A="b")
        error = fail("\nerror 'x'")
    assert run(source, A="b") == afresh
    assert fail("\nerror 'x'").problems == error.problems


def test_what_a_policy_reads_is_no_terminal(run: RunPolicy) -> None:
    assert run("print(io.read 'a' == '')").messages[0].text == "true"
