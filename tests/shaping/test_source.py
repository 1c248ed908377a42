"""Where shaping files come from: disks and web servers, good and bad."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sidecar.problems import ProblemError
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.shaping.source import LARGEST

from .shared import load_names, write

TOML = "[default]\nmax_ready = 7\n"
JSON = '{"default": {"max_ready": 7}}'


class WebServer(ThreadingHTTPServer):
    """Serves ``body`` with ``status`` at every path; ``drip`` seconds between its bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body = TOML.encode()
        self.drip = 0.0
        self.stopping = threading.Event()

    def url(self, name: str = "shaping.toml") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if not self.server.drip:
            self.wfile.write(self.server.body)
            return
        for byte in self.server.body:
            if self.server.stopping.wait(self.server.drip):
                return
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is its own."""


@contextmanager
def serving() -> Iterator[WebServer]:
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def fetch(
    *names: str, copies: dict[str, str] | None = None, options: MergeOptions | None = None
) -> Shaping:
    return asyncio.run(
        load_shaping(
            names,
            options=options or MergeOptions(remote_load="Warn"),
            resolver=OfflineResolver(),
            copies=copies,
        )
    )


def ready(shaping: Shaping) -> object:
    return None if shaping.default is None else shaping.default.options["max_ready"].value


# Local files


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.toml", TOML), ("a.json", JSON), ("rules", TOML), ("rules", JSON), ("a.TOML", JSON)],
)
def test_the_ending_says_the_format_and_else_both_are_tried(
    tmp_path: Path, name: str, text: str
) -> None:
    assert ready(load_names(write(tmp_path, {name: text}))) == 7


@pytest.mark.parametrize(("name", "text"), [("a.toml", JSON), ("a.json", TOML), ("a.json", "")])
def test_the_wrong_ending_fails_the_load(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ProblemError, match="not valid"):
        load_names(write(tmp_path, {name: text}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file or directory"),
        (b"[default]\nehlo_domain = '\xff'", "is not UTF-8 text: byte 0xff on line 2"),
        (b"#" * (LARGEST + 1), "is larger than 16 MiB"),
    ],
)
def test_a_file_that_cant_be_read_is_left_out(
    tmp_path: Path, data: bytes | None, reason: str
) -> None:
    names = write(tmp_path, {"bad.toml": data, "good.toml": TOML})
    shaping = load_names(names)
    (error,) = shaping.errors
    assert (error.code, error.level, error.file) == ("local-load", "error", names[0])
    assert reason in error.message
    assert ready(shaping) == 7
    warned = load_names(names, options=MergeOptions(local_load="Warn"))
    assert [p.level for p in warned.warnings] == ["warning"]
    ignored = load_names(names, options=MergeOptions(local_load="Ignore"))
    assert (ignored.errors, ignored.warnings) == ((), ())


def test_a_directory_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "dir.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    names = [str(tmp_path / "dir.toml"), str(tmp_path / "pipe.toml"), "a\0b.toml"]
    reasons = [p.message for p in load_names(names).errors]
    assert len(reasons) == 3
    assert "Is a directory" in reasons[0]
    assert "is no regular file" in reasons[1]
    assert "no file can have this name" in reasons[2]


def test_a_file_of_neither_format_is_left_out(tmp_path: Path) -> None:
    names = write(tmp_path, {"one": "[default", "two": '{"default": 5}', "good.toml": TOML})
    shaping = load_names(names)
    assert [(p.file, p.code, p.line) for p in shaping.errors] == [
        (names[0], "bad-toml", 1),
        (names[1], "not-a-table", 1),
    ]
    assert all("neither TOML nor JSON" in p.message for p in shaping.errors)
    assert ready(shaping) == 7


# URLs


def test_a_url_is_fetched_and_remembered() -> None:
    copies: dict[str, str] = {}
    with serving() as server:
        assert ready(fetch(server.url(), copies=copies)) == 7
        assert copies == {server.url(): TOML}


def test_the_last_good_copy_stands_in_with_a_warning() -> None:
    copies: dict[str, str] = {}
    with serving() as server:
        url = server.url()
        fetch(url, copies=copies)
        server.status, server.body = 500, b"[default]\nmax_ready = 8\n"
        shaping = fetch(url, copies=copies)
        assert ready(shaping) == 7
        (warning,) = shaping.warnings
        assert "the server answers 500" in warning.message
        assert "last good copy" in warning.message
    shaping = fetch(url, copies=copies, options=MergeOptions())
    assert ready(shaping) == 7
    assert "can't be fetched" in shaping.warnings[0].message


def test_without_a_copy_a_url_is_left_out() -> None:
    with serving() as server:
        server.status = 404
        shaping = fetch(server.url())
        assert ready(shaping) is None
        assert "the server answers 404" in shaping.warnings[0].message
        assert fetch(server.url(), options=MergeOptions()).warnings == ()
        errors = fetch(server.url(), options=MergeOptions(remote_load="Error")).errors
        assert [p.code for p in errors] == ["remote-load"]


@pytest.mark.parametrize("name", ["shaping.toml", "rules"])
@pytest.mark.parametrize("text", ["[default", "<html>busy</html>", "", "\n \n"])
def test_the_last_good_copy_stands_in_for_a_wrong_file_and_is_kept(name: str, text: str) -> None:
    with serving() as server:
        copies = {server.url(name): TOML}
        server.body = text.encode()
        shaping = fetch(server.url(name), copies=copies, options=MergeOptions())
        assert ready(shaping) == 7
        (problem,) = shaping.remote
        assert problem.level == "warning"
        assert "last good copy" in problem.message
        assert copies == {server.url(name): TOML}


def test_a_url_with_an_unknown_option_fails_the_load_and_keeps_the_copy() -> None:
    with serving() as server:
        server.body = b"[default]\nnope = 1\n"
        both: list[dict[str, str]] = [{}, {server.url(): TOML}]
        for copies in both:
            before = dict(copies)
            with pytest.raises(ProblemError, match="unknown option"):
                fetch(server.url(), copies=copies)
            assert copies == before


def test_a_copy_is_not_replaced_by_what_does_not_merge(tmp_path: Path) -> None:
    (other,) = write(tmp_path, {"other.toml": "[default]\nnope = 1\n"})
    with serving() as server:
        server.body = b"[default]\nmax_ready = 8\n"
        copies = {server.url(): TOML}
        with pytest.raises(ProblemError, match="unknown option"):
            fetch(server.url(), other, copies=copies)
        assert copies == {server.url(): TOML}


FIVE = "".join(f'["d{n}.example"]\nmx_rollup = false\nmax_ready = {n + 5}\n' for n in range(5))
CUT = FIVE[: FIVE.index('["d1')].encode()


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(FIVE)}\r\n\r\n".encode() + CUT,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(CUT), CUT),
        b"HTTP/1.0 200 OK\r\n\r\n" + CUT,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n%s" % (len(CUT), CUT),
        b"HTTP/1.1 302 Found\r\nLocation: /a.toml\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["length", "chunks", "unknown-length", "empty", "part", "redirected-for-ever"],
)  # fmt: skip
def test_a_file_cut_short_is_an_error_and_the_last_good_copy_stays(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        name = f"http://127.0.0.1:{listener.getsockname()[1]}/a.toml"
        copies = {name: FIVE}
        shaping = fetch(name, copies=copies, options=MergeOptions())
        assert (len(shaping.domains), copies) == (5, {name: FIVE})
        assert [p.level for p in shaping.remote] == ["warning"]
        shaping = fetch(name, copies={}, options=MergeOptions())
        assert (len(shaping.domains), shaping.warnings) == (0, ())
        # Told all the same, although remote_load is Ignore.
        (missing,) = shaping.remote
        assert (missing.level, missing.code) == ("error", "remote-missing")
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def test_a_url_without_an_ending_is_tried_as_both() -> None:
    with serving() as server:
        server.body = JSON.encode()
        assert ready(fetch(server.url("rules"))) == 7


def test_remote_files_can_be_skipped() -> None:
    shaping = fetch("http://127.0.0.1:1/a.toml", options=MergeOptions(skip_remote=True))
    (warning,) = shaping.warnings
    assert warning.code == "skip-remote"


@pytest.mark.parametrize("drip", [0.02, 60.0])
def test_a_slow_server_costs_the_timeout_and_no_more(drip: float) -> None:
    with serving() as server:
        server.drip, server.body = drip, b"#" * 100_000
        began = time.monotonic()
        shaping = fetch(server.url(), options=MergeOptions(remote_load="Warn", http_timeout=0.3))
        assert time.monotonic() - began < 30
        assert ready(shaping) is None
        assert shaping.warnings[0].code == "remote-load"


def test_a_server_that_drips_its_headers_holds_up_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        name = f"http://127.0.0.1:{listener.getsockname()[1]}/a.toml"
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.05):
                    connection.sendall(b"X-More: yes\r\n")

        server = threading.Thread(target=drip)
        server.start()
        began = time.monotonic()
        # The end of the event loop waits for the threads of its executor.
        shaping = fetch(name, options=MergeOptions(remote_load="Warn", http_timeout=0.3))
        assert time.monotonic() - began < 30
        stop.set()
        server.join()
    assert "no answer within 0.3 seconds" in shaping.warnings[0].message


def test_an_endless_or_undecodable_body_is_refused() -> None:
    with serving() as server:
        server.body = b"#" * (LARGEST + 1)
        assert "larger than" in fetch(server.url()).warnings[0].message
        server.body = b"\xff"
        assert "not UTF-8" in fetch(server.url()).warnings[0].message


@pytest.mark.parametrize(
    "url", ["http://", "http://[x/a.toml", "https://127.0.0.1:1/a", "http://a b/"]
)
def test_urls_that_lead_nowhere_are_told(url: str) -> None:
    shaping = fetch(url)
    assert [p.code for p in shaping.warnings] == ["remote-load"]
    assert shaping.warnings[0].file == url
