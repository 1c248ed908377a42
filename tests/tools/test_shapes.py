"""What varies in a response is folded; what it says stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tools.shapes import group_name, links, shape


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (
            "421 4.7.0 [TSS04] Messages from 10.0.0.1 temporarily deferred - 4.16.55.1; see "
            "https://postmaster.yahooinc.com/error-codes",
            "421 4.7.0 [TSS04] Messages from <ip> temporarily deferred - <ip>; see "
            "https://postmaster.yahooinc.com/error-codes",
        ),
        (
            "421 4.7.28 your DKIM domain [news.example      36]. "
            "https://support.google.com/mail/?p=UnsolicitedRateLimitError "
            "d2e1a72fcca58-7240b9a1b2csi123.45 - gsmtp",
            "421 4.7.28 your DKIM domain [<host>      <number>]. "
            "https://support.google.com/mail/?p=UnsolicitedRateLimitError <id> - gsmtp",
        ),
        (
            "550 5.7.1 Client host [2a01:4f8::1] blocked using zen.example; "
            "https://www.spamhaus.org/query/ip/10.1.2.3",
            "550 5.7.1 Client host [<ip>] blocked using <host>; "
            "https://www.spamhaus.org/query/ip/<id>",
        ),
        (
            "550 5.4.1 Access denied. [DM6NAM10FT028.prod.outlook.com 2026-11-23T12:33:11.123Z "
            "08DE2A5C1B2F3D4E] (S3140)",
            "550 5.4.1 Access denied. [<host> <time> <id>] (S3140)",
        ),
        ("421 try again in 30 seconds", "421 try again in <number> seconds"),
        ("421 503 5.5.1 bad sequence", "421 <number> 5.5.1 bad sequence"),
        ("550 <other@x.example>: unknown", "550 <<address>>: unknown"),
        ("550 5.1.1 <b.s-7> is unknown", "550 5.1.1 <<recipient>> is unknown"),
        ("550 5.1.1 no user b.s-7 here", "550 5.1.1 no user <recipient> here"),
        ("", ""),
        ("421", "421"),
        ("0 ", "<number> "),
    ],
)
def test_a_response_is_folded(text: str, folded: str) -> None:
    assert shape(text, "b.s-7@example.com") == folded


def test_a_recipient_called_like_a_word_is_folded_in_quotes_only() -> None:
    text = "550 5.1.1 'user' is an unknown user"
    assert shape(text, "user@example.com") == "550 5.1.1 '<recipient>' is an unknown user"


def test_short_answers_about_different_things_stay_apart() -> None:
    answers = ("user unknown", "mailbox full", "access denied", "no longer here")
    shapes = {shape(f"550 5.1.1 <{n}@x.example> {answer}") for n, answer in enumerate(answers)}
    assert shapes == {f"550 5.1.1 <<address>> {answer}" for answer in answers}


_IDS = st.from_regex(r"[a-f]{3}[0-9]{3}[a-f0-9]{6,20}", fullmatch=True)
_IPS = st.ip_addresses(v=4).map(str)
_WORDS = st.from_regex(r"[a-z]{1,12}", fullmatch=True)


@given(
    first=st.tuples(_IDS, _IPS, st.integers(0, 10**12), _WORDS),
    second=st.tuples(_IDS, _IPS, st.integers(0, 10**12), _WORDS),
)
def test_the_same_answer_has_the_same_shape(
    first: tuple[str, str, int, str], second: tuple[str, str, int, str]
) -> None:
    def answer(values: tuple[str, str, int, str]) -> str:
        token, address, number, host = values
        return f"421 4.7.0 slow down {address} ({token}) {number} at {host}.example.com"

    assert shape(answer(first)) == shape(answer(second))


@given(st.text(max_size=300), st.text(max_size=40))
def test_any_text_has_a_shape_and_a_short_name(text: str, recipient: str) -> None:
    assert len(group_name(shape(text, recipient))) == 6


def test_links_are_found_without_what_stands_around_them() -> None:
    text = "421 (see https://a.example/x?p=1), or http://b.example."
    assert links(text) == ["https://a.example/x?p=1", "http://b.example"]
