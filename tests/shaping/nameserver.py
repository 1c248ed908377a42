"""A DNS server on a real UDP socket, for tests: it answers what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Answer = Callable[[str], list[str] | dns.rcode.Rcode | None]
"""Name without final dot → records as text lines, an error code, or None for silence."""


class NameServer(asyncio.DatagramProtocol):
    """Answers MX queries; ``queries`` has the names asked for, in order.

    ``silent``: it answers nothing at all.  Else it tells who serves the root
    (nobody), as every server can; ``probes`` counts these questions.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.queries: list[str] = []
        self.probes = 0
        self.silent = False
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        found: list[str] | dns.rcode.Rcode | None = []
        if name == ".":
            self.probes += 1
        else:
            self.queries.append(name)
            found = self.answer(name)
        if found is None or self.silent:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if isinstance(found, dns.rcode.Rcode):
            response.set_rcode(found)
        else:
            for line in found:
                owner, ttl, _, kind, rdata = line.split(maxsplit=4)
                response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, rdata))
        assert self._transport is not None
        self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def nameserver(answer: Answer) -> AsyncIterator[NameServer]:
    """A name server that answers with `answer` while the block runs."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(answer), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
