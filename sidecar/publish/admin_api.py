"""HTTP exchanges with kumod's admin API: one at a time over one connection.

In: a method, a path and a JSON object.  Out: status and body, or
:class:`Unreachable` when there is no usable answer in time.  What the answers
mean is the business of :mod:`sidecar.publish.kumod`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import h11

from sidecar.problems import ProblemError

_VISIBLE = re.compile(r"[!-~]+")  # all that a request's line and headers can carry
_ANSWER_LIMIT = 64 * 1024 * 1024  # a list of some 200,000 entries


class Unreachable(Exception):  # noqa: N818 - a state of the world, met often
    """No usable answer: kumod is down, slow, or something else answers in its place."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` and ``body`` of an exchange."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """What an error says, shortened for a log line."""
        return " ".join(self.body[:500].decode("utf-8", "replace").split())[:200]

    def json(self) -> object:
        """The body as JSON; Unreachable when it is none (that is not kumod)."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"an answer that is not JSON: {self.text!r}") from error


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where kumod's HTTP listener is.  ``shown`` is for people: without a password."""

    host: str
    port: int
    tls: bool
    authority: str
    prefix: str
    authorization: str | None
    shown: str


def parse_api_url(url: str) -> ApiAddress:
    """``http://127.0.0.1:8000``, with https, ``user:password@`` or a path where there is one.

    Raises ProblemError when that is not what it is.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = SplitResult("", "", "", "", ""), None, None
    usable = parts.scheme in ("http", "https") and _VISIBLE.fullmatch(url.strip()) is not None
    if not usable or not host or parts.query or parts.fragment:
        raise ProblemError.one(
            "bad-kumod-api",
            "is not the URL of kumod's HTTP listener, such as http://127.0.0.1:8000",
            where="kumod API",
        )
    tls = parts.scheme == "https"
    authority = parts.netloc.rpartition("@")[2]
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode("ascii")
    prefix = parts.path.rstrip("/")
    return ApiAddress(
        host=host,
        port=port if port is not None else (443 if tls else 80),
        tls=tls,
        authority=authority,
        prefix=prefix,
        authorization=authorization,
        shown=f"{parts.scheme}://{authority}{prefix}",
    )


class AdminApi:
    """A client that keeps its connection between requests; use it as a context."""

    def __init__(
        self, address: ApiAddress, *, seconds: float, context: ssl.SSLContext | None = None
    ) -> None:
        """`seconds`: for one exchange, connecting included.  `context`: for https."""
        self._address = address
        self._seconds = seconds
        self._context = context
        self._protocol: h11.Connection | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> AdminApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def request(
        self, method: str, path: str, payload: Mapping[str, object] | None = None
    ) -> Answer:
        """One exchange.  Raises Unreachable; the connection is then closed."""
        # In ASCII, so that a lone surrogate goes out as the escape it came as: kumod refuses it.
        body = b"" if payload is None else json.dumps(payload).encode("ascii")
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(self._request(method, path, body), body)
        except TimeoutError as error:
            await self.disconnect()
            raise Unreachable(f"no answer within {self._seconds:g} seconds") from error
        except (OSError, h11.ProtocolError) as error:
            await self.disconnect()
            raise Unreachable(str(error) or type(error).__name__) from error
        except BaseException:
            # Cancelled halfway: what comes next on this connection is anybody's guess.
            await self.disconnect()
            raise

    def _request(self, method: str, path: str, body: bytes) -> h11.Request:
        headers = [
            ("Host", self._address.authority),
            ("User-Agent", "tsa-sidecar"),
            ("Accept", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        if body:
            headers.append(("Content-Type", "application/json"))
        if self._address.authorization is not None:
            headers.append(("Authorization", self._address.authorization))
        return h11.Request(method=method, target=self._address.prefix + path, headers=headers)

    async def _exchange(self, request: h11.Request, body: bytes) -> Answer:
        protocol, reader, writer = await self._connect()
        head = protocol.send(request) or b""
        data = protocol.send(h11.Data(data=body)) or b"" if body else b""
        end = protocol.send(h11.EndOfMessage()) or b""
        writer.write(head + data + end)
        await writer.drain()
        answer = await _read_answer(protocol, reader)
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
        else:
            await self.disconnect()
        return answer

    async def _connect(
        self,
    ) -> tuple[h11.Connection, asyncio.StreamReader, asyncio.StreamWriter]:
        if self._protocol is None or self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                self._address.host, self._address.port, ssl=self._context
            )
            self._protocol = h11.Connection(h11.CLIENT)
        return self._protocol, self._reader, self._writer

    async def disconnect(self) -> None:
        """Close the connection; the next request opens another."""
        writer, self._writer = self._writer, None
        self._protocol = self._reader = None
        if writer is not None:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read_answer(protocol: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    status, parts, size = 0, [], 0
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > _ANSWER_LIMIT:
                raise OSError(f"an answer of more than {_ANSWER_LIMIT} bytes")
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, b"".join(parts))
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the connection was closed before the answer")
