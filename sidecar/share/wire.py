"""One connection to the engine, through redis-py.

In: an address, commands.  Out: answers as the engine gives them, within a time.  A
connection is never made again behind our back: behind the same address there may be
another engine by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, TypeAlias

from sidecar.look_up import addresses
from sidecar.secret import Secret

from .address import Address, spell_place
from .troubles import EngineError

Word: TypeAlias = bytes | str | int
"""A word of a command."""

_HOPS: Final = 4


def script(name: str) -> str:
    """The text of a script of this room, whole: with what it needs of ``order.lua``."""
    text = files(__package__).joinpath(f"{name}.lua").read_text()
    if "comes_before(" in text:
        text = files(__package__).joinpath("order.lua").read_text() + text
    return text


class Wire:
    """A connection.  Not for two tasks at once."""

    def __init__(self, connection: Any, *, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    async def call(self, *words: Word, wait: float = 0.0) -> Any:
        """The answer to a command; `wait` seconds longer than usual.

        Raises what redis-py raises, and TimeoutError.
        """
        async with asyncio.timeout(self._seconds + wait):
            await self._connection.send_command(*words)
            return await self._connection.read_response(disable_decoding=True)

    async def call_all(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers to several commands in one round trip; the engine's refusals as values."""
        from redis.exceptions import ResponseError  # noqa: PLC0415 - only where sharing is on

        answers: list[Any] = []
        async with asyncio.timeout(self._seconds):
            await self._connection.send_packed_command(self._connection.pack_commands(commands))
            for _ in commands:
                try:
                    answers.append(await self._connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    answers.append(error)
        return answers

    async def close(self) -> None:
        """Close it; what is under way is lost."""
        # With TLS that takes an answer of the other side: a loop that ends before leaves a socket.
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await self._connection.disconnect()


async def open_wire(address: Address, *, key: str, seconds: float) -> Wire:
    """A connection to the engine that holds `key`.

    Raises what redis-py raises, TimeoutError, OSError and EngineError.
    """
    from redis.exceptions import MovedError  # noqa: PLC0415

    places = (
        await _ask_sentinels(address, seconds) if address.kind == "sentinel" else address.places
    )
    wire = await _first(address, places, seconds)
    for _ in range(_HOPS):
        try:
            await wire.call("EXISTS", key)
        except MovedError as moved:
            await wire.close()
            wire = await _connect(address, (moved.host, moved.port), seconds)
        except BaseException:
            await wire.close()
            raise
        else:
            return wire
    await wire.close()
    raise EngineError("the nodes of the Cluster send us from one to the other: see CLUSTER SLOTS")


async def _first(address: Address, places: Sequence[tuple[str, int]], seconds: float) -> Wire:
    """A connection to the first of the places that takes one."""
    for place in places[:-1]:
        try:
            return await _connect(address, place, seconds)
        except Exception:  # noqa: BLE001, S112 - the last one's error is raised
            continue
    return await _connect(address, places[-1] if places else ("", 0), seconds)


async def _ask_sentinels(address: Address, seconds: float) -> Sequence[tuple[str, int]]:
    """Where the primary is."""
    failure: Exception = EngineError("no Sentinel is named")
    for place in address.places:
        try:
            wire = await _connect(address, place, seconds, sentinel=True)
            try:
                found = await wire.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
            finally:
                await wire.close()
        except Exception as error:  # noqa: BLE001 - the next one may answer
            failure = error
            continue
        if found is not None:
            return [(found[0].decode(), int(found[1]))]
        where = spell_place(*place)
        failure = EngineError(f"the Sentinel {where} knows no primary {address.service!r}")
    raise failure


async def _connect(
    address: Address, place: tuple[str, int], seconds: float, *, sentinel: bool = False
) -> Wire:
    from redis.asyncio.connection import (  # noqa: PLC0415
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
    )
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    user, password = address.user, address.password
    if sentinel:
        user, password = address.sentinel_user, address.sentinel_password
    options: dict[str, Any] = {
        "username": user,
        "password": password.value if isinstance(password, Secret) else None,
        "db": 0 if sentinel else address.db,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        # The time-outs are ours: redis-py's go through asyncio.wait_for, which before
        # Python 3.12 swallows a cancellation that comes together with the answer.
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    connection: Any
    if address.kind == "unix":
        connection = UnixDomainSocketConnection(path=address.path, **options)
    elif address.tls is None:
        connection = Connection(host=place[0], port=place[1], **options)
    else:
        tls = address.tls
        connection = SSLConnection(
            host=place[0],
            port=place[1],
            ssl_ca_certs=tls.ca_certs,
            ssl_certfile=tls.certfile,
            ssl_keyfile=tls.keyfile,
            ssl_cert_reqs="required" if tls.verify else "none",
            ssl_check_hostname=tls.check_hostname,
            **options,
        )
    wire = Wire(connection, seconds=seconds)
    try:
        async with asyncio.timeout(seconds):
            if address.kind != "unix":
                # redis-py looks the name up as asyncio does: only once that is known to be quick.
                await addresses(*place)
            await connection.connect()
    except BaseException:
        await wire.close()
        raise
    return wire
