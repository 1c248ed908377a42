"""One attempt at one target: real programs, real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.notify import sending
from sidecar.notify.apprise_child import harmless
from sidecar.notify.event import Event
from sidecar.notify.message import Group, Message, seal
from sidecar.notify.program import NotSent
from sidecar.notify.sending import send
from sidecar.notify.targets import AppriseTarget, CommandTarget, Target, WebhookTarget
from sidecar.secret import Secret
from tests.service.support import until
from tests.test_http_client import DATA, Serve, serving

from .support import receiving

SECRET = "s3cr3t-T0ken"
KEY = base64.b64encode(b"k" * 32).decode()


def message() -> Message:
    event = Event("7.1.began", "began", 1, "episode", "throttled", "suspend the ready queue x")
    return seal(Group(1, 1, 0).with_event(event, listed=True), [event], host="mx1", target="oncall")


def attempt(target: Target) -> None:
    asyncio.run(send(target, message()))


def refusal(target: Target) -> NotSent:
    with pytest.raises(NotSent) as caught:
        attempt(target)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300
    return caught.value


# Programs.


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path), "an argument", "$HOME;`id`")


def command(tmp_path: Path, text: str, *, timeout: float = 60.0) -> CommandTarget:
    return CommandTarget(name="pager", argv=program(tmp_path, text), timeout=timeout)


def test_a_program_gets_the_message_and_its_arguments_as_they_are(tmp_path: Path) -> None:
    attempt(command(tmp_path, f'cat > {tmp_path}/in; printf "%s|" "$@" > {tmp_path}/args'))
    told = json.loads((tmp_path / "in").read_text())
    assert told == json.loads(message().body)
    assert told["id"] == message().id
    assert (tmp_path / "args").read_text() == "an argument|$HOME;`id`|"


def test_a_program_that_reads_nothing_has_taken_it(tmp_path: Path) -> None:
    attempt(command(tmp_path, "exit 0"))


def test_a_program_sees_little_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCALL_TOKEN", SECRET)
    attempt(command(tmp_path, f"env > {tmp_path}/env"))
    said = (tmp_path / "env").read_text()
    assert SECRET not in said
    assert "PATH=" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exit 3", "exit code 3"),
        ("echo first >&2; printf 'no \\033[31mroute\\n' >&2; exit 1", "no \\x1b[31mroute"),
        ("kill -9 $$", "signal 9"),
        ("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", "exit code 1: xxx"),
    ],
)
def test_why_a_program_failed_is_said(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in str(refusal(command(tmp_path, text)))


def test_a_program_that_is_none_is_said(tmp_path: Path) -> None:
    reason = refusal(CommandTarget(name="pager", argv=(str(tmp_path / "nothing"),)))
    assert "can't be run: No such file" in str(reason)


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # a zombie has ended, too


def until_ended(file: Path) -> None:
    pid = int(file.read_text())
    until(lambda: ended(pid))


CHILD = "sleep 1000 & echo $! > {0}/new; mv {0}/new {0}/pid; wait"


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    target = command(tmp_path, CHILD.format(tmp_path), timeout=1.0)
    assert "was ended after 1 seconds" in str(refusal(target))
    until_ended(tmp_path / "pid")


def test_what_a_program_leaves_behind_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    attempt(command(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; exit 0"))
    until_ended(tmp_path / "pid")


def test_a_cancelled_attempt_ends_at_once(tmp_path: Path) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(send(command(tmp_path, CHILD.format(tmp_path)), message()))
        await asyncio.to_thread(until, (tmp_path / "pid").exists)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    until_ended(tmp_path / "pid")


# Webhooks.


def hook(url: str, **more: Any) -> WebhookTarget:
    return WebhookTarget(name="oncall", url=Secret(f"{url}/hook/{SECRET}?key={SECRET}"), **more)


def test_a_webhook_is_posted_and_signed() -> None:
    with receiving() as server:
        attempt(hook(server.url, token=Secret("abc"), key=Secret(f"whsec_{KEY}")))
    ((path, headers, body),) = server.requests
    assert path == f"/hook/{SECRET}?key={SECRET}"
    assert headers["authorization"] == "Bearer abc"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == message().id == json.loads(body)["id"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(base64.b64decode(KEY), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_without_a_key_there_is_no_signature() -> None:
    with receiving() as server:
        attempt(hook(server.url))
    ((_, headers, _),) = server.requests
    assert "webhook-id" in headers
    assert "webhook-signature" not in headers


def refused_with(status: int, body: str = "", **headers: str) -> NotSent:
    """Why a receiver that answers so has not taken it."""
    with receiving() as server:
        server.status, server.body = status, body.encode()
        server.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        reason = refusal(hook(server.url))
    assert SECRET not in str(reason)
    return reason


def refused_by(served: Serve, *, timeout: float = 60.0) -> NotSent:
    with serving(served) as server:
        reason = refusal(hook(server.url, timeout=timeout))
    assert SECRET not in str(reason)
    return reason


@pytest.mark.parametrize("status", [500, 400, 401, 404, 410])
def test_an_answer_that_is_no_success_is_said(status: int) -> None:
    reason = refused_with(status, f"what is\r\nthis \x1b[31m {SECRET}?")
    assert f"it answered {status} what is this" in str(reason)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read(status: int) -> None:
    assert refused_with(status, Retry_After="120").retry_after == 120.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("9" * 400, 999_999_999.0),
    ],
)
def test_odd_values_of_retry_after(value: str, expected: float | None) -> None:
    assert sending._retry_after({"retry-after": value}) == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with receiving() as other:
        reason = refused_with(status, Location=f"{other.url}/elsewhere")
    assert "redirects are not followed" in str(reason)
    assert other.requests == []


def silent(connection: Any) -> None:
    while connection.recv(65536):  # until the other side gives up
        pass


def dripping(connection: Any) -> None:
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)


@pytest.mark.parametrize("served", [silent, dripping])
def test_a_server_that_never_answers_costs_the_timeout(served: Serve) -> None:
    assert "within 1 seconds" in str(refused_by(served, timeout=1.0))


def test_a_server_that_is_down_is_said() -> None:
    with serving() as server:
        pass
    assert "refused" in str(refusal(hook(server.url)))


def test_an_endless_answer_is_cut() -> None:
    def endless(connection: Any) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)

    assert "larger than 64 KiB" in str(refused_by(endless))


def test_a_certificate_that_is_not_trusted_is_refused_before_anything_is_sent() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    with serving(silent, tls=context) as server:
        assert "certificate" in str(refusal(hook(server.url)))
    assert server.requests == []


# Apprise, but for what it does itself: see test_apprise.


def by_apprise(url: str) -> AppriseTarget:
    return AppriseTarget(name="chat", url=Secret(url), timeout=60.0)


def test_apprise_that_is_not_there_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "has_apprise", lambda: False)
    assert "pip install 'kumo-tsa-sidecar[apprise]'" in str(refusal(by_apprise("json://x")))


def test_no_process_shows_a_secret_in_its_arguments(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    async def note(argv: tuple[str, ...], data: bytes, seconds: float) -> None:
        seen.append(argv)
        assert SECRET.encode() in data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "run_program", note)
        patch.setattr(sending, "has_apprise", lambda: True)
        attempt(by_apprise(f"slack://{SECRET}"))
    assert seen == [(sys.executable, "-P", "-m", "sidecar.notify.apprise_child")]


@pytest.mark.parametrize("text", ["@everyone look", "<!channel> look", "<@U123>", "@Here"])
def test_nothing_in_a_text_calls_everybody(text: str) -> None:
    shown = harmless(text)
    assert "<" not in shown
    assert "@everyone" not in shown
    assert "@Here" not in shown
