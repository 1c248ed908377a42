"""A redis-server of each test's own, on a unix socket and on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.share import (
    Batch,
    Item,
    Pace,
    Place,
    Portion,
    Received,
    Share,
    ShareSettings,
    connect,
    read_url,
)

PACE = Pace(answer=0.5, first_retry=0.02, last_retry=0.1, presence=0.1, listen=0.1, watermark=0.05)
DEADLINE = 20.0


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Engine:
    """A redis-server: started, killed, frozen, asked."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self.socket = f"/tmp/tsa-share-{os.getpid()}-{self.port}.sock"
        self.options = options
        self.admin_password: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its unix socket."""
        return f"unix://{self.socket}"

    @property
    def tcp(self) -> str:
        """Its port of loopback."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def admin(self) -> redis.Redis:
        """A client to look behind its back."""
        return redis.Redis(unix_socket_path=self.socket, password=self.admin_password)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["redis-server", "--dir", str(self.directory), "--unixsocket", self.socket]
        command += ["--bind", "127.0.0.1", "--save", ""]
        if "--port" not in self.options:
            command += ["--port", str(self.port)]
        self._run([*command, *self.options])

    def start_as_sentinel(self) -> None:
        """Start it as a Sentinel and wait until it answers."""
        config = self.directory / "sentinel.conf"
        config.write_text(f"port {self.port}\nunixsocket {self.socket}\nbind 127.0.0.1\n")
        self._run(["redis-server", str(config), "--sentinel"])

    def _run(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            try:
                with self.admin as admin:
                    admin.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None
        Path(self.socket).unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, *words: bytes | str | int) -> Any:
        """The answer to a command."""
        with self.admin as admin:
            return admin.execute_command(*words)

    def lines(self, group: str = "mail") -> list[tuple[str, int]]:
        """Segment and line of each item of the stream, in its order."""
        with self.admin as admin:
            entries: Any = admin.xrange(f"tsa-sidecar:{{{group}}}:stream")
        return [(f[b"segment"].decode(), int(f[b"line"])) for _, f in entries if b"line" in f]

    def end(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.kill()


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines, started, and ends them after the test."""
    made: list[Engine] = []

    def make(*options: str, start: bool = True) -> Engine:
        engine = Engine(tmp_path / f"engine{len(made)}", *options)
        made.append(engine)
        if start:
            engine.start()
        return engine

    yield make
    for engine in made:
        engine.end()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """An engine without persistence."""
    return make_engine()


def settings(url: str, host: str = "mx1", **more: Any) -> ShareSettings:
    """Settings with a quick pace."""
    options: dict[str, Any] = {"name": "mail", "age": 3600.0, "pace": PACE, **more}
    return ShareSettings(read_url(url), host=host, **options)


def share(url: str, host: str = "mx1", **more: Any) -> Any:
    """A share of `host`, as a context."""
    return connect(settings(url, host, **more), clock=time.time_ns)


def lines(segment: str, first: int, last: int) -> Portion:
    """A portion with an item at each of its lines."""
    items = tuple(Item(n, "line", f"{segment} {n}".encode()) for n in range(first, last + 1))
    return Portion(segment, first - 1, last, items)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what changes it is what is tested
            await asyncio.sleep(0.01)


async def take(source: Share, place: Place, count: int) -> tuple[list[Received], Place]:
    """The next `count` items from a place on, and the place behind them."""
    items: list[Received] = []
    async with asyncio.timeout(DEADLINE), aclosing(source.receive(place)) as batches:
        async for batch in batches:
            items += batch.items
            place = place.behind(batch)
            if len(items) >= count:
                break
    return items, place


class Log:
    """A service with a log: it offers, and reads again what is behind."""

    def __init__(self, source: Share) -> None:
        self.share = source
        self.read: dict[str, int] = {}

    def offer(self, portion: Portion) -> None:
        """Read on and offer."""
        self.read[portion.segment] = portion.to_line
        self.share.offer(portion)

    async def catch_up(self) -> None:
        """Offer again what is behind, in small portions."""
        while True:
            await self.share.wait_behind()
            for segment, behind in self.share.behind().items():
                line = behind.from_line
                while line < behind.to_line:
                    to = min(line + 7, behind.to_line)
                    if not await self.share.offer_when_room(lines(segment, line + 1, to)):
                        break
                    line = to
            await asyncio.sleep(0)


@asynccontextmanager
async def following(source: Share, place: Place | None = None) -> AsyncIterator[list[Batch]]:
    """The batches received so far, while it goes on receiving."""
    found: list[Batch] = []

    async def follow() -> None:
        async with aclosing(source.receive(place or Place())) as batches:
            async for batch in batches:
                found.append(batch)

    async with background(follow()):
        yield found


@asynccontextmanager
async def background(work: Any) -> AsyncIterator[None]:
    """Something that goes on meanwhile."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def place_behind(place: Place, batches: list[Batch]) -> Place:
    """The place behind all of them."""
    for batch in batches:
        place = place.behind(batch)
    return place


def received(batches: list[Batch]) -> list[tuple[str, int]]:
    """Segment and line of what was received."""
    return [(item.segment, item.line) for batch in batches for item in batch.items]
