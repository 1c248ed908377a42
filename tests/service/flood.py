"""What a trusted host may do to the listener for ever: ``python -m tests.service.flood KIND PORT``.

``pings``: subscribe, send pings until sent away, come back.  ``metrics``: ask for ``/metrics``
again and again, and never read.  ``halves``: begin requests and never end them.  Writes a
line once it has begun.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections import deque

from wsproto.events import Ping

from tests.kumod_standin import WebSocketClient


def pings(port: int) -> None:
    with WebSocketClient(f"ws://127.0.0.1:{port}/subscribe_event_v1", seconds=5) as client:
        flood = client.ws.send(Ping()) * 10_000
        for _ in range(100):
            client.sock.sendall(flood)


def metrics(port: int, held: deque[socket.socket]) -> None:
    sock = socket.create_connection(("127.0.0.1", port), 5)
    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
    held.append(sock)


def halves(port: int, held: deque[socket.socket]) -> None:
    sock = socket.create_connection(("127.0.0.1", port), 5)
    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    held.append(sock)


def main(kind: str, port: int) -> None:
    os.nice(5)  # what is measured is the service, not who gets the processor
    parent, held = os.getppid(), deque[socket.socket](maxlen=200)
    said = False
    while os.getppid() == parent:
        with contextlib.suppress(OSError, RuntimeError):
            if kind == "pings":
                pings(port)
            else:
                (metrics if kind == "metrics" else halves)(port, held)
                time.sleep(0.0005)
        if not said:
            print("on", flush=True)
            said = True


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
