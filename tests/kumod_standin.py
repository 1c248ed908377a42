"""A stand-in for kumod: its admin API, and the client that shaping.lua is.

Real sockets, HTTP and WebSocket.  The rules are those of the recorded exchanges
(``shared/api``) and of KumoMTA's documentation, written anew:

- a ready-queue suspension is keyed by the queue's name and replaced by the next;
- scheduled-queue suspensions and bounces have an id each; one with the same
  criteria replaces (``replaces_criteria``, as the newest versions do) or piles up;
- ``resolve-egress-path`` says what ``options`` holds; an older kumod has no such path;
- everything is in memory only; what has no criteria applies to everything, which
  the real one accepts and this one accepts and notes in ``disasters``;
- a suspension of a domain below ``.invalid`` is the client's own marker: kept and listed
  as any other, but in ``markers``, so that a test sees what it asked for by itself;
- a WebSocket ping or pong from the server breaks the subscriber.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from sidecar.times import NS, format_rfc3339, parse_rfc3339

READY_Q = "/api/admin/suspend-ready-q/v1"
SCHED_Q = "/api/admin/suspend/v1"
BOUNCE = "/api/admin/bounce/v1"
BUMP = "/api/admin/bump-config-epoch"
RESOLVE = "/api/admin/resolve-egress-path/v1"

_NAMES = {READY_Q: "suspend-ready-q", SCHED_Q: "suspend", BOUNCE: "bounce"}
_DEFAULT_NS = 300 * NS


@dataclass(slots=True)
class Held:
    """One suspension or bounce in force."""

    id: str
    path: str
    criteria: dict[str, str | None]
    reason: str
    expires_ns: int


@dataclass(slots=True)
class Seen:
    """A request that arrived, with its answer's status."""

    method: str
    path: str
    body: Any
    status: int
    at: float


class KumodState:
    """What kumod has in memory.  Thread-safe; `wait_for` waits for a change that satisfies."""

    def __init__(self, *, replaces_criteria: bool = True) -> None:
        self._replaces_criteria = replaces_criteria
        self._changed = threading.Condition()
        self.held: dict[str, Held] = {}
        self.markers: dict[str, Held] = {}
        self.epoch = 0
        self.resolves = True
        """Whether it is new enough to be asked what is in effect."""
        self.options: dict[tuple[str, str], dict[str, Any]] = {}
        """What its shaping files set for a (domain, source)."""
        self.seen: list[Seen] = []
        self.disasters: list[dict[str, Any]] = []

    def add(self, path: str, request: dict[str, Any]) -> str:
        """Suspend or bounce; returns the id.  KeyError names a missing field."""
        names = ("name",) if path == READY_Q else ("campaign", "tenant", "domain")
        criteria = {n: request.get(n) for n in names}
        if path == READY_Q and criteria["name"] is None:
            raise KeyError("name")
        reason = request["reason"]
        if request.get("expires") is not None:
            expires_ns = parse_rfc3339(request["expires"])
        else:
            expires_ns = time.time_ns() + _DEFAULT_NS
        with self._changed:
            if not any(criteria.values()):
                self.disasters.append(request)
            kept = self.markers if _is_marker(request) else self.held
            if path == READY_Q or self._replaces_criteria:
                for old in [h for h in kept.values() if h.path == path]:
                    if old.criteria == criteria:
                        del kept[old.id]
            held = Held(str(uuid.uuid4()), path, criteria, reason, expires_ns)
            kept[held.id] = held
            self._changed.notify_all()
        return held.id

    def remove(self, path: str, entry_id: str) -> bool:
        """Take back; False: not known."""
        with self._changed:
            kept = self.markers if entry_id in self.markers else self.held
            known = kept.get(entry_id)
            if known is None or known.path != path:
                return False
            del kept[entry_id]
            self._changed.notify_all()
            return True

    def listed(self, path: str) -> list[dict[str, Any]]:
        """As a GET answers."""
        now = time.time_ns()
        with self._changed:
            self.held = {i: h for i, h in self.held.items() if h.expires_ns > now}
            everything = [*self.held.values(), *self.markers.values()]
            mine = [h for h in everything if h.path == path]
        found = []
        for held in mine:
            entry: dict[str, Any] = {"id": held.id, **held.criteria, "reason": held.reason}
            entry["duration"] = humantime(held.expires_ns - now)
            if path == READY_Q:
                # The real one computes it from the duration, some nanoseconds later.
                entry["expires"] = format_rfc3339(held.expires_ns + 3373)
            elif path == BOUNCE:
                entry |= {"routing_domain": None, "bounced": {}, "total_bounced": 0}
            found.append(entry)
        return found

    def bump(self) -> None:
        """A new configuration epoch."""
        with self._changed:
            self.epoch += 1
            self._changed.notify_all()

    def note(self, seen: Seen) -> None:
        """A request was answered."""
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()

    def forget(self) -> None:
        """What a restart does."""
        with self._changed:
            self.held.clear()
            self.markers.clear()
            self._changed.notify_all()

    def wait_for(self, what: Callable[[KumodState], object], *, seconds: float = 180.0) -> None:
        """Until `what` holds; AssertionError when it doesn't in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: what(self), timeout=seconds), (
                f"not within {seconds} s: held {self.held}, epoch {self.epoch}, "
                f"last requests {self.seen[-10:]}"
            )

    def names(self, path: str) -> list[dict[str, str | None]]:
        """The criteria held under `path`, in the order told."""
        with self._changed:
            return [dict(h.criteria) for h in self.held.values() if h.path == path]

    def count(self, method: str, path: str) -> int:
        """How many such requests were answered."""
        with self._changed:
            return sum(
                1
                for s in self.seen
                if (s.method, s.path) == (method, path) and not _is_marker(s.body)
            )


def _is_marker(request: Any) -> bool:
    return isinstance(request, dict) and str(request.get("domain")).endswith(".invalid")


def humantime(ns: int) -> str:
    """A duration as kumod prints it."""
    parts = []
    for unit, size in (("d", 86400 * NS), ("h", 3600 * NS), ("m", 60 * NS), ("s", NS)):
        amount, ns = divmod(ns, size)
        if amount:
            name = unit if unit != "d" else ("day" if amount == 1 else "days")
            parts.append(f"{amount}{name}")
    for unit, size in (("ms", 1_000_000), ("us", 1000), ("ns", 1)):
        amount, ns = divmod(ns, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return " ".join(parts) or "0s"


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests of `method` (None: any) to `path` (None: any).

    ``status``: answered instead of the real answer; ``lost``: the request is
    carried out, then the connection is closed without an answer; ``delay``
    seconds before all that; ``times`` it happens.
    """

    method: str | None = None
    path: str | None = None
    status: int | None = None
    lost: bool = False
    delay: float = 0.0
    times: int = 1
    holding: str | None = None
    body: bytes | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = -1  # head and body in one packet, else each answer waits for a delayed ACK

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        kumod = self.server.kumod
        fault = kumod.take_fault(method, self.path, raw)
        if fault is not None and fault.delay:
            kumod.stopping.wait(fault.delay)
        if fault is not None and fault.status is not None:
            answer: tuple[int, str | None, bytes] = (fault.status, "text/plain", b"a fault")
        else:
            answer = self._answer(method, raw)
        status, kind, body = answer
        if fault is not None and fault.body is not None:
            body = fault.body
        with contextlib.suppress(ValueError):
            parsed = json.loads(raw) if raw else None
        kumod.state.note(Seen(method, self.path, parsed if raw else None, status, time.monotonic()))
        if fault is not None and fault.lost:
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            self.send_response(status)
            if kind:
                self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _answer(self, method: str, raw: bytes) -> tuple[int, str | None, bytes]:
        kumod, text = self.server.kumod, "text/plain; charset=utf-8"
        if self.path == "/api/check-liveness/v1" and method == "GET":
            return 200, None, b"OK"
        if not kumod.trusts_us:
            return 401, text, b"not permitted\n"
        if self.path == BUMP:
            if method != "POST":
                return 405, None, b""
            kumod.state.bump()
            return 200, None, b""
        if self.path.startswith(RESOLVE) and kumod.state.resolves:
            return self._resolve()
        if self.path not in _NAMES:
            return 404, None, b""
        if method == "GET":
            return 200, "application/json", json.dumps(kumod.state.listed(self.path)).encode()
        try:
            request = json.loads(raw)
        except ValueError as error:
            return 400, text, f"Failed to parse the request body as JSON: {error}".encode()
        try:
            return self._change(method, request)
        except (KeyError, TypeError, ValueError) as error:
            refusal = f"Failed to deserialize the JSON body into the target type: {error}"
            return 422, text, refusal.encode()

    def _resolve(self) -> tuple[int, str | None, bytes]:
        asked = dict(parse_qsl(urlsplit(self.path).query))
        if "domain" not in asked:
            why = b"Failed to deserialize query string: missing field `domain`"
            return 400, "text/plain; charset=utf-8", why
        domain, source = asked["domain"], asked.get("source", "unspecified")
        options = self.server.kumod.state.options.get((domain, source), {})
        answer = {
            "domain": domain,
            "source": source,
            "path_config": {"connection_limit": {"limit": 20, "force_local": False}, **options},
        }
        return 200, "application/json", json.dumps(answer).encode()

    def _change(self, method: str, request: dict[str, Any]) -> tuple[int, str | None, bytes]:
        state, text = self.server.kumod.state, "text/plain; charset=utf-8"
        if method == "DELETE":
            entry_id = str(uuid.UUID(request["id"]))
            if state.remove(self.path, entry_id):
                return 200, text, f"removed {entry_id}".encode()
            return 404, text, f"{_NAMES[self.path]} entry {entry_id} not found".encode()
        answer: dict[str, Any] = {"id": state.add(self.path, request)}
        if self.path == BOUNCE:
            answer |= {"bounced": {}, "total_bounced": 0}
        return 200, "application/json", json.dumps(answer).encode()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    kumod: KumodStandin

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.connections: set[socket.socket] = set()
        self.guard = threading.Lock()
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.guard:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.guard:
            self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the peer went away

    def end(self) -> None:
        self.shutdown()
        with self.guard:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class KumodStandin:
    """kumod with its HTTP listener and, by `subscribe`, its shaping.lua."""

    def __init__(
        self, *, replaces_criteria: bool = True, trusts_us: bool = True, tls: Any = None
    ) -> None:
        self.state = KumodState(replaces_criteria=replaces_criteria)
        self.trusts_us = trusts_us
        self.stopping = threading.Event()
        self._tls = tls
        self._faults: list[Fault] = []
        self._guard = threading.Lock()
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        self._subscriptions: list[Subscription] = []
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        """The base of the admin API; the same after a restart."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self.stopping.clear()
        self._listener = _Listener(("127.0.0.1", self._port), _Handler)
        self._listener.kumod = self
        self._port = self._listener.server_address[1]
        if self._tls is not None:
            # The handshake is the handler's: here it would wait for a client that went silent,
            # and with it whoever ends the listener.
            self._listener.socket = self._tls.wrap_socket(
                self._listener.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Be down, and forget."""
        self.stopping.set()
        if self._listener is not None and self._thread is not None:
            self._listener.end()
            self._thread.join()
            self._listener = None
        self.state.forget()

    def restart(self) -> None:
        """Forget everything and come back."""
        self.stop()
        self.start()

    def fail(self, fault: Fault) -> None:
        """Let the next matching requests go wrong."""
        with self._guard:
            self._faults.append(fault)

    def heal(self) -> None:
        """No more faults."""
        with self._guard:
            self._faults.clear()

    def take_fault(self, method: str, path: str, raw: bytes) -> Fault | None:
        """The fault for a request, if any."""
        with self._guard:
            for fault in self._faults:
                if (
                    fault.times > 0
                    and fault.method in (None, method)
                    and fault.path in (None, path)
                    and (fault.holding is None or fault.holding.encode() in raw)
                ):
                    fault.times -= 1
                    return fault
        return None

    def subscribe(self, url: str, *, retry_seconds: float = 0.05) -> Subscription:
        """Do as shaping.lua with ``subscribe = {url}``."""
        subscription = Subscription(url, self.state, retry_seconds=retry_seconds)
        self._subscriptions.append(subscription)
        return subscription

    def close(self) -> None:
        """End everything."""
        for subscription in self._subscriptions:
            subscription.close()
        self.stop()

    def __enter__(self) -> KumodStandin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WebSocketClient:
    """A blocking WebSocket client; real framing by wsproto."""

    def __init__(
        self, url: str, *, seconds: float = 60.0, connect: bool = True, source: str = ""
    ) -> None:
        parts = urlsplit(url)
        self.sock = socket.create_connection(
            (parts.hostname, parts.port), timeout=seconds, source_address=(source, 0)
        )
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.events: list[Any] = []
        if connect:
            request = Request(host=parts.netloc, target=parts.path)
            self.sock.sendall(self.ws.send(request))
            self.accepted = self.next_event()
            if not isinstance(self.accepted, AcceptConnection):
                self.sock.close()

    def next_event(self) -> Any:
        """The next event, whatever it is; TimeoutError, or CloseConnection at the end."""
        while not self.events:
            data = self.sock.recv(65536)
            self.ws.receive_data(data or None)
            self.events += self.ws.events()
            if not data and not self.events:
                self.events.append(CloseConnection(1006))
        return self.events.pop(0)

    def text(self) -> str:
        """The next whole text message."""
        parts = []
        while True:
            event = self.next_event()
            assert isinstance(event, TextMessage), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts)

    def texts(self, count: int) -> list[str]:
        """The next `count` messages."""
        return [self.text() for _ in range(count)]

    def send(self, event: Any) -> None:
        """Send an event."""
        self.sock.sendall(self.ws.send(event))

    def close(self) -> None:
        """Close the socket, without a handshake."""
        self.sock.close()

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class Subscription:
    """The subscriber task of shaping.lua, in a thread.

    Applies each event to kumod's memory, comes back after an error, falls back
    to the older endpoint on a 404.  ``broken`` names what would have broken the real one.
    """

    url: str
    state: KumodState
    retry_seconds: float
    connects: int = 0
    frames: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ending: threading.Event = field(default_factory=threading.Event)
    _client: WebSocketClient | None = None
    _thread: threading.Thread | None = None
    _paths: ClassVar[dict[str, str]] = {
        "ReadyQSuspension": READY_Q,
        "SchedQSuspension": SCHED_Q,
        "SchedQBounce": BOUNCE,
        "ReadyQ": READY_Q,
        "SchedQ": SCHED_Q,
    }

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def overlay(self) -> dict[str, Any]:
        """The overlay, read as the last shaping file."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", f"{parts.path}/get_config_v1/shaping.toml")
            answer = connection.getresponse()
            assert answer.status == 200
            return tomllib.loads(answer.read().decode())

    def wait_for(self, what: Callable[[Subscription], object], *, seconds: float = 60.0) -> None:
        """Until `what` holds of this subscription."""
        with self._changed:
            assert self._changed.wait_for(lambda: what(self), timeout=seconds), self

    def close(self) -> None:
        """End."""
        self._ending.set()
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(OSError, RemoteProtocolError):
                self._follow()
            self._ending.wait(self.retry_seconds)

    def _follow(self) -> None:
        for path in ("/subscribe_event_v1", "/subscribe_suspension_v1"):
            with WebSocketClient(self.url + path, seconds=60) as client:
                self._client = client
                if isinstance(client.accepted, RejectConnection):
                    if client.accepted.status_code == 404:
                        continue
                    return
                with self._changed:
                    self.connects += 1
                    self._changed.notify_all()
                for text in self._texts(client):
                    self._apply(text)
                return

    def _texts(self, client: WebSocketClient) -> Iterator[str]:
        text = ""
        while not self._ending.is_set():
            event = client.next_event()
            if isinstance(event, Ping | Pong):
                with self._changed:
                    self.broken.append(type(event).__name__)
                    self._changed.notify_all()
                return
            if not isinstance(event, TextMessage):
                return
            text += event.data
            if event.message_finished:
                yield text
                text = ""

    def _apply(self, text: str) -> None:
        ((kind, item),) = json.loads(text).items()
        request = {
            **{n: item.get(n) for n in ("campaign", "tenant", "domain")},
            "reason": f"{item['reason']} (rule_hash={item['rule_hash']})",
            "expires": item["expires"],
        }
        if "site_name" in item:
            request["name"] = item["site_name"]
        self.state.add(self._paths[kind], request)
        with self._changed:
            self.frames.append(text)
            self._changed.notify_all()
