"""Apprise itself, where it is installed: in a process of its own, told by a pipe."""

from __future__ import annotations

import pytest

from .support import receiving
from .test_sending import SECRET, attempt, by_apprise, message, refusal


def test_apprise_takes_title_and_text() -> None:
    with receiving() as chat:
        attempt(by_apprise(chat.url.replace("http://", "json://") + f"/{SECRET}"))
    (told,) = chat.messages
    assert told["title"] == message().title
    assert told["message"] == message().text


@pytest.mark.parametrize("url", [f"nothing://{SECRET}", f"json://127.0.0.1:9/{SECRET}"])
def test_apprises_errors_show_no_secret(url: str) -> None:
    reason = str(refusal(by_apprise(url)))
    assert SECRET not in reason
    assert "exit code 1" in reason
