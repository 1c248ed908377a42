"""Subscribers get what is in force, then each event; none of them can harm the others."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    TextMessage,
)

from sidecar.problems import Problem
from sidecar.publish.http import Endpoint
from sidecar.publish.metrics import Metrics
from sidecar.publish.snapshot import FrameKind, Snapshot, event_frame
from sidecar.publish.websocket import SubscriberLimits
from sidecar.settings import Address
from tests.kumod_standin import BOUNCE, READY_Q, SCHED_Q, KumodStandin, WebSocketClient
from tests.publish.conftest import StartEndpoint

RECORDINGS = Path(__file__).parent.parent / "data/conformance"
EVENTS, LEGACY = "/subscribe_event_v1", "/subscribe_suspension_v1"


def frames(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(
        event_frame("ReadyQSuspension", json.dumps({"site_name": f"{prefix}{n}"}))
        for n in range(count)
    )


def snapshot_of(in_force: tuple[str, ...]) -> Snapshot:
    return Snapshot(overlay="", suspended=b"{}", bounced=b"[]", frames=in_force)


def emit(endpoint: Endpoint, new: Sequence[str]) -> None:
    """Publish events, what is in force staying as it is."""
    endpoint.publish(snapshot_of(endpoint._shared.subscribers._in_force), new)


def subscribers(metrics: Metrics, count: int, *, seconds: float = 60.0) -> None:
    """Wait until so many are connected."""
    deadline = time.monotonic() + seconds
    while metrics.subscribers._value.get() != count:
        assert time.monotonic() < deadline, metrics.subscribers._value.get()
        time.sleep(0.005)


def recorded_frames() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for path in sorted(RECORDINGS.glob("*.json")):
        recording = json.loads(path.read_text())
        replay = recording["expected"].get("events_replay")
        if replay:
            yield path.stem, replay


# -- what is sent -------------------------------------------------------------


@pytest.mark.parametrize(("name", "replay"), [pytest.param(*r, id=r[0]) for r in recorded_frames()])
def test_the_frames_in_force_are_those_of_the_recordings(
    endpoint: Endpoint, name: str, replay: list[dict[str, Any]]
) -> None:
    by_kind: dict[FrameKind, list[str]] = {
        "ReadyQSuspension": [],
        "SchedQSuspension": [],
        "SchedQBounce": [],
    }
    for frame in replay:
        ((kind, payload),) = frame.items()
        by_kind[kind].append(json.dumps(payload))  # type: ignore[index]
    snapshot = Snapshot.build(
        overlay="",
        ready_q=by_kind["ReadyQSuspension"],
        sched_q=by_kind["SchedQSuspension"],
        bounces=by_kind["SchedQBounce"],
    )
    endpoint.publish(snapshot)
    with WebSocketClient(endpoint.url + EVENTS) as client:
        received = [json.loads(text) for text in client.texts(len(replay))]
    order: list[str] = list(by_kind)
    assert received == sorted(replay, key=lambda f: order.index(str(next(iter(f)))))
    legacy = [f for f in replay if "SchedQBounce" not in f]
    with WebSocketClient(endpoint.url + LEGACY) as client:
        names = [next(iter(json.loads(text))) for text in client.texts(len(legacy))]
    assert sorted(set(names)) == sorted(
        {next(iter(f)).removesuffix("Suspension") for f in legacy}
    ), name


def test_first_what_is_in_force_then_each_event(endpoint: Endpoint) -> None:
    endpoint.publish(snapshot_of(frames("old", 3)))
    with WebSocketClient(endpoint.url + EVENTS) as client:
        assert client.texts(3) == list(frames("old", 3))
        endpoint.publish(snapshot_of((*frames("old", 3), *frames("new", 1))), frames("new", 1))
        assert client.text() == frames("new", 1)[0]
        emit(endpoint, frames("more", 2))
        assert client.texts(2) == list(frames("more", 2))
        with WebSocketClient(endpoint.url + EVENTS) as later:
            assert later.texts(4) == [*frames("old", 3), *frames("new", 1)]


def test_the_older_endpoint_has_the_older_form_without_bounces(endpoint: Endpoint) -> None:
    bounce = event_frame("SchedQBounce", "{}")
    endpoint.publish(snapshot_of((event_frame("ReadyQSuspension", '{"a":1}'), bounce)))
    with WebSocketClient(endpoint.url + LEGACY) as client:
        assert client.text() == '{"ReadyQ":{"a":1}}'
        emit(endpoint, [bounce, event_frame("SchedQSuspension", '{"b":2}')])
        assert client.text() == '{"SchedQ":{"b":2}}'


def test_nothing_is_lost_or_doubled_around_the_moment_of_subscribing(endpoint: Endpoint) -> None:
    """Entries come about while clients subscribe: each sees every one exactly once."""
    total = 300
    done = threading.Event()

    def decide() -> None:
        for n in range(1, total + 1):
            endpoint.publish(snapshot_of(frames("e", n)), frames("e", n)[-1:])
        done.set()

    deciding = threading.Thread(target=decide)
    deciding.start()
    seen: list[list[str]] = []
    try:
        while not done.is_set() or not seen:
            with WebSocketClient(endpoint.url + EVENTS) as client:
                seen.append(client.texts(total))
    finally:
        deciding.join()
    assert all(one == list(frames("e", total)) for one in seen)


def test_many_frames_arrive_whole_and_in_order(endpoint: Endpoint) -> None:
    text = tuple(
        event_frame("ReadyQSuspension", json.dumps({"site_name": f"s{n}", "reason": "ü" * 400}))
        for n in range(5000)
    )
    endpoint.publish(snapshot_of(text))
    with WebSocketClient(endpoint.url + EVENTS) as client:
        emit(endpoint, frames("live", 100))
        assert client.texts(5100) == [*text, *frames("live", 100)]


# -- the protocol -------------------------------------------------------------


def test_the_handshake_is_as_recorded(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.address.port), timeout=60) as sock:
        sock.sendall(
            b"GET /subscribe_event_v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = sock.recv(4096).lower()
    assert answer.startswith(b"http/1.1 101 switching protocols\r\n")
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in answer
    assert b"connection: upgrade\r\n" in answer
    assert b"upgrade: websocket\r\n" in answer


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 400),
        ({"Connection": "close"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Host": None}, 400),
        ({"Host": "xn--\xff"}, 400),
        ({"Content-Length": "3"}, 400),
    ],
    ids=str,
)
def test_bad_handshakes_are_refused(
    endpoint: Endpoint, change: dict[str, str | None], status: int
) -> None:
    headers: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **change,
    }
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("GET", EVENTS, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == status
        if status == 426:
            assert answer.headers["Upgrade"] == "websocket"
        assert answer.read()


def test_only_get_subscribes(endpoint: Endpoint) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", EVENTS)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_a_clients_ping_is_answered_and_its_messages_are_ignored(endpoint: Endpoint) -> None:
    with WebSocketClient(endpoint.url + EVENTS) as client:
        client.send(TextMessage(data="hello"))
        client.send(BytesMessage(data=b"hello"))
        client.send(Ping(payload=b"12"))
        assert client.next_event() == Pong(payload=b"12")
        emit(endpoint, frames("a", 1))
        assert client.text() == frames("a", 1)[0]


def test_a_client_may_end_the_subscription(endpoint: Endpoint, metrics: Metrics) -> None:
    with WebSocketClient(endpoint.url + EVENTS) as client:
        client.send(CloseConnection(code=1001, reason="bye"))
        assert client.next_event() == CloseConnection(code=1001, reason="")
        subscribers(metrics, 0)
        assert client.sock.recv(10) == b""
    assert metrics.subscribers_cut_off._value.get() == 0


def test_a_client_that_just_goes_away_is_forgotten(endpoint: Endpoint, metrics: Metrics) -> None:
    for _ in range(5):
        with WebSocketClient(endpoint.url + EVENTS):
            subscribers(metrics, 1)
        subscribers(metrics, 0)


def test_the_stop_is_told_with_1001_at_once(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.publish.http._STOP_SECONDS", 60.0)
    endpoint = Endpoint(Address("127.0.0.1", 0), metrics=metrics)
    endpoint.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocketClient(endpoint.url + EVENTS)) for _ in range(5)]
        subscribers(metrics, 5)
        began = time.monotonic()
        endpoint.stop()  # none of them answers the close
        assert time.monotonic() - began < 30
        for client in clients:
            assert client.next_event() == CloseConnection(code=1001, reason="")
            assert client.sock.recv(10) == b""
    assert metrics.subscribers._value.get() == 0


# -- bounds -------------------------------------------------------------------


def test_a_slow_consumer_is_cut_off_and_costs_others_nothing(
    start: StartEndpoint, metrics: Metrics
) -> None:
    endpoint = start(subscribers=SubscriberLimits(send_seconds=1.0))
    big = tuple(event_frame("ReadyQSuspension", json.dumps({"r": "x" * 10_000})) for _ in range(10))
    with (
        WebSocketClient(endpoint.url + EVENTS) as slow,
        WebSocketClient(endpoint.url + EVENTS) as good,
    ):
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        subscribers(metrics, 2)
        deadline = time.monotonic() + 120
        while metrics.subscribers._value.get() == 2:
            emit(endpoint, big)
            assert good.texts(10) == list(big)
            assert time.monotonic() < deadline
        emit(endpoint, frames("after", 1))
        assert good.text() == frames("after", 1)[0]
    assert metrics.subscribers_cut_off._value.get() == 1


def test_a_queue_that_grows_too_long_ends_its_subscription(
    start: StartEndpoint, metrics: Metrics
) -> None:
    endpoint = start(subscribers=SubscriberLimits(send_seconds=600, queued=1000))
    big = tuple(event_frame("ReadyQSuspension", json.dumps({"r": "x" * 10_000})) for _ in range(10))
    with WebSocketClient(endpoint.url + EVENTS):
        subscribers(metrics, 1)
        deadline = time.monotonic() + 120
        while metrics.subscribers._value.get():
            emit(endpoint, big)
            assert time.monotonic() < deadline
    assert metrics.subscribers_cut_off._value.get() == 1


def test_a_long_list_in_force_is_no_reason_to_be_cut_off(start: StartEndpoint) -> None:
    endpoint = start(subscribers=SubscriberLimits(queued=10))
    endpoint.publish(snapshot_of(frames("old", 2000)))
    with WebSocketClient(endpoint.url + EVENTS) as client:
        assert client.texts(2000) == list(frames("old", 2000))


def subscribe(endpoint: Endpoint, host: str = "127.0.0.1") -> WebSocketClient:
    return WebSocketClient(endpoint.url + EVENTS, source=host)


def test_a_crowd_of_one_host_keeps_neither_another_nor_its_first_out(
    start: StartEndpoint, metrics: Metrics
) -> None:
    endpoint = start(trusted=["127.0.0.0/8"], subscribers=SubscriberLimits(subscribers=4))
    with contextlib.ExitStack() as stack:
        first, *crowd = [stack.enter_context(subscribe(endpoint)) for _ in range(4)]
        other = stack.enter_context(subscribe(endpoint, "127.0.0.2"))
        assert isinstance(other.accepted, AcceptConnection)
        assert isinstance(crowd[0].next_event(), CloseConnection)
        for _ in range(10):
            stack.enter_context(subscribe(endpoint))
        subscribers(metrics, 4)
        endpoint.publish(snapshot_of(()), frames("new", 1))
        assert first.text() == other.text() == frames("new", 1)[0]


def test_where_each_host_has_but_one_there_is_no_room_for_more(
    start: StartEndpoint, metrics: Metrics
) -> None:
    endpoint = start(trusted=["127.0.0.0/8"], subscribers=SubscriberLimits(subscribers=3))
    with contextlib.ExitStack() as stack:
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            client = stack.enter_context(subscribe(endpoint, host))
        for host in ("127.0.0.1", "127.0.0.4"):
            refused = stack.enter_context(subscribe(endpoint, host))
            assert isinstance(refused.accepted, RejectConnection)
            assert refused.accepted.status_code == 503
        client.close()
        subscribers(metrics, 2)
        admitted = stack.enter_context(subscribe(endpoint, "127.0.0.4"))
        emit(endpoint, frames("a", 1))
        assert admitted.text() == frames("a", 1)[0]


def test_coming_back_gives_a_talkative_host_no_more_to_say(
    start: StartEndpoint, metrics: Metrics
) -> None:
    endpoint = start(subscribers=SubscriberLimits(received=10_000))
    answered = 0
    for _ in range(20):
        with subscribe(endpoint) as client, contextlib.suppress(ConnectionError):
            client.sock.sendall(b"\x89\x80\0\0\0\0" * 4000)  # empty pings
            while data := client.sock.recv(65536):
                answered += data.count(b"\x8a\0")
    subscribers(metrics, 0)
    assert answered <= 10_000 / 6


def test_subscribers_take_no_threads_and_no_place_of_a_request(start: StartEndpoint) -> None:
    endpoint = start(connections=2, grace_seconds=60)
    with contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(20):
            stack.enter_context(WebSocketClient(endpoint.url + EVENTS))
        assert threading.active_count() <= threads + 2
        connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/tsa/status")
            assert connection.getresponse().read() == b"TSA Daemon OK"


def test_a_talkative_client_is_sent_away(start: StartEndpoint, metrics: Metrics) -> None:
    endpoint = start(subscribers=SubscriberLimits(received=10_000))
    with WebSocketClient(endpoint.url + EVENTS) as client:
        subscribers(metrics, 1)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.send(TextMessage(data="x" * 1000))
        subscribers(metrics, 0)


def test_a_storm_of_subscribers_leaves_nothing_behind(endpoint: Endpoint, metrics: Metrics) -> None:
    endpoint.publish(snapshot_of(frames("old", 50)))
    wrong: list[object] = []

    def come_and_go() -> None:
        for _ in range(15):
            with WebSocketClient(endpoint.url + EVENTS) as client:
                if client.texts(50) != list(frames("old", 50)):
                    wrong.append(client)

    threads = [threading.Thread(target=come_and_go) for _ in range(10)]
    for thread in threads:
        thread.start()
    for n in range(100):
        emit(endpoint, frames(f"live{n}", 1))
    for thread in threads:
        thread.join()
    assert wrong == []
    subscribers(metrics, 0)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=200),
            st.builds(  # well formed but for what they say: any opcode, any payload, masked
                lambda head, mask, payload: (
                    bytes([head, 0x80 | len(payload)])
                    + mask
                    + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
                ),
                st.integers(0, 255),
                st.binary(min_size=4, max_size=4),
                st.binary(max_size=125),
            ),
        ),
        max_size=5,
    )
)
def test_any_bytes_after_the_handshake_harm_only_their_sender(
    endpoint: Endpoint, metrics: Metrics, problems: list[Problem], data: list[bytes]
) -> None:
    with (
        WebSocketClient(endpoint.url + EVENTS) as good,
        WebSocketClient(endpoint.url + EVENTS) as bad,
    ):
        with contextlib.suppress(ConnectionError):
            for part in data:
                bad.sock.sendall(part)
        bad.close()
        emit(endpoint, frames("a", 1))
        assert good.text() == frames("a", 1)[0]
    subscribers(metrics, 0)
    assert problems == []


# -- kumod --------------------------------------------------------------------


def test_kumod_gets_everything_by_subscription_and_again_after_a_restart(
    metrics: Metrics,
) -> None:
    expires = '"expires":"2099-01-01T00:00:00Z","reason":"r","rule_hash":"h"'
    ready = f'{{"site_name":"ip1->mx.example@smtp_client","source":"ip1",{expires}}}'
    sched = f'{{"tenant":"t","domain":"d.example","campaign":null,{expires}}}'
    bounce = f'{{"tenant":null,"domain":"d.example","campaign":null,{expires}}}'
    overlay = '["gmail.com"]\nmx_rollup = true\n'
    with KumodStandin() as kumod:
        with Endpoint(Address("127.0.0.1", 0), metrics=metrics) as endpoint:
            listen = endpoint.address
            endpoint.publish(Snapshot.build(overlay=overlay, ready_q=[ready], sched_q=[sched]))
            subscription = kumod.subscribe(endpoint.url)
            assert subscription.overlay() == {"gmail.com": {"mx_rollup": True}}
            kumod.state.wait_for(lambda s: len(s.held) == 2)
            assert kumod.state.names(READY_Q) == [{"name": "ip1->mx.example@smtp_client"}]
            in_force = Snapshot.build(
                overlay=overlay, ready_q=[ready], sched_q=[sched], bounces=[bounce]
            )
            endpoint.publish(in_force, [event_frame("SchedQBounce", bounce)])
            kumod.state.wait_for(lambda s: s.names(BOUNCE))
        kumod.state.forget()
        with Endpoint(listen, metrics=metrics) as endpoint:
            endpoint.publish(in_force)
            kumod.state.wait_for(lambda s: len(s.held) == 3)
            assert kumod.state.names(SCHED_Q) == [
                {"campaign": None, "tenant": "t", "domain": "d.example"}
            ]
        assert subscription.broken == []
        assert kumod.state.disasters == []
