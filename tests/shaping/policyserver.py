"""A real HTTPS server on the loopback that serves MTA-STS policies, with a certificate of its own.

The certificates are made by ``openssl`` for each test run.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.shaping.mx import PolicyServers


@dataclass
class PolicyServer:
    """``pages``: host → (status, content type, body); a host in ``deaf`` is never answered."""

    pages: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    trust: ssl.SSLContext | None = None

    @property
    def servers(self) -> PolicyServers:
        """For the resolver under test."""
        return PolicyServers(self.port, self.trust)

    def serve(self, domain: str, mode: str, hosts: Sequence[str], max_age: int = 86400) -> None:
        """Have `domain` publish this policy."""
        lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in hosts)]
        body = "\r\n".join([*lines, f"max_age: {max_age}", ""])
        self.pages[f"mta-sts.{domain}"] = (200, "text/plain; charset=utf-8", body)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), head
        (host,) = [x.split(" ")[1] for x in head.split("\r\n") if x.lower().startswith("host:")]
        name = host.partition(":")[0]
        self.asked.append(name)
        if name in self.deaf:
            await asyncio.Event().wait()
        status, kind, body = self.pages.get(name, (404, "text/plain", "no"))
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nLocation: https://{host}/other\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def policyserver(directory: Path, *hosts: str) -> AsyncIterator[PolicyServer]:
    """A server with a certificate for `hosts`, by an authority that ``servers`` trusts."""
    key, certificate = directory / "key.pem", directory / "cert.pem"
    names = ",".join(f"DNS:{host}" for host in hosts)
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "36500", "-subj", "/CN=test", "-addext", f"subjectAltName={names}",
        "-keyout", str(key), "-out", str(certificate),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(certificate, key)
    server = PolicyServer(trust=ssl.create_default_context(cafile=str(certificate)))
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=identity)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
