"""The page in a real browser: what it shows, what it does not run, how it looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.publish.http import Endpoint
from sidecar.publish.metrics import Metrics
from sidecar.settings import Address
from tests.publish.browser import Browser, browser

HOSTILE = (
    "</script><script>window.struck = 1</script>",
    "<img src=x onerror='window.struck = 1'>",
    '"><svg onload=window.struck=1>',
    "javascript:window.struck=1",
    "\u202egnp.exe\u2066 \u200b\x1b[2J\x00",
    "{{constructor.constructor('window.struck=1')()}}",
    "x" * 200_000,
    "m" + "\u0301" * 5000,
)


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "kind": "override",
        "domain": f"d{number}.example",
        "site": "ip1->mx.example@smtp_client",
        "source": "ip1",
        "what": {"option": "max_message_rate", "value": "10/m"},
        "rule": {"name": "gmail too fast", "file": "/etc/shaping.toml", "line": 12},
        "reason": "421 4.7.28 too many messages",
        "began": f"2026-11-24T0{number % 10}:30:00Z",
        "matches": number,
        "expires": "2026-11-24T14:00:00Z",
        **more,
    }


def document(**more: Any) -> dict[str, Any]:
    return {
        "at": "2026-11-24T12:00:00Z",
        "version": "1.0",
        "state": "running",
        "newest_record": "2026-11-24T11:59:58Z",
        "bytes_waiting": 0,
        "conditions": [],
        "in_force": [entry(n) for n in range(3)],
        "in_force_total": 3,
        "ended": [
            entry(7, kind="ready_q", what=None, ended="2026-11-24T09:00:00Z", how="expired"),
            entry(8, kind="bounce", what=None, ended="2026-11-24T10:00:00Z", how="cancelled"),
        ],
        **more,
    }


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def listener() -> Iterator[Endpoint]:
    with Endpoint(Address("127.0.0.1", 0), metrics=Metrics.create()) as endpoint:
        yield endpoint


def show(tab: Browser, listener: Endpoint, said: dict[str, Any]) -> None:
    listener.set_page_data(lambda: json.dumps(said).encode())
    tab.events.clear()
    tab.call("Page.navigate", url=listener.url)
    tab.until("document.readyState === 'complete' && $('health').className !== 'badge'")


def text(tab: Browser, name: str) -> str:
    return str(tab.script(f"document.getElementById('{name}').innerText"))


def complaints(tab: Browser) -> list[Any]:
    """What the browser says went wrong, a breach of the page's policy included."""
    tab.script("1")
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
    return [event for event in tab.events if event["method"] in kinds]


def test_it_shows_what_is_in_force_and_the_last_day(tab: Browser, listener: Endpoint) -> None:
    show(tab, listener, document())
    assert "all is well" in text(tab, "health")
    assert "3 in force" in text(tab, "count")
    entries = text(tab, "entries")
    assert 'set max_message_rate = "10/m"' in entries
    assert "domain d0.example, site ip1->mx.example@smtp_client" in entries
    assert "gmail too fast" in entries
    assert tab.script("document.querySelectorAll('#timeline li').length") == 5
    assert tab.script("document.querySelectorAll('#timeline .bar.now').length") == 3
    assert "(cancelled)" in text(tab, "timeline")
    assert complaints(tab) == []


def test_it_asks_nobody_else(tab: Browser, listener: Endpoint) -> None:
    show(tab, listener, document())
    asked = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url.removeprefix(listener.url) for url in asked} <= {
        "/", "/tsa/sidecar/page.json", "data:,"
    }  # fmt: skip
    assert asked


def test_searching_narrows_the_list(tab: Browser, listener: Endpoint) -> None:
    show(tab, listener, document())
    tab.script("$('search').focus()")
    tab.call("Input.insertText", text="RATE d1.")
    assert text(tab, "count") == "1 of 3 in force"
    assert "d1.example" in text(tab, "entries")
    assert "d2.example" not in text(tab, "entries")


def test_it_updates_itself_and_says_when_it_can_not(tab: Browser, listener: Endpoint) -> None:
    show(tab, listener, document())
    bad = [{"code": "x", "level": "error", "text": "the disk is full"}]
    said = document(conditions=bad, in_force=[], in_force_total=0)
    listener.set_page_data(lambda: json.dumps(said).encode())
    tab.until("$('count').textContent === '0 in force'")
    assert "something is wrong" in text(tab, "health")
    assert "the disk is full" in text(tab, "conditions")
    listener.stop()
    tab.until("$('health').textContent.includes('no answer')")


def test_nothing_that_a_remote_side_says_is_run_or_hidden(tab: Browser, listener: Endpoint) -> None:
    said = [
        entry(n, domain=bad, site=bad, source=bad, reason=bad, kind=bad, id=bad,
              rule={"name": bad, "file": bad, "line": 1}, what={"option": bad, "value": bad},
              expires=bad, began=bad)
        for n, bad in enumerate(HOSTILE)
    ]  # fmt: skip
    conditions = [{"code": "x", "level": "warning", "text": bad} for bad in HOSTILE]
    ended = [{**e, "ended": "2026-11-24T09:00:00Z", "how": HOSTILE[0]} for e in said]
    show(tab, listener, document(in_force=said, conditions=conditions, ended=ended))
    tab.until("document.querySelectorAll('#entries tr').length === 8")
    assert tab.script("window.struck") is None
    assert tab.script("document.querySelectorAll('main script, img, svg, iframe').length") == 0
    shown = text(tab, "entries")
    assert HOSTILE[0] in shown
    assert "\\u202egnp.exe\\u2066 \\u200b\\u001b[2J\\u0000" in shown
    assert "\u202e" not in shown
    assert tab.script("document.body.innerText.length") < 60_000
    tab.look(width=390)
    assert tab.script("document.documentElement.scrollWidth <= innerWidth")
    assert complaints(tab) == []


def test_the_policy_forbids_what_the_page_does_not_do(tab: Browser, listener: Endpoint) -> None:
    show(tab, listener, document())
    tab.script(
        "{const s = document.createElement('style'); s.textContent = 'body{color:red}';"
        "document.head.append(s); const i = new Image(); i.src = 'http://127.0.0.1:1/x';"
        "document.body.append(i); try { document.body.innerHTML = '<b>x</b>' } catch {} 0}"
    )
    assert tab.script("document.querySelector('b')") is None
    refused = json.dumps(complaints(tab))
    assert "style-src" in refused
    assert "img-src" in refused


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(
    tab: Browser, listener: Endpoint, width: int, dark: bool, tmp_path: Path
) -> None:
    tab.look(width=width, dark=dark)
    warning = [{"code": "x", "level": "warning", "text": "the log directory can't be read"}]
    show(tab, listener, document(conditions=warning))
    assert tab.script("document.documentElement.scrollWidth <= innerWidth")
    colour = tab.script("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour.strip("rgb()").split(","))) < 150) is dark
    (tmp_path / "page.png").write_bytes(tab.screenshot())


def test_a_screen_reader_and_the_keyboard_get_everything(tab: Browser, listener: Endpoint) -> None:
    tab.look(width=1280)
    show(tab, listener, document())
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes
    }
    for heading in ("tsa-sidecar", "Health", "In force", "The last day"):
        assert ("heading", heading) in named
    assert any(role == "searchbox" and name.startswith("Search") for role, name in named if role)
    assert {name for role, name in named if role == "columnheader"} == {
        "What", "Where", "Why", "Until"
    }  # fmt: skip
    tab.script("document.activeElement.blur()")
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                 windowsVirtualKeyCode=9)  # fmt: skip
    assert tab.script("document.activeElement.id") == "search"
