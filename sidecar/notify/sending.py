"""One attempt: a message to a target.

In: a target, a sealed message.  Out: nothing, or :class:`NotSent` with the reason,
(:class:`NotSent`),  Each attempt ends within the target's time, and at
once when it is cancelled.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .event import shortened
from .message import Message
from .program import NotSent, run_program
from .signature import headers
from .targets import AppriseTarget, CommandTarget, Target, WebhookTarget, without_secrets

NO_APPRISE = "apprise is not installed beside tsa-sidecar: pip install 'kumo-tsa-sidecar[apprise]'"
"""Why a target of apprise can't be told anything."""

_ANSWER_LARGEST = 64 * 1024


def has_apprise() -> bool:
    """Whether the optional library is there."""
    return importlib.util.find_spec("apprise") is not None


async def send(target: Target, message: Message) -> None:
    """Bring `message` to `target`.  Raises NotSent."""
    try:
        match target:
            case CommandTarget():
                await run_program(target.argv, message.body.encode(), target.timeout)
            case WebhookTarget():
                await _post(target, message)
            case AppriseTarget():
                await _by_apprise(target, message)
    except NotSent as reason:
        said = shortened(without_secrets(str(reason), target))
        raise NotSent(said, retry_after=reason.retry_after) from None


async def _post(target: WebhookTarget, message: Message) -> None:
    from sidecar.http_client import HttpClient, Unreachable  # noqa: PLC0415 - 30 ms, 4 MB

    body = message.body.encode()
    key = None if target.key is None else target.key.value
    sent = {
        "Content-Type": "application/json",
        **headers(message.id, int(time.time()), body, secret=key),
    }
    if target.token is not None:
        sent["Authorization"] = f"Bearer {target.token.value}"
    async with HttpClient(seconds=target.timeout, largest=_ANSWER_LARGEST) as client:
        try:
            answer = await client.request("POST", target.url.value, headers=sent, body=body)
        except Unreachable as reason:
            raise NotSent(str(reason)) from None
    if 200 <= answer.status < 300:
        return
    why = f"it answered {answer.status} {answer.text}".rstrip()
    if 300 <= answer.status < 400:
        why = f"it answered {answer.status}: redirects are not followed; give the final URL"
    raise NotSent(why, retry_after=_retry_after(answer.headers))


def _retry_after(answered: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for, which may be a date (RFC 9110, 10.2.3)."""
    text = answered.get("retry-after", "")
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


async def _by_apprise(target: AppriseTarget, message: Message) -> None:
    """In a process of its own: it loads much, may hang, and takes its URL by a pipe."""
    if not has_apprise():
        raise NotSent(NO_APPRISE)
    wanted = {"url": target.url.value, "title": message.title, "text": message.text}
    argv = (sys.executable, "-P", "-m", "sidecar.notify.apprise_child")
    await run_program(argv, json.dumps(wanted).encode(), target.timeout)
