"""Connections to a name with several addresses, on real sockets: names are answered by a loop that knows them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadgen.client.endpoint import Addresses

Info = tuple[Any, Any, int, str, tuple[Any, ...]]


class NamedLoop(asyncio.SelectorEventLoop):
    """An event loop with its own names, as /etc/hosts would give them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}
        self.lookups = 0
        self.tried: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Info]:
        """Answer from `names`."""
        self.lookups += 1
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.names[host]
        ]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Note the address."""
        self.tried.append(address[0])
        await super().sock_connect(sock, address)


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def silent(host: str) -> AsyncIterator[int]:
    """A port whose queue of connections is full, so that a connection attempt is not answered, as in a dead network."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.bind((host, 0))
        server.listen(0)
        port = server.getsockname()[1]
        filling = [socket.socket(server.family) for _ in range(4)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex((host, port))
        yield port
        for each in filling:
            each.close()


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=NamedLoop) as runner:
        return runner.run(main())


async def peer(addresses: Addresses) -> str:
    transport, _ = await addresses.connect(asyncio.Protocol)
    try:
        return str(transport.get_extra_info("peername")[0])
    finally:
        transport.abort()


def loop() -> NamedLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, NamedLoop)
    return running


@pytest.mark.parametrize("dead", ["::1", "127.0.0.2"])
def test_a_dead_address_costs_a_quarter_of_a_second_once(dead: str) -> None:
    """Nothing answers at the first address. The second one is used, and from then on it is tried first."""

    async def main() -> None:
        async with silent(dead) as port:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            async with server:
                loop().names = {"server": [dead, "127.0.0.1"]}
                addresses = Addresses("server", port)
                async with asyncio.timeout(60):
                    assert [await peer(addresses) for _ in range(3)] == ["127.0.0.1"] * 3
                assert loop().tried == [dead, "127.0.0.1", "127.0.0.1", "127.0.0.1"]
                assert loop().lookups == 1

    run(main)


def test_an_address_that_refuses_is_passed_over_at_once() -> None:
    async def main() -> None:
        async with listening() as port:
            loop().names = {"server": ["::1", "127.0.0.1"]}
            assert await peer(Addresses("server", port)) == "127.0.0.1"

    run(main)


def test_a_name_is_resolved_again_only_after_a_failure() -> None:
    """The server moves to another address."""

    async def main() -> None:
        async with listening() as port:
            loop().names = {"server": ["127.0.0.1"]}
            addresses = Addresses("server", port)
            await peer(addresses)
            await peer(addresses)
            assert loop().lookups == 1
        with pytest.raises(ConnectionRefusedError):
            await peer(addresses)
        loop().names = {"server": ["127.0.0.3"]}
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.3", port)
        async with server:
            assert await peer(addresses) == "127.0.0.3"
        assert loop().lookups == 2

    run(main)
