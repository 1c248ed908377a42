"""Log records made by hand: an SMTP response and who it was for in, a log line out.

The log room decodes the line as it decodes every other.  So what a tool says of it
is what the service would do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.shaping.mx import MxAnswer, MxError, Resolver
from sidecar.times import format_rfc3339

_NUMBER = r"(?:0|[1-9][0-9]{0,2})"
_RESPONSE = re.compile(
    rf"(?P<code>[2-5][0-9][0-9])(?:[ -](?:(?P<enhanced>[245]\.{_NUMBER}\.{_NUMBER})(?: |$))?"
    r"(?P<content>.*))?",
    re.DOTALL,
)
_ENHANCED = re.compile(r"([0-9]{1,3})\.([0-9]{1,5})\.([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Response:
    """An SMTP response: ``enhanced`` is ``"4.7.0"`` or None, ``content`` the rest."""

    code: int
    enhanced: str | None
    content: str

    @property
    def record_type(self) -> str:
        """The type of the record that kumod writes of such a response."""
        if self.code >= 500:
            return "Bounce"
        return "TransientFailure" if self.code >= 400 else "Delivery"


def parse_response(text: str) -> Response:
    """A response as it stands in an SMTP session, ``421 4.7.0 text``; ValueError for others.

    Each of several lines may repeat the code (RFC 5321 section 4.2.1).  kumod logs
    the lines without it.
    """
    text = text.strip("\r\n")
    m = _RESPONSE.fullmatch(text)
    if m is None:
        what = "is empty" if not text.strip() else "does not begin with an SMTP code"
        raise ValueError(f'the response {what}: write it as "421 4.7.0 text" or "550 text"')
    enhanced, content = m["enhanced"], m["content"] or ""
    again = rf"(\r\n|\r|\n){m['code']}[ -]"
    if enhanced is not None:
        again += rf"(?:{re.escape(enhanced)} )?"
    return Response(int(m["code"]), enhanced, re.sub(again, r"\1", content))


def parse_enhanced(text: str) -> dict[str, int]:
    """``"4.7.0"`` as kumod logs it; ValueError where it is no enhanced status code (RFC 3463)."""
    m = _ENHANCED.fullmatch(text)
    if m is None:
        raise ValueError(f'{text!r} is no enhanced status code such as "4.7.0"')
    return dict(zip(("class", "subject", "detail"), map(int, m.groups()), strict=True))


def log_record(
    response: Response,
    *,
    recipients: Sequence[str],
    queue: str,
    site: str,
    source: str | None,
    time_ns: int,
) -> dict[str, Any]:
    """The fields of a log record that the automation looks at; `source` None leaves it out."""
    enhanced = None if response.enhanced is None else parse_enhanced(response.enhanced)
    record = {
        "type": response.record_type,
        "recipient": recipients[0] if len(recipients) == 1 else list(recipients),
        "queue": queue,
        "site": site,
        "response": {
            "code": response.code,
            "enhanced_code": enhanced,
            "content": response.content,
            "command": None,
        },
        "event_time": format_rfc3339(time_ns),
    }
    return record if source is None else {**record, "egress_source": source}


def encode(record: dict[str, Any]) -> bytes:
    """The record as a line of a log, without its end; ValueError for text that is no Unicode."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not UTF-8") from None


def ready_queue(site: str, source: str) -> str:
    """The ready queue's name as kumod logs it, given that or only its site."""
    return site if not site or "->" in site else f"{source}->{site}@smtp_client"


async def ask_mx(domain: str, resolver: Resolver) -> MxAnswer | MxError:
    """The MX of `domain`, or why it has none."""
    try:
        return await resolver.resolve(domain)
    except MxError as error:
        return error
