"""A function in a thread that the end of the program does not wait for.

In: a function.  Out: its result.  asyncio's own threads are waited for at the end:
one that hangs (in a policy, in a file system) would keep the program from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """What `function` returns or raises; it is called in a thread of its own.

    A caller that is cancelled goes on at once.  The thread ends later, or with the
    program.
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
