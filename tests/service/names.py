"""A name server on a real UDP socket beside the test: it answers, or keeps silent, as told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.shaping.nameserver import NameServer, nameserver


class Names:
    """Every domain has the MX ``mx.big.test``; those that ``silent_for`` is in are not answered."""

    def __init__(self) -> None:
        self.silent_for = ""
        self.server: NameServer | None = None

    def answer(self, name: str) -> list[str] | None:
        """What the server says."""
        if self.silent_for and self.silent_for in name:
            return None
        if name.startswith("_mta-sts."):
            return []
        return [f"{name}. 600 IN MX 10 mx.big.test."]

    @property
    def option(self) -> str:
        """Its address, as ``--nameserver`` takes it."""
        assert self.server is not None
        return f"127.0.0.1:{self.server.port}"

    @property
    def silent(self) -> bool:
        """Whether it answers nothing at all."""
        assert self.server is not None
        return self.server.silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        assert self.server is not None
        self.server.silent = silent

    @property
    def asked(self) -> list[str]:
        """The names asked for."""
        assert self.server is not None
        return list(self.server.queries)


@contextmanager
def names() -> Iterator[Names]:
    """A name server while the block runs."""
    made, ready, loop = Names(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with nameserver(made.answer) as made.server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
