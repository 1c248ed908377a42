"""Work in a thread that nobody waits for: a function in, its result out.

asyncio's own threads are waited for when the program ends, so that one that
hangs (a policy, a file system) would keep it from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """What `function` returns or raises, in a thread of its own.

    Cancelled, the caller goes on at once; the thread ends when it ends, or with the program.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            found, error = function(), None
        except BaseException as raised:  # noqa: BLE001 - it is the caller's
            found, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, daemon=True, name="reload").start()
    return await future
