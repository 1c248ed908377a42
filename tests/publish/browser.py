"""A real Chromium without a window, driven over its debugging protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsproto.events import TextMessage

from tests.kumod_standin import WebSocketClient

SECONDS = 120.0


class Browser:
    """One tab."""

    def __init__(self, url: str) -> None:
        self._socket = WebSocketClient(url, seconds=SECONDS)
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Say no more."""
        self._socket.close()

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._socket.send(TextMessage(data=json.dumps(message)))
        while True:
            said = json.loads(self._socket.text())
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def script(self, text: str) -> Any:
        """The value of an expression on the page."""
        done = self.call("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, text: str) -> Any:
        """Wait until an expression is something true; that."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.script(text)):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        return value

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Give the window a size and the page a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Chromium with its files in `directory`."""
    process = subprocess.Popen(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-dev-shm-usage", "--remote-debugging-port=0", "--disable-background-networking",
         "--disable-extensions", f"--user-data-dir={directory}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        file, deadline = directory / "DevToolsActivePort", time.monotonic() + SECONDS
        while not file.exists() or not file.read_text().strip():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = file.read_text().split()[0]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
        with urllib.request.urlopen(request) as answer:
            tab = Browser(json.load(answer)["webSocketDebuggerUrl"])
        with contextlib.closing(tab):
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait()
