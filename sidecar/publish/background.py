"""An event loop in a thread of its own, for connections that last.

In: coroutines, from any thread.  Out: nothing; ``stop`` waits for them to end.  The
listener's threads answer and end.  WebSocket subscribers, and connections that are
being closed, cost a coroutine here instead of a thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine

from sidecar.problems import Problem

_LINGER_SECONDS = 1.0
_LINGER_BYTES = 256 * 1024
_LINGERING = 128


class Background:
    """The loop, its thread and its tasks."""

    def __init__(self, on_problem: Callable[[Problem], None]) -> None:
        """`on_problem` gets a task that failed, which is always our own fault."""
        self._on_problem = on_problem
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lingering = 0

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop,), name="publish-background", daemon=True
        )
        self._thread.start()

    def stop(self, *, seconds: float) -> None:
        """End the thread.  Tasks have `seconds` to finish; then they are cancelled."""
        loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._wind_down(seconds), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    def call(self, function: Callable[[], object]) -> bool:
        """Have `function` called in the loop's thread soon; returns False when there is no loop."""
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # closed by another thread just now
            return False
        return True

    def spawn(self, coroutine: Coroutine[object, object, None]) -> bool:
        """Run `coroutine` in the loop; returns False when there is none."""

        def start() -> None:
            task = asyncio.get_running_loop().create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._done)

        if self.call(start):
            return True
        coroutine.close()
        return False

    def farewell(self, connection: socket.socket, last_words: bytes) -> None:
        """Send `last_words` and close, so that the peer can read them.  Takes over `connection`.

        If it were closed with input unread, the kernel would send a reset, which may
        destroy the answer on its way.  So our side is ended first, and what still
        comes is thrown away, for a second at most.
        """
        if not self.spawn(self._linger(connection, last_words)):
            connection.close()

    async def _linger(self, connection: socket.socket, last_words: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._lingering += 1
        try:
            if self._lingering > _LINGERING:
                return
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    connection.setblocking(False)
                    await loop.sock_sendall(connection, last_words)
                    connection.shutdown(socket.SHUT_WR)
                    left = _LINGER_BYTES
                    while left > 0 and (data := await loop.sock_recv(connection, 65536)):
                        left -= len(data)
        finally:
            self._lingering -= 1
            connection.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            message = f"a connection failed: {error!r}"
            self._on_problem(Problem("error", "http-connection", message))

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    async def _wind_down(self, seconds: float) -> None:
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
