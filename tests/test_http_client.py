"""Whatever a server does, a request ends in time, in an answer that is whole or in a reason."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.http_client import Answer, HttpClient, Unreachable, get

DATA = Path(__file__).parent / "data/tls"
Serve = Callable[[socket.socket], None]


@dataclass
class Server:
    """Answers each connection, one after the other, with the next of `answers`."""

    url: str
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def serving(*answers: bytes | Serve, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}")
        thread = threading.Thread(target=_serve, args=(listener, answers, server, tls))
        thread.start()
        yield server
        # Those that nobody asked for are not waited for.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(
    listener: socket.socket,
    answers: Sequence[bytes | Serve],
    server: Server,
    tls: ssl.SSLContext | None,
) -> None:
    for answer in answers:
        with suppress(OSError):
            plain, _ = listener.accept()
            with plain if tls is None else tls.wrap_socket(plain, server_side=True) as connection:
                server.requests.append(connection.recv(65536))
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)


def asked(url: str, *, seconds: float = 5.0, largest: int = 1000, redirects: int = 0) -> Answer:
    return asyncio.run(get(url, seconds=seconds, largest=largest, redirects=redirects))


def refusal(
    *answers: bytes | Serve, seconds: float = 5.0, redirects: int = 0, tls: Any = None
) -> str:
    """Why there is no answer from a server that serves `answers`."""
    with serving(*answers, tls=tls) as server, pytest.raises(Unreachable) as caught:
        asked(server.url, seconds=seconds, redirects=redirects)
    return str(caught.value)


def with_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    return context


def body(text: bytes, *, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n{more}\r\n"
    return head.encode() + text


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"


@pytest.mark.parametrize("answer", [body(b"abcd"), CHUNKED + b"0\r\n\r\n"])
def test_a_whole_answer_comes_with_its_status(answer: bytes) -> None:
    with serving(answer) as server:
        found = asked(server.url + "/a?b")
    assert (found.status, found.body, found.whole) == (200, b"abcd", True)
    assert server.requests[0].startswith(b"GET /a?b HTTP/1.1\r\n")


@pytest.mark.parametrize("answer", [body(b"abcd")[:-1], CHUNKED, CHUNKED + b"4\r\nab", b"HTT", b""])
def test_an_answer_cut_short_is_none(answer: bytes) -> None:
    assert refusal(answer)


def test_an_answer_of_unknown_length_says_so() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n\r\nabcd") as server:
        found = asked(server.url)
    assert (found.body, found.whole) == (b"abcd", False)


@pytest.mark.parametrize("answer", [body(b"x" * 1001), CHUNKED * 1 + b"3e8\r\n" + b"x" * 1000])
def test_a_body_is_bounded_in_size(answer: bytes) -> None:
    assert "larger than" in refusal(answer)


def test_headers_are_bounded_in_size() -> None:
    assert refusal(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000)


def _drip(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(1000):
            connection.sendall(b"x: y\r\n")
            time.sleep(0.02)


def _silent(connection: socket.socket) -> None:
    connection.recv(1)  # until the client gives up


@pytest.mark.parametrize("serve", [_drip, _silent])
def test_one_deadline_bounds_the_whole_exchange(serve: Serve) -> None:
    assert refusal(serve, seconds=0.3) == "no answer within 0.3 seconds"


def test_a_connection_whose_tls_handshake_gets_no_answer_is_closed() -> None:
    last: list[bytes] = []
    served = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.settimeout(60)
        with suppress(OSError):
            last.append(connection.recv(1))  # b"" once the client has closed
        served.set()

    async def ask(url: str) -> None:
        async with HttpClient(seconds=0.3, largest=1000) as client:
            with pytest.raises(Unreachable, match="no answer within"):
                await client.request("GET", url.replace("http:", "https:"))
            assert await asyncio.to_thread(served.wait, 60)  # with the client still in use

    with serving(silent) as server:
        asyncio.run(ask(server.url))
    assert last == [b""]


def test_the_deadline_bounds_all_redirects_together() -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(body(b"", status="302 Found", more="Location: /again\r\n"))

    assert "no answer within" in refusal(*[slow] * 9, seconds=0.5, redirects=9)


def redirect(place: str) -> bytes:
    return body(b"", status="302 Found", more=f"Location: {place}\r\n")


def test_redirects_are_followed_only_where_asked_for_and_only_so_many() -> None:
    with serving(redirect("/next"), body(b"there")) as server:
        assert asked(server.url, redirects=1).body == b"there"
        assert server.requests[1].startswith(b"GET /next ")
    with serving(redirect("/next")) as server:
        assert asked(server.url).status == 302
    assert refusal(*[redirect("/next")] * 3, redirects=2) == "more than 2 redirects"


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://x/", "http://[", "http://a:b/"])
def test_a_redirect_to_what_is_not_http_is_refused(place: str) -> None:
    assert refusal(redirect(place), redirects=3)


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "http://[", "http://a b/", "http://x:99999/", "http://\u00e9/"]
)
def test_a_url_that_leads_nowhere_is_told(url: str) -> None:
    with pytest.raises(Unreachable):
        asked(url)


def test_a_refused_connection_is_told_in_the_systems_words() -> None:
    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        asked("http://127.0.0.1:1/")


def test_a_certificate_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "certificate verify failed" in refusal(body(b"x"), tls=with_tls())
    monkeypatch.setenv("SSL_CERT_FILE", str(DATA / "cert.pem"))
    with serving(body(b"x"), tls=with_tls()) as server:
        assert asked(server.url).body == b"x"


def test_https_is_not_given_up_by_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(DATA / "cert.pem"))
    why = refusal(redirect("http://127.0.0.1:1/"), tls=with_tls(), redirects=3)
    assert "a redirect from https" in why


def test_a_name_server_that_is_silent_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        ending.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within"):
        asked("http://slow.example/", seconds=0.2)  # asyncio.run waits for its own look-ups
    assert time.monotonic() - began < 10
    ending.set()


def test_requests_share_a_connection() -> None:
    def twice(connection: socket.socket) -> None:
        connection.sendall(body(b"one"))
        connection.recv(65536)
        connection.sendall(body(b"two"))

    async def go(url: str) -> list[bytes]:
        async with HttpClient(seconds=5, largest=1000) as client:
            return [(await client.request("GET", url)).body for _ in range(2)]

    with serving(twice) as server:
        assert asyncio.run(go(server.url)) == [b"one", b"two"]


def test_a_proxy_of_the_environment_is_used_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(body(b"by proxy")) as server:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        answer = asyncio.run(get("http://rules.example/a", seconds=5, largest=1000, use_proxy=True))
        assert answer.body == b"by proxy"
        assert server.requests[0].startswith(b"GET http://rules.example/a ")
