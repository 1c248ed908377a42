"""One sidecar with its files, started as a process of its own; and what a test asks of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sidecar.store import Saved, read_saved
from tests.kumod_standin import WebSocketClient
from tests.kumod_writer import KumodWriter, record

ROOT = Path(__file__).parents[2]
SECONDS = 120.0
"""What didn't come about in this time won't: no measure of how fast anything is."""

RULES = r"""
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"

[["default".automation]]
regex = "Slow down"
action = {SetConfig = {name = "max_message_rate", value = "10/m"}}
trigger = {Threshold = "7/minute"}
duration = "1 day"

[["default".automation]]
regex = "Suspend queue"
action = "Suspend"
duration = "1 day"

[["default".automation]]
regex = "Suspend tenant"
action = "SuspendTenant"
duration = "1 day"

[["default".automation]]
regex = "Suspend campaign"
action = "SuspendCampaign"
trigger = {Threshold = "3/hour"}
duration = "1 day"

[["default".automation]]
regex = "Bounce it"
action = "BounceTenant"
duration = "1 day"
"""

TEXTS = (
    "Throttled",
    "Slow down",
    "Suspend queue",
    "Suspend tenant",
    "Suspend campaign",
    "Bounce it",
    "mailbox full",
    "nothing of note",
)


def until(what: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Wait until `what` gives something true; that."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
    return value


class Nursery:
    """The client of ``tests/service/nursery.py``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(SECONDS)
        self._process.stdout.close()


class Running:
    """A started sidecar."""

    def __init__(self, nursery: Nursery, pid: int, out: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self._out = out
        self.code: int | None = None

    @property
    def output(self) -> str:
        """What it has written to stdout and stderr."""
        return self._out.read_text(encoding="utf-8") if self._out.exists() else ""

    def ended(self) -> bool:
        if self.code is None:
            self.code = self._nursery.ask({"poll": self.pid})
        return self.code is not None

    def signal(self, number: int) -> None:
        if not self.ended():
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        until(self.ended)
        assert self.code is not None
        return self.code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self.wait()

    def says(self, text: str) -> str:
        """Wait until it has written `text`; all that it has written."""

        def said() -> bool:
            if text in self.output:
                return True
            assert not self.ended(), self.output
            return False

        until(said)
        return self.output


def reserved_port() -> socket.socket:
    """A socket that keeps its port from everybody who doesn't ask for that very port.

    Whoever asks may listen there: this one doesn't, and both say ``SO_REUSEADDR``.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


class Setup:
    """The files of one sidecar, and its starts."""

    def __init__(self, nursery: Nursery, base: Path, *, rules: str = RULES) -> None:
        self._nursery = nursery
        self.base = base
        self.logs = base / "logs"
        self.logs.mkdir(parents=True)
        self.rules = base / "shaping-rules.toml"
        self.rules.write_text(rules, encoding="utf-8")
        self.overlay_file = base / "overlay" / "shaping.toml"
        self.state_file = base / "state" / "state.db"
        self._reserved = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self.started: list[Running] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arguments(self, *more: str, listen: bool = True, **replaced: str) -> list[str]:
        options = {
            "shaping": str(self.rules),
            "log-dir": str(self.logs),
            "overlay": str(self.overlay_file),
            "state": str(self.state_file),
            "poll": "0.2",
            **{name.replace("_", "-"): value for name, value in replaced.items()},
        }
        if listen:
            options["listen"] = f"127.0.0.1:{self.port}"
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [*given, *([] if listen else ["--no-listen"]), *more]

    def start(
        self,
        *more: str,
        listen: bool = True,
        command: str = "run",
        env: Mapping[str, str] | None = None,
        fault: str | None = None,
        prepare: str | None = None,
        **replaced: str,
    ) -> Running:
        """``tsa-sidecar run`` with these files; `replaced` gives other values of options."""
        out = self.base / f"output-{len(self.started)}"
        pid = self._nursery.ask(
            {
                "args": [command, *self.arguments(*more, listen=listen, **replaced)],
                "env": {"PATH": os.environ["PATH"], **(env or {})},
                "out": str(out),
                "fault": fault,
                "prepare": prepare,
            }
        )
        running = Running(self._nursery, pid, out)
        self.started.append(running)
        return running

    def command(self, *args: str, env: Mapping[str, str] | None = None) -> Running:
        """Another command of the command line, to its end."""
        out = self.base / f"output-{len(self.started)}"
        request = {"args": list(args), "env": {"PATH": os.environ["PATH"], **(env or {})}}
        running = Running(self._nursery, self._nursery.ask({**request, "out": str(out)}), out)
        self.started.append(running)
        running.wait()
        return running

    def once(self, *more: str, **replaced: Any) -> None:
        """All that is there now, processed."""
        running = self.start("--once", *more, listen=False, **replaced)
        assert running.wait() == 0, running.output

    def run(self, *more: str, **options: Any) -> Running:
        """Start, and wait until it reads the log."""
        running = self.start(*more, **options)
        running.says("started pid=")
        return running

    def overlay(self) -> dict[str, Any]:
        return tomllib.loads(self.overlay_file.read_text(encoding="utf-8"))

    def beside(self, name: str) -> Any:
        return json.loads((self.overlay_file.parent / name).read_bytes())

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
            body: bytes = answer.read()
            return body

    def status(self) -> dict[str, Any]:
        """The status document in its file."""
        file = self.state_file.with_name(self.state_file.name + ".status.json")
        document: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
        return document

    def errors(self) -> list[str]:
        """What is wrong, as the listener says."""
        document = json.loads(self.get("/tsa/sidecar/status"))
        errors: list[str] = document.get("errors", [])
        return errors

    def saved(self) -> Saved:
        return read_saved(self.state_file)

    def in_force(self) -> list[Any]:
        """What a WebSocket subscriber is told on connecting."""
        suspended, bounced = self.beside("suspended.json"), self.beside("bounced.json")
        count = len(suspended["ready_q"]) + len(suspended["sched_q"]) + len(bounced)
        with WebSocketClient(self.url.replace("http", "ws") + "/subscribe_event_v1") as client:
            return [json.loads(text) for text in client.texts(count)]

    def writer(self, **options: Any) -> KumodWriter:
        return KumodWriter(self.logs, **options)

    def log(self, *records: Mapping[str, Any]) -> Path:
        """One finished segment with these records."""
        writer = self.writer()
        for one in records:
            path = writer.log(one)
        writer.close()
        return path

    def close(self) -> None:
        for running in self.started:
            with contextlib.suppress(ProcessLookupError):
                running.signal(signal.SIGKILL)
            running.wait()
        self._reserved.close()


def failure(number: int, text: str = "Throttled", *, domain: str = "", at: int = 0) -> Any:
    """A record to which the rules have something to say."""
    domain = domain or f"d{number % 40}.example"
    content = f"10.0.0.1 {text} #{number}"
    return record(
        number,
        at=at or int(time.time()),
        recipient=f"user{number}@{domain}",
        queue=f"camp{number % 3}:tenant{number % 5}@{domain}",
        site=f"ip2->mx.{domain}@smtp_client",
        response={"code": 421, "enhanced_code": None, "content": content, "command": None},
    )
