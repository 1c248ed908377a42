"""One GET by HTTPS, for a policy that a stranger serves.

In: a host, its addresses, a path.  Out: the text; OSError or ValueError with
the reason.  Certificates are verified, redirects are not followed (RFC 8461,
section 3.3), only ``text/plain`` is taken, the size is bounded; the time is
bounded by the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

import h11

_OK = 200
_PIECE = 16 << 10


async def get_text(
    host: str, path: str, *, addresses: Sequence[str], port: int, tls: ssl.SSLContext, largest: int
) -> str:
    """The text at ``https://HOST/PATH``, of `largest` bytes at most."""
    reader, writer = await _connect(host, addresses, port, tls)
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [("Host", host), ("Accept", "text/plain"), ("Connection", "close")]
        writer.write(
            connection.send(h11.Request(method="GET", target=path, headers=headers)) or b""
        )
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return (await _read(connection, reader, largest)).decode("utf-8")
    except h11.RemoteProtocolError as err:
        raise ValueError(f"no proper HTTP: {err}") from None
    finally:
        # Nobody waits for a stranger's good-bye.
        with contextlib.suppress(OSError, RuntimeError):
            writer.transport.abort()


async def _connect(
    host: str, addresses: Sequence[str], port: int, tls: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure: OSError = OSError("it has no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port, ssl=tls, server_hostname=host)
        except OSError as err:
            failure = err
    raise failure


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, largest: int) -> bytes:
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.Response):
            _check(event)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > largest:
                raise ValueError(f"larger than {largest} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)


def _check(response: h11.Response) -> None:
    """ValueError for anything but a plain text."""
    if response.status_code != _OK:
        raise ValueError(f"the server answers {response.status_code}")
    kinds = [value for name, value in response.headers if name == b"content-type"]
    if not kinds or kinds[0].split(b";")[0].strip() != b"text/plain":
        raise ValueError("the answer is not text/plain")
