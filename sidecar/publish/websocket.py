"""WebSocket subscribers: the entries in force first, then each event as it happens.

In: sockets whose upgrade request was good, the snapshot in force, events.
Out: text frames (``tests/data/api``).  The handshake and framing are
wsproto's.  Each subscriber is a coroutine in the :class:`Background` loop with a
bounded queue of its own.  One that does not read is cut off and costs others nothing.

Pings.  kumod's WebSocket client (``kumo.http.connect_websocket``) panics on a ping,
and takes a pong for an event.  Either ends the subscription, and
``policy-extras/shaping.lua`` resumes it only 30 seconds later.  So this side sends
no pings.  It finds dead peers by TCP keep-alive and by unacknowledged data.  It
answers a client's own pings.

Room.  When all places are taken, the host with the most subscribers loses its second.
Its first stays: that was there before the crowd.  So one host's subscribers keep out
neither another host nor their own kumod.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import h11
from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError, RemoteProtocolError

from sidecar.publish.background import Background
from sidecar.publish.metrics import Metrics
from sidecar.publish.snapshot import legacy_frame

_READ_SIZE = 1024  # others wait while this much is parsed
_HOSTS_COUNTED = 1024
_FRAMES_AT_ONCE = 64  # more saves system calls, but keeps the others waiting
_FAREWELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class SubscriberLimits:
    """What subscribers may cost.

    ``subscribers``: how many at a time.  ``queued``: events that wait for one (the
    entries in force don't count, since all share them).  ``send_seconds``: how long a
    socket may take nothing while something waits, and how long data may stay
    unacknowledged.  ``received``: bytes that one host's subscribers may send in a
    minute; they have nothing to say.
    """

    subscribers: int = 32
    queued: int = 131_072
    send_seconds: float = 30.0
    received: int = 16 * 1024


class BadHandshake(Exception):  # noqa: N818 - an answer to a client, not an error of ours
    """The upgrade request can't be accepted: answer with ``status`` and ``headers``."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = tuple(headers)


def accept(path: str, headers: Iterable[tuple[str, str]]) -> tuple[bytes, Connection]:
    """The 101 answer to an upgrade request, and the connection that it opens.

    Raises BadHandshake (RFC 6455, section 4.2.2).
    """
    handshake = H11Handshake(ConnectionType.SERVER)
    encoded = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers]
    try:
        handshake.initiate_upgrade_connection(encoded, path)
        answer = handshake.send(events.AcceptConnection())
    except RemoteProtocolError as error:
        raise _rejection(error) from error
    except (ProtocolError, h11.ProtocolError, UnicodeError) as error:
        raise BadHandshake(400, "the WebSocket handshake is not valid HTTP") from error
    connection = handshake.connection
    assert connection is not None
    return answer, connection


def _rejection(error: RemoteProtocolError) -> BadHandshake:
    hint = error.event_hint
    if not isinstance(hint, events.RejectConnection):
        return BadHandshake(400, str(error))
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in hint.headers]
    if hint.status_code == 426:
        headers += [("Upgrade", "websocket"), ("Connection", "Upgrade, close")]
    return BadHandshake(hint.status_code, str(error), headers)


class Subscribers:
    """All subscribers of one listener."""

    def __init__(
        self, background: Background, *, limits: SubscriberLimits, metrics: Metrics
    ) -> None:
        self._background = background
        self._limits = limits
        self._metrics = metrics
        # Guards the two below.  A subscriber joins before an event, and gets it from its
        # queue, or after it, and finds it in force.
        self._lock = threading.Lock()
        self._in_force: tuple[str, ...] = ()
        self._members: dict[_Subscriber, None] = {}  # in the order of joining
        self._received = _Received(limits.received)

    def publish(self, in_force: tuple[str, ...], new: Sequence[str]) -> None:
        """New subscribers get `in_force` first from now on; present ones get `new`."""
        with self._lock:
            self._in_force = in_force
            if not new:
                return
            members = tuple(self._members)
            late = {m for m in members if len(m.queue) + len(new) > self._limits.queued}
            # Remove it at once: its queue must not grow while it is being ended.
            for member in late:
                del self._members[member]
            for member in self._members:
                member.queue.extend(new)
        for member in members:
            self._background.call(member.cut_off if member in late else member.wake)

    def has_room(self, host: str) -> bool:
        """Whether one more of `host` can join, perhaps in the place of another."""
        with self._lock:
            free = len(self._members) < self._limits.subscribers
            return free or self._gives_way(host) is not None

    def _gives_way(self, host: str) -> _Subscriber | None:
        """The one that leaves for one more of `host`; None where every host has only one."""
        crowds: dict[str, list[_Subscriber]] = {}
        for member in self._members:
            crowds.setdefault(member.host, []).append(member)
        largest = max(crowds.values(), key=lambda c: len(c) + (c[0].host == host), default=[])
        return largest[1] if len(largest) > 1 else None

    def join(
        self,
        peer: socket.socket,
        answer: bytes,
        connection: Connection,
        *,
        host: str,
        legacy: bool,
    ) -> bool:
        """Take over `peer`: send it `answer`, then frames.  False, and `peer` untouched, when full.

        The subscription begins before the answer is sent, so the client misses no event
        that it causes after it.
        """
        with self._lock:
            if len(self._members) >= self._limits.subscribers:
                leaving = self._gives_way(host)
                if leaving is None:
                    return False
                del self._members[leaving]
                self._background.call(leaving.cut_off)
            member = _Subscriber(
                peer,
                connection,
                host=host,
                received=self._received,
                in_force=self._in_force,
                legacy=legacy,
                limits=self._limits,
                metrics=self._metrics,
            )
            self._members[member] = None
            self._metrics.subscribers.set(len(self._members))
        if not self._background.spawn(self._run(member, answer)):
            self._leave(member)
            peer.close()
        return True

    def close(self) -> None:
        """End every subscription with 1001 (going away)."""
        with self._lock:
            members = tuple(self._members)
        for member in members:
            self._background.call(partial(member.end, CloseReason.GOING_AWAY))

    async def _run(self, member: _Subscriber, answer: bytes) -> None:
        try:
            await member.run(answer)
        finally:
            self._leave(member)

    def _leave(self, member: _Subscriber) -> None:
        with self._lock:
            self._members.pop(member, None)
            self._metrics.subscribers.set(len(self._members))


class _Received:
    """Counts the bytes that each host's subscribers send in a minute.  For one thread."""

    __slots__ = ("_began", "_bytes", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._began = 0.0
        self._bytes: dict[str, int] = {}

    def too_much(self, host: str, size: int, now: float) -> bool:
        """Count `size` more bytes at `now`; returns whether that is too much."""
        if now - self._began > 60 or len(self._bytes) > _HOSTS_COUNTED:
            self._began = now
            self._bytes.clear()
        self._bytes[host] = self._bytes.get(host, 0) + size
        return self._bytes[host] > self._most


class _CutOff(Exception):  # noqa: N818 - a way out, not an error
    """This subscription is to end without a word."""


class _Subscriber:
    """One subscription.  All but `queue.extend` happens in the loop's thread."""

    def __init__(
        self,
        peer: socket.socket,
        connection: Connection,
        *,
        host: str,
        received: _Received,
        in_force: tuple[str, ...],
        legacy: bool,
        limits: SubscriberLimits,
        metrics: Metrics,
    ) -> None:
        self.queue: deque[str] = deque()
        self.host = host
        self._received = received
        self._peer = peer
        self._connection = connection
        self._in_force = in_force
        self._legacy = legacy
        self._limits = limits
        self._metrics = metrics
        self._awake = asyncio.Event()
        self._ending: CloseReason | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._late = False

    def wake(self) -> None:
        """Say that something is in the queue."""
        self._awake.set()

    def end(self, reason: CloseReason) -> None:
        """Close with `reason`, after the frames that are being sent."""
        if self._ending is None:
            self._ending = reason
        self._awake.set()

    def cut_off(self) -> None:
        """Close without a close frame: the peer does not read."""
        self.queue.clear()
        self._late = True
        self._awake.set()
        if self._writer is not None:
            self._writer.transport.abort()

    async def run(self, answer: bytes) -> None:
        """Send the handshake's answer, then frames, until the connection ends."""
        _watch_peer(self._peer, self._limits.send_seconds)
        try:
            reader, writer = await asyncio.open_connection(sock=self._peer)
        except OSError:
            self._peer.close()
            return
        self._writer = writer
        listening = asyncio.create_task(self._listen(reader, writer))
        try:
            await self._talk(writer, answer)
            await self._say_goodbye(writer, listening)
        except (_CutOff, OSError, TimeoutError):
            self._metrics.subscribers_cut_off.inc()
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            # close() would wait for a peer that reads nothing.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # -- to the subscriber ---------------------------------------------------

    async def _talk(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer)
        await self._drain(writer)
        in_force = iter(self._in_force)
        self._in_force = ()  # it may be large, and the subscription long
        while self._ending is None:
            frames = list(itertools.islice(in_force, _FRAMES_AT_ONCE))
            while self.queue and len(frames) < _FRAMES_AT_ONCE:
                frames.append(self.queue.popleft())
            if self._late:
                raise _CutOff
            if frames:
                await self._send(writer, frames)
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until there is something to send or to end."""
        self._awake.clear()
        if not (self.queue or self._ending is not None or self._late):
            await self._awake.wait()

    async def _send(self, writer: asyncio.StreamWriter, frames: list[str]) -> None:
        if self._connection.state is not ConnectionState.OPEN:
            raise _CutOff
        texts = [legacy_frame(f) if self._legacy else f for f in frames]
        data = [self._connection.send(events.TextMessage(data=t)) for t in texts if t is not None]
        writer.write(b"".join(data))
        self._metrics.frames_sent.inc(len(data))
        await self._drain(writer)
        await asyncio.sleep(0)  # the others' turn, which drain() does not always give

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        if self._late:
            raise _CutOff
        async with asyncio.timeout(self._limits.send_seconds):
            await writer.drain()

    async def _say_goodbye(
        self, writer: asyncio.StreamWriter, listening: asyncio.Task[None]
    ) -> None:
        """Send the close frame, and wait a moment for the peer's."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            reason = self._ending or CloseReason.NORMAL_CLOSURE
            writer.write(self._connection.send(events.CloseConnection(code=reason)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await writer.drain()
                await asyncio.shield(listening)

    # -- from the subscriber -------------------------------------------------

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer pings and a close, and ignore the rest, until the connection ends."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_SIZE):
                if self._received.too_much(self.host, len(data), loop.time()):
                    self.end(CloseReason.POLICY_VIOLATION)
                    return
                if not self._take(data, writer):
                    return
                await asyncio.sleep(0)  # the others' turn
        self.end(CloseReason.NORMAL_CLOSURE)

    def _take(self, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Handle `data`; returns False when the connection is closing."""
        if self._connection.state is ConnectionState.CLOSED:
            return False
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, events.Ping):
                if self._connection.state is ConnectionState.OPEN and not writer.is_closing():
                    writer.write(self._connection.send(event.response()))
            elif isinstance(event, events.CloseConnection):
                self.end(_reason(event.code))
                return False
        return True


def _reason(code: int) -> CloseReason:
    """The code to close with: the peer's own where it may be sent."""
    try:
        reason = CloseReason(code)
    except ValueError:
        return CloseReason.NORMAL_CLOSURE
    # These are never sent (RFC 6455, section 7.4.1).
    unsendable = (
        CloseReason.NO_STATUS_RCVD,
        CloseReason.ABNORMAL_CLOSURE,
        CloseReason.TLS_HANDSHAKE_FAILED,
    )
    return CloseReason.NORMAL_CLOSURE if reason in unsendable else reason


def _watch_peer(peer: socket.socket, seconds: float) -> None:
    """Have the kernel end the connection when the peer's host is down or out of reach."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
