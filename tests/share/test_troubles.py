"""What is wrong with an engine, as a sentence."""

from __future__ import annotations

import pytest

from sidecar.share import read_url
from sidecar.share.troubles import EngineError, Trouble, explain

ADDRESS = read_url("redis://me:hunter2@mx")


class ResponseError(Exception):
    """As redis-py has it; it need not be installed for this."""


def why(error: BaseException) -> Trouble:
    return explain(error, ADDRESS, group="mail", seconds=5.0)


@pytest.mark.parametrize(
    ("error", "said", "fatal"),
    [
        (ResponseError("WRONGPASS invalid username-password pair"), "--share-password-file", True),
        (ResponseError("NOPERM no permissions to run 'xadd'"), "~tsa-sidecar:{mail}:*", False),
        (ResponseError("READONLY You can't write against a read only replica."), "replica", True),
        (ResponseError("OOM command not allowed"), "maxmemory", False),
        (ResponseError("LOADING Redis is loading the dataset"), "loading", True),
        (ResponseError("MISCONF Redis is configured to save"), "disk", False),
        (ResponseError("TRYAGAIN Multiple keys request"), "rearranged", True),
        (ResponseError("unknown command 'XADD'"), "Redis 6.2", False),
        (ResponseError("something else"), "refuses: something else", False),
        (TimeoutError(), "within 5 s", True),
        (ConnectionRefusedError("no"), "can't be reached: no", True),
        (
            ConnectionError("Error -2 connecting to mx:6379. Name or service not known."),
            "can't be reached: Name or service not known; tried again",
            True,
        ),
        (ConnectionError("Error while reading from mx:1 : (104, 'reset by peer')"), "TLS", True),
        (
            ConnectionError("Error 111 connecting to mx:6379. Connect call failed ('::1', 6379)."),
            "can't be reached: Connection refused; tried again",
            True,
        ),
        (
            OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
            "ssl_ca_certs",
            True,
        ),
        (ConnectionError('Protocol error, got "H" as reply type byte'), "not as Redis", True),
        (ResponseError("WRONGTYPE Operation against a key"), "delete it", False),
        (OSError(), "can't be reached: OSError", True),
        (EngineError("the Sentinel knows nobody"), "knows nobody", True),
    ],
)
def test_each_trouble_has_its_text(error: Exception, said: str, fatal: bool) -> None:
    found = why(error)
    assert said in found.text
    assert found.text.startswith("redis://mx:6379: ")
    assert found.fatal is fatal


def test_no_text_shows_a_secret_or_leaves_its_line() -> None:
    text = why(ResponseError("bad 'hunter2'\r\n\x1b[31m" + "x" * 5000)).text
    assert "hunter2" not in text
    assert text.isprintable()
    assert len(text) < 500
