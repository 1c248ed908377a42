"""HTTP exchanges with kumod's admin API, one at a time over one connection.

In: a method, a path and a JSON object.  Out: status and body, or
:class:`Unreachable` when no usable answer comes in time.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from sidecar.http_client import Answer, HttpClient, Unreachable
from sidecar.problems import ProblemError

_VISIBLE = re.compile(r"[!-~]+")  # all that a request's line and headers can carry
_LARGEST = 64 * 1024 * 1024  # a list of some 200,000 entries


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where kumod's HTTP listener is: its URL without a password, and what goes in its place."""

    url: str
    authorization: str | None


def parse_api_url(url: str) -> ApiAddress:
    """``http://127.0.0.1:8000``, with https, ``user:password@`` or a path where there is one.

    Raises ProblemError when that is not what it is.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), None
    usable = parts.scheme in ("http", "https") and _VISIBLE.fullmatch(url.strip()) is not None
    if not usable or not host or parts.query or parts.fragment:
        raise ProblemError.one(
            "bad-kumod-api",
            "is not the URL of kumod's HTTP listener, such as http://127.0.0.1:8000",
            where="kumod API",
        )
    authority = parts.netloc.rpartition("@")[2]
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode("ascii")
    return ApiAddress(f"{parts.scheme}://{authority}{parts.path.rstrip('/')}", authorization)


class AdminApi:
    """A client that keeps its connection between requests; use it as a context."""

    def __init__(self, address: ApiAddress, *, seconds: float) -> None:
        """`seconds`: for one exchange, connecting included."""
        self._address = address
        self._client = HttpClient(seconds=seconds, largest=_LARGEST)

    async def __aenter__(self) -> AdminApi:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def request(
        self, method: str, path: str, payload: Mapping[str, object] | None = None
    ) -> Answer:
        """One exchange.  Raises Unreachable."""
        headers = {"Accept": "application/json"}
        if self._address.authorization is not None:
            headers["Authorization"] = self._address.authorization
        body = b""
        if payload is not None:
            # In ASCII, so that a lone surrogate goes out as the escape it came as: kumod
            # refuses it.
            body = json.dumps(payload).encode("ascii")
            headers["Content-Type"] = "application/json"
        return await self._client.request(
            method, self._address.url + path, headers=headers, body=body
        )


def read_json(answer: Answer) -> object:
    """The body as JSON; Unreachable when it is none (that is not kumod)."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"an answer that is not JSON: {answer.text!r}") from error
