"""The relay listens on a port exactly as long as a program listens on the same port of 127.0.0.1."""

import asyncio
import contextlib
import socket

from server.relay import listening_on_loopback, ports_of, relay
from tests.fixtures.parallel import free_port

BRIDGE = "127.0.0.9"  # an address other than 127.0.0.1 that can be bound, instead of the address of the bridge


def test_ports_are_single_or_ranges() -> None:
    assert ports_of(["8000-8002", "9464"]) == [8000, 8001, 8002, 9464]


def test_only_listeners_on_loopback_count() -> None:
    """A listener on all addresses needs no relay, and an open connection is not a listener."""
    with (
        socket.create_server(("127.0.0.1", 0)) as loopback,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.create_connection(loopback.getsockname()) as connection,
    ):
        ports = [each.getsockname()[1] for each in (loopback, everywhere, connection)]
        assert [port in listening_on_loopback() for port in ports] == [True, False, False]


async def answered(host: str, port: int) -> bytes | None:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"ping")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer
    return None


async def until(host: str, port: int, expected: bytes | None) -> bool:
    for _ in range(100):
        if await answered(host, port) == expected:
            return True
        await asyncio.sleep(0.05)
    return False


def test_relay_follows_the_listener() -> None:
    """Connections fail before the listener exists, work in both directions while it does, and fail afterwards."""
    port = free_port()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.read() + b">")
        writer.close()

    async def scenario() -> None:
        task = asyncio.ensure_future(relay(BRIDGE, [port], poll_s=0.05))
        assert await answered(BRIDGE, port) is None
        server = await asyncio.start_server(echo, "127.0.0.1", port)
        assert await until(BRIDGE, port, b"<ping>")
        server.close()
        await server.wait_closed()
        assert await until(BRIDGE, port, None)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
