"""The listener: overlay, suspensions, bounces, metrics and the WebSocket upgrade.

In: snapshots and events from the service; requests from kumod, Prometheus and
people.  Out: answers in upstream's form (``tests/data/api``).

The server is ``http.server``'s threading one, with bounds:

- A connection from a host that is not trusted gets no thread.
- A request's head has a limit of time and size, however slowly it arrives.  A body
  is never read.
- When all threads are taken, the connection that has taken longest over its request
  or answer is ended.  So connections held open cost others nothing.
- One request is answered at a time, so that many of them leave the processor to the
  log.  Answers come from a snapshot that is replaced as a whole: no lock is held
  while bytes go out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sidecar.automation.overlay import Overlay
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.publish import page
from sidecar.publish.background import Background
from sidecar.publish.hosts import TrustedHosts, host_of, is_ours, numeric, same_origin
from sidecar.publish.metrics import Measured, Metrics
from sidecar.publish.resource import HTML, JSON, TEXT, Resource, accepts_gzip, etag_matches
from sidecar.publish.snapshot import Snapshot
from sidecar.publish.websocket import BadHandshake, SubscriberLimits, Subscribers, accept
from sidecar.settings import LOOPBACK, Address, Network

OVERLAY_PATH = "/get_config_v1/shaping.toml"
SUSPENDED_PATH = "/get_suspension_v1/suspended.json"
BOUNCED_PATH = "/get_bounce_v1/bounced.json"
ALIVE_PATH = "/tsa/status"
METRICS_PATH = "/metrics"
STATUS_PATH = "/tsa/sidecar/status"
PAGE_PATH = "/"
PAGE_DATA_PATH = "/tsa/sidecar/page.json"
EVENTS_PATH = "/subscribe_event_v1"
LEGACY_EVENTS_PATH = "/subscribe_suspension_v1"
PUBLISH_LOG_PATH = "/publish_log_v1"

_PUBLISH_LOG_TEXT = (
    "This is tsa-sidecar. It reads kumod's log files and takes no log records over HTTP. "
    "In shaping:setup_with_automation the setting is: publish = {}\n"
)
_NOT_OUR_NAME = (
    "this is not a name of the sidecar's. Use its address instead; or, if it is the name in "
    "kumod's subscribe, allow it with --allowed-host or TSA_SIDECAR_ALLOWED_HOSTS"
)
_NOT_OUR_PAGE = (
    "pages of other sites may not ask the sidecar. Open its own page, or ask without an Origin"
)
_SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
# RFC 9112, section 5, without folded lines.  The standard library overlooks all fields that
# follow a line that is none, and one of them may say that there is a body.
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r?\n)*\r?\n")
_STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost.

    ``connections``: how many, each with a thread.  ``head_seconds``: until a request's
    head has arrived, or an idle connection asks again.  ``answer_seconds``: until the
    client has taken an answer.  ``head_bytes``: of the request line and the headers.
    ``grace_seconds``: no connection is ended for another before that;
    ``head_grace_seconds``: the same while its request has not arrived.
    """

    connections: int = 64
    head_seconds: float = 5.0
    answer_seconds: float = 10.0
    head_bytes: int = 16 * 1024
    grace_seconds: float = 0.25
    head_grace_seconds: float = 0.02
    subscribers: SubscriberLimits = field(default_factory=SubscriberLimits)


def _ignore_problem(_problem: Problem) -> None:
    pass


class Endpoint:
    """The listener.

    ``listen``: where; port 0 takes a free one (see ``address``).  ``trusted``: who gets
    answers.  ``names``: the host names that requests may call us by, besides the one to
    listen on.  Raises ProblemError where the name to listen on has no address.
    """

    def __init__(
        self,
        listen: Address,
        *,
        trusted: Iterable[Network] = LOOPBACK,
        names: Iterable[str] = (),
        metrics: Metrics | None = None,
        limits: Limits | None = None,
        on_problem: Callable[[Problem], None] = _ignore_problem,
    ) -> None:
        metrics = metrics if metrics is not None else Metrics.create()
        limits = limits if limits is not None else Limits()
        background = Background(on_problem)
        self._listen = numeric(listen)
        self._shared = _Shared(
            trusted=TrustedHosts(trusted),
            names=frozenset(name.lower() for name in (*names, listen.host)),
            limits=limits,
            metrics=metrics,
            measured=Measured(metrics),
            background=background,
            subscribers=Subscribers(background, limits=limits.subscribers, metrics=metrics),
            on_problem=on_problem,
            resources={**_resources(_NOTHING_YET), **_page()},
        )
        self._server: _Server | None = None

    @property
    def address(self) -> Address:
        """Where it listens: after the start with the real port."""
        if self._server is None:
            return self._listen
        return Address(self._listen.host, self._server.server_port)

    @property
    def url(self) -> str:
        """What goes into kumod's ``subscribe``."""
        return f"http://{self.address}"

    def start(self) -> None:
        """Listen and serve, in threads.  Raises ProblemError when the address is taken."""
        server = _Server(self._listen, self._shared)
        try:
            server.server_bind()
            server.server_activate()
        except OSError as error:
            server.server_close()
            raise _cannot_listen(self._listen, error) from error
        self._server = server
        self._shared.background.start()
        self._accepting = threading.Thread(
            target=server.serve_forever,
            # Seconds between two looks whether to stop.  stop() wakes it earlier, if it can.
            kwargs={"poll_interval": 5},
            name="publish-accept",
            daemon=True,
        )
        self._accepting.start()

    def publish(self, snapshot: Snapshot, events: Sequence[str] = ()) -> None:
        """Answer from `snapshot` from now on, and send `events` to the subscribers.

        A client that subscribes at this moment gets each of `events` once: as an entry
        in force, or as an event.  Does not block.
        """
        self._serve(_resources(snapshot))
        self._shared.subscribers.publish(snapshot.frames, events)

    def set_status(self, status: bytes) -> None:
        """Answer with this status document until the next call or snapshot."""
        self._serve({STATUS_PATH: Resource(JSON, lambda: status)})

    def set_page_data(self, make: Callable[[], bytes]) -> None:
        """Serve what `make` returns as the page's data.  A thread calls it when it is asked for."""
        self._serve({PAGE_DATA_PATH: Resource(JSON, make)})

    def _serve(self, new: Mapping[str, Resource]) -> None:
        self._shared.resources = {**self._shared.resources, **new}

    def stop(self) -> None:
        """Close the listener and end all connections within seconds (subscribers with 1001)."""
        if self._server is None:
            return
        with contextlib.suppress(OSError):
            # This wakes the accepting thread.
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._accepting.join()
        self._server.server_close()
        self._server.end_connections(_STOP_SECONDS)
        self._shared.subscribers.close()
        self._shared.background.stop(seconds=_STOP_SECONDS)
        self._server = None

    def __enter__(self) -> Endpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _cannot_listen(listen: Address, error: OSError) -> ProblemError:
    if error.errno == errno.EADDRINUSE:
        reason = (
            "another program listens there (kumo-tsa-daemon, or another tsa-sidecar?); "
            "stop it, or choose another address with --listen"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "this host has no such address"
    else:
        reason = error.strerror or str(error)
    return ProblemError.one("cannot-listen", f"can't listen on {listen}: {reason}", where="listen")


def _resources(snapshot: Snapshot) -> Mapping[str, Resource]:
    return {
        OVERLAY_PATH: Resource(TEXT, snapshot.overlay.encode),
        SUSPENDED_PATH: Resource(JSON, lambda: snapshot.suspended),
        BOUNCED_PATH: Resource(JSON, lambda: snapshot.bounced),
        STATUS_PATH: Resource(JSON, lambda: snapshot.status),
        ALIVE_PATH: Resource(TEXT, lambda: b"TSA Daemon OK"),
    }


def _page() -> Mapping[str, Resource]:
    html = page.html()
    headers = (("Content-Security-Policy", page.policy(html)), ("Referrer-Policy", "no-referrer"))
    return {
        PAGE_PATH: Resource(HTML, lambda: html, headers=headers),
        PAGE_DATA_PATH: Resource(JSON, lambda: b"{}"),
    }


_NOTHING_YET = Snapshot.build(overlay=Overlay().text())


@dataclass(slots=True)
class _Shared:
    """What all connections share.

    ``resources``: what is answered now.  One thread replaces them as a whole, others
    read them.  ``turn``: held by the one request that is being answered.
    """

    trusted: TrustedHosts
    names: frozenset[str]
    limits: Limits
    metrics: Metrics
    measured: Measured
    background: Background
    subscribers: Subscribers
    on_problem: Callable[[Problem], None]
    resources: Mapping[str, Resource]
    turn: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Open:
    """A connection with a thread.

    ``since``: when its present request or answer began; ``asked``: whether the request
    has arrived.
    """

    connection: socket.socket
    since: float
    asked: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, listen: Address, shared: _Shared) -> None:
        self.address_family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        super().__init__((listen.host, listen.port), _Handler, bind_and_activate=False)
        self.shared = shared
        self._changed = threading.Condition()
        self._open: dict[int, _Open] = {}

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer's, this asks no name server who we are."""
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept.  Without free descriptors, pause: the listener stays readable, and would spin."""
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)
            raise

    # -- connections: who gets a thread ---------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, unless its peer is not trusted or all are taken."""
        if client_address[0] not in self.shared.trusted:
            text = f"{client_address[0]} is not among this sidecar's trusted_hosts\n"
            self._refuse(request, HTTPStatus.FORBIDDEN, text, "untrusted")
        elif not self._admit(request):
            text = "too many connections at a time\n"
            self._refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, text, "busy")
        else:
            super().process_request(request, client_address)

    def _refuse(
        self, connection: socket.socket, status: HTTPStatus, text: str, reason: str
    ) -> None:
        self.shared.metrics.http_refused.labels(reason).inc()
        body = text.encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {TEXT}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.shared.background.farewell(connection, head.encode() + body)

    def _admit(self, connection: socket.socket) -> bool:
        now = time.monotonic()
        with self._changed:
            if len(self._open) >= self.shared.limits.connections and not self._end_slowest(now):
                return False
            self._open[id(connection)] = _Open(connection, now)
        return True

    def _end_slowest(self, now: float) -> bool:
        """Make room: end the oldest that has not asked yet, or the one with the oldest answer."""
        key, slowest = min(self._open.items(), key=lambda item: (item[1].asked, item[1].since))
        if now - slowest.since < self._grace(slowest):
            key, slowest = min(self._open.items(), key=lambda item: item[1].since)
            if now - slowest.since < self._grace(slowest):
                return False
        with contextlib.suppress(OSError):
            slowest.connection.shutdown(socket.SHUT_RDWR)
        del self._open[key]  # its thread sees the end of its connection at once
        return True

    def _grace(self, entry: _Open) -> float:
        limits = self.shared.limits
        return limits.grace_seconds if entry.asked else limits.head_grace_seconds

    def touch(self, connection: socket.socket, *, asked: bool) -> None:
        """Note that a request begins on `connection` or, with `asked`, its answer."""
        entry = self._open.get(id(connection))
        if entry is not None:
            entry.since, entry.asked = time.monotonic(), asked

    def take(self, connection: socket.socket) -> socket.socket | None:
        """Take the connection from its thread; None where it was ended meanwhile."""
        with self._changed:
            if self._open.pop(id(connection), None) is None:
                return None
            self._changed.notify_all()
            return socket.socket(fileno=connection.detach())

    def shutdown_request(self, request: Any) -> None:
        """Close, when its thread is done with it."""
        with self._changed:
            # Under the lock: else _end_slowest could end another's connection by an old descriptor.
            self._open.pop(id(request), None)
            super().shutdown_request(request)
            self._changed.notify_all()

    def end_connections(self, seconds: float) -> None:
        """End all, and wait for their threads, `seconds` at most."""
        with self._changed:
            for entry in self._open.values():
                with contextlib.suppress(OSError):
                    entry.connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a request that failed by our fault, without a traceback."""
        error = sys.exception()
        if not isinstance(error, OSError):  # those are the peer's: gone, reset, too slow
            message = f"a request from {client_address[0]} failed: {error!r}"
            self.shared.on_problem(Problem("error", "http-request", message))


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests in, answers out."""

    server: _Server
    protocol_version = "HTTP/1.1"
    # A request line without a version is refused, which needs a version to answer in.
    default_request_version = "HTTP/1.0"

    def setup(self) -> None:
        """No files over the socket: they would block past any deadline."""
        self.connection = self.request
        self._shared = self.server.shared
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._unread_body = False
        self._outgoing: tuple[bytes, bytes] | None = None
        self.wfile = self._head = io.BytesIO()

    def finish(self) -> None:
        """Nothing is left to flush."""

    def handle(self) -> None:
        """Requests until the connection ends."""
        with contextlib.suppress(OSError):
            self.close_connection = False
            while not self.close_connection:
                self.handle_one_request()

    def handle_one_request(self) -> None:
        """One request and its answer."""
        self.server.touch(self.connection, asked=False)
        self.close_connection = True
        self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
        self._outgoing = None
        head = self._read_head()
        if head is not None:
            with self._shared.turn:
                self._take_up(head)
        if self._outgoing is not None:
            self._transmit(*self._outgoing)

    def _take_up(self, head: bytes) -> None:
        """Make the answer, or pass the connection to the subscribers."""
        line, _, fields = head.partition(b"\n")
        self.raw_requestline = line.strip()
        if len(self.raw_requestline.split()) != 3:
            # Also HTTP/0.9, whose answers have no status to refuse with.
            self.send_error(HTTPStatus.BAD_REQUEST, "the request line is not HTTP/1.x")
            return
        if _FIELDS.fullmatch(fields) is None:
            self.send_error(HTTPStatus.BAD_REQUEST, "the header is not HTTP/1.x")
            return
        self.rfile = io.BytesIO(fields)
        if self.parse_request():
            self.server.touch(self.connection, asked=True)
            self._answer()

    def handle_expect_100(self) -> bool:
        """Ask for no body: the final answer follows."""
        return True

    # -- in -------------------------------------------------------------------

    def _read_head(self) -> bytes | None:
        """The request line and the headers; None when none came (a refusal is then prepared)."""
        deadline = time.monotonic() + self._shared.limits.head_seconds
        # RFC 9112, section 2.2: empty lines before a request are to be ignored.
        buffer = self._received.lstrip(b"\r\n")
        searched = 0
        while (end := _HEAD_END.search(buffer, max(0, searched - 3))) is None:
            searched = len(buffer)
            if searched > self._shared.limits.head_bytes:
                break
            left = deadline - time.monotonic()
            try:
                data = self._receive(left)
            except TimeoutError:
                if buffer:
                    self._refuse_head(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
                return None
            if not data:
                return None
            buffer = (buffer + data).lstrip(b"\r\n") if not buffer else buffer + data
        if end is None or end.end() > self._shared.limits.head_bytes:
            self._refuse_head(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too long a head")
            return None
        self._received = buffer[end.end() :]
        return buffer[: end.end()]

    def _receive(self, seconds: float) -> bytes:
        if seconds <= 0:
            raise TimeoutError
        self.connection.settimeout(seconds)
        return bytes(self.connection.recv(8192))

    def _refuse_head(self, status: HTTPStatus, text: str) -> None:
        self._unread_body = True
        self.send_error(status, text)

    # -- what is asked --------------------------------------------------------

    def _answer(self) -> None:
        lengths = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers or any(length != "0" for length in lengths):
            self._unread_body = True
        if self._is_misled():
            return
        path = _path(self.path)
        if path in (EVENTS_PATH, LEGACY_EVENTS_PATH):
            self._subscribe(path)
        elif path == PUBLISH_LOG_PATH:
            # An empty Allow: there is no method that would do (RFC 9110, section 10.2.1).
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, _PUBLISH_LOG_TEXT, ("Allow", ""))
        elif path == METRICS_PATH:
            self._serve(self._shared.measured.resource())
        elif (known := self._shared.resources.get(path)) is not None:
            self._serve(known)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", None)

    def _is_misled(self) -> bool:
        """Refuse, and return True for, what a page of another site has a browser send."""
        hosts = self.headers.get_all("Host", [])
        host = host_of(hosts[0]) if len(hosts) == 1 else None
        if hosts and host is None:
            self.send_error(HTTPStatus.BAD_REQUEST, "the Host is not NAME or NAME:PORT")
            return True
        if host is not None and not is_ours(host, self._shared.names):
            self._refuse("host", _NOT_OUR_NAME, host)
            return True
        origins = self.headers.get_all("Origin", [])
        if not all(same_origin(origin, hosts[0] if hosts else None) for origin in origins):
            self._refuse("origin", _NOT_OUR_PAGE, ", ".join(origins))
            return True
        return False

    def _refuse(self, reason: str, text: str, found: str) -> None:
        self._shared.metrics.http_refused.labels(reason).inc()
        problem = Problem("warning", f"http-{reason}", text, where=found[:100])
        self._shared.on_problem(problem)
        self._say(HTTPStatus.FORBIDDEN, f"{one_line(str(problem))}\n")

    def _serve(self, resource: Resource) -> None:
        if self.command not in ("GET", "HEAD"):
            text = f"{self.command} is not for this path\n"
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, text, ("Allow", "GET, HEAD"))
            return
        zipped = accepts_gzip(self.headers.get("Accept-Encoding"))
        form = resource.representation(zipped=zipped)
        headers = [("ETag", form.etag), ("Vary", "Accept-Encoding")]
        if etag_matches(self.headers.get("If-None-Match"), form.etag):
            self._send(HTTPStatus.NOT_MODIFIED, None, None, *headers)
            return
        if form.encoding is not None:
            headers.append(("Content-Encoding", form.encoding))
        self._send(HTTPStatus.OK, form.body, resource.content_type, *headers, *resource.headers)

    def _subscribe(self, path: str) -> None:
        if self.command != "GET":
            text = f"{self.command} is not for this path\n"
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, text, ("Allow", "GET"))
            return
        if self.headers.get("Upgrade") is None:
            text = "this path speaks WebSocket\n"
            upgrade = (("Upgrade", "websocket"), ("Connection", "Upgrade, close"))
            self._say(HTTPStatus.UPGRADE_REQUIRED, text, *upgrade)
            return
        host = str(self.client_address[0])
        if not self._shared.subscribers.has_room(host):
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "too many subscribers\n")
            return
        try:
            if self.request_version != "HTTP/1.1" or self._unread_body:
                raise BadHandshake(400, "a WebSocket handshake is an HTTP/1.1 GET without a body")
            answer, connection = accept(self.path, self.headers.items())
        except BadHandshake as bad:
            self._say(HTTPStatus(bad.status), f"{bad}\n", *bad.headers)
            return
        self.close_connection = True
        peer = self.server.take(self.connection)
        if peer is None:
            return
        connection.receive_data(self._received)
        self._shared.metrics.http_requests.labels("101").inc()
        if not self._shared.subscribers.join(
            peer, answer, connection, host=host, legacy=path == LEGACY_EVENTS_PATH
        ):
            peer.close()

    # -- out ------------------------------------------------------------------

    def _say(self, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
        self._send(status, text.encode(), TEXT, *headers)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes | None,
        content_type: str | None,
        *headers: tuple[str, str],
    ) -> None:
        """Prepare head and body; None: an answer without any body."""
        self._shared.metrics.http_requests.labels(str(status.value)).inc()
        self.send_response(status)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        for name, value in (*headers, *_SECURITY):
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        if self._unread_body:
            self.close_connection = True
        if self.close_connection and not any(name == "Connection" for name, _ in headers):
            self.send_header("Connection", "close")
        self.end_headers()
        head = self._head.getvalue()
        self.wfile = self._head = io.BytesIO()
        self._outgoing = head, b"" if body is None or self.command == "HEAD" else body

    def _transmit(self, head: bytes, body: bytes) -> None:
        """Send both in `answer_seconds`."""
        if self._unread_body and (peer := self.server.take(self.connection)) is not None:
            self._shared.background.farewell(peer, head + body)
            return
        deadline = time.monotonic() + self._shared.limits.answer_seconds
        # Small answers in one packet, large ones without a copy.
        parts = [head + body] if len(body) < 65536 else [head, body]
        for part in parts:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.connection.settimeout(left)  # for the whole of sendall
            self.connection.sendall(part)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """An error in plain text."""
        self._unread_body = True
        status = HTTPStatus(code)
        self._say(status, f"{message or status.phrase}\n")

    def version_string(self) -> str:
        """The Server header: who, not which version."""
        return "tsa-sidecar"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged."""


def _path(target: str) -> str:
    """The path of a request target, origin form or absolute form, without its query."""
    if target[:7].lower() == "http://":
        target = "/" + target[7:].partition("/")[2]
    return target.partition("?")[0].partition("#")[0]
