"""The addresses of a host, without keeping the program from going on, or from ending.

In: a name and a port.  Out: addresses as the system knows them.  asyncio looks names up in
the few threads that it has for everything.  Where the name servers are silent, each takes
half a minute: files wait to be written meanwhile, and the program waits at its end.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from threading import Thread


async def addresses(host: str, port: int) -> list[str]:
    """The addresses of `host`, the best first.  Raises what ``socket.getaddrinfo`` raises."""
    found: Future[list[str]] = Future()

    def look_up() -> None:
        found.set_running_or_notify_cancel()  # from here on it can be left, not cancelled
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - whoever awaits the answer gets it
            found.set_exception(error)
        else:
            found.set_result(list(dict.fromkeys(str(info[4][0]) for info in infos)))

    Thread(target=look_up, daemon=True, name="look-up").start()
    return await asyncio.wrap_future(found)
