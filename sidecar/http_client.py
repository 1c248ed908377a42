"""The one HTTP client: kumod's admin API, shaping files and policies that come by URL.

In: a method, a URL, and what an answer may cost in time and bytes.  Out: an
:class:`Answer` that came whole, or :class:`Unreachable`.  Certificates are
verified with the system's list; ``SSL_CERT_FILE`` names another.

The exchange itself is httpcore's.  Import this module where it is used: it takes
30 ms and 4 MB.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpcore

from .look_up import addresses

_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    OSError,
    ValueError,
)
_REDIRECTS = (301, 302, 303, 307, 308)


class Unreachable(Exception):  # noqa: N818 - a state of the world, met often
    """No whole answer in time: nobody there, too slow, too long, cut short, not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, the body, the headers (names in lower case).

    ``whole``: the server said how long the body is, and all of it came.  Without that
    a body that was cut short looks like a whole one.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True

    @property
    def text(self) -> str:
        """What an error says, shortened for a log line."""
        return " ".join(self.body[:500].decode("utf-8", "replace").split())[:200]


LookUp = Callable[[str, int], Awaitable[list[str]]]
"""Host and port in, addresses out; OSError where it has none."""


class HttpClient:
    """Asks, and keeps its connection between requests; use it as a context.

    `seconds`: for one exchange, from the look-up of the host's name to the last
    byte.  `largest`: bytes of an answer's body.  `proxy`: where one is to be used.
    `tls`: whom to trust, if not whom the system trusts.  `look_up`: who tells
    a host's addresses, if not the system.
    """

    def __init__(
        self,
        *,
        seconds: float,
        largest: int,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        look_up: LookUp | None = None,
    ) -> None:
        self._seconds = seconds
        self._largest = largest
        self._proxy = proxy
        self._tls = tls
        self._network = _Network(look_up or addresses)
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, url: str) -> httpcore.AsyncConnectionPool:
        """The connection for `url`: to load the system's certificates for http takes 40 ms."""
        plain = url[:5].lower() == "http:"
        if plain not in self._pools:
            self._pools[plain] = httpcore.AsyncConnectionPool(
                ssl_context=None if plain else self._tls or ssl.create_default_context(),
                proxy=None if self._proxy is None else httpcore.Proxy(self._proxy),
                max_connections=1,
                network_backend=self._network,
            )
        return self._pools[plain]

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One exchange, whatever the status; redirects are not followed.  Raises Unreachable."""
        sent = {"User-Agent": "tsa-sidecar", "Accept-Encoding": "identity", **(headers or {})}
        try:
            target = url.encode("ascii")
            async with (
                asyncio.timeout(self._seconds),
                self._pool(url).stream(
                    method, target, headers=list(sent.items()), content=body
                ) as answer,
            ):
                return await self._read(answer)
        except TimeoutError:
            await self._network.drop()
            raise Unreachable(f"no answer within {self._seconds:g} seconds") from None
        except _ERRORS as error:
            raise Unreachable(_why(error)) from error
        except asyncio.CancelledError:
            await self._network.drop()
            raise

    async def _read(self, answer: httpcore.Response) -> Answer:
        data = bytearray()
        async for part in answer.aiter_stream():
            data += part
            if len(data) > self._largest:
                raise Unreachable(f"an answer larger than {_size(self._largest)}")
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in answer.headers}
        told = "content-length" in headers or "transfer-encoding" in headers
        return Answer(answer.status, bytes(data), headers, told or answer.status in (204, 304))


async def get(
    url: str,
    *,
    seconds: float,
    largest: int,
    redirects: int = 0,
    use_proxy: bool = False,
) -> Answer:
    """The answer to a GET of `url`, after at most so many `redirects`.

    A redirect from https to http is not followed.  `use_proxy`: by way of the
    proxy that ``http_proxy`` and its like name.  Raises Unreachable.
    """
    try:
        async with asyncio.timeout(seconds):
            for _ in range(redirects + 1):
                proxy = _proxy(url) if use_proxy else None
                async with HttpClient(seconds=seconds, largest=largest, proxy=proxy) as client:
                    answer = await client.request("GET", url, headers={"Accept": "*/*"})
                place = answer.headers.get("location")
                if redirects == 0 or answer.status not in _REDIRECTS or place is None:
                    return answer
                url = _redirected(url, place)
    except TimeoutError:
        raise Unreachable(f"no answer within {seconds:g} seconds") from None
    except ValueError as error:
        raise Unreachable(str(error)) from None
    raise Unreachable(f"more than {redirects} redirects")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def _redirected(url: str, place: str) -> str:
    target = urljoin(url, place)
    if not target.startswith(("https://", "http://")):
        raise Unreachable(f"a redirect to {target!r}, which is not http")
    if url.startswith("https://") and not target.startswith("https://"):
        raise Unreachable(f"a redirect from https to {target!r}")
    return target


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`, if any."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - as long as the rest

    scheme, _, rest = url.partition("://")
    if proxy_bypass(rest.partition("/")[0]):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")


def _why(error: BaseException) -> str:
    """What went wrong in the words of the layer that knows."""
    inner = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError) and inner.errno:
        return os.strerror(inner.errno) if inner.errno > 0 else str(inner.strerror)
    return str(inner) or str(error) or type(error).__name__


class _Network(httpcore.AnyIOBackend):
    """Looks up names in threads that the end of the process does not wait for.

    The event loop's own look-up would hold up the end while a name server is silent.
    """

    def __init__(self, look_up: LookUp) -> None:
        super().__init__()
        self._look_up = look_up
        self._latest: httpcore.AsyncNetworkStream | None = None

    async def drop(self) -> None:
        """Close the latest connection: httpcore leaves it open when its TLS handshake is cut."""
        if self._latest is not None:
            await self._latest.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: httpcore.ConnectError | None = None
        for address in await self._look_up(host, port):
            try:
                self._latest = await super().connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
                return self._latest
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")
