"""`python -m server relay PORT …`: lets containers reach ports that listen on the loopback interface of this host.

On Linux, a container reaches its host at the address of the Docker bridge. Servers and load generators listen on 127.0.0.1
only, so the container cannot reach them. The relay runs in the host's network and forwards bridge:PORT to 127.0.0.1:PORT.
It listens on a port only while a program listens on the same port of 127.0.0.1, so that it never occupies a port that a
program wants to open on all addresses. Docker Desktop forwards such connections itself. There the relay cannot bind the
address of the bridge and does nothing.

The relay copies bytes and does not know HTTP.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from server.config import ConfigError
from server.launch.ports import listeners

LOOPBACK = "0100007F"
"""The address 127.0.0.1 in /proc/net/tcp."""


def listening_on_loopback() -> set[int]:
    """The ports of this machine's 127.0.0.1 on which a program listens now."""
    return {port for address, port, _ in listeners() if address == LOOPBACK}


def ports_of(arguments: Iterable[str]) -> list[int]:
    """Converts ports and ranges of ports (`8000-8002 9464`) to a list of ports. Raises ConfigError."""
    ranges = []
    for argument in arguments:
        first, _, last = argument.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) <= 65535):
            raise ConfigError(f"relay {argument}: write a port or a range of ports, e.g. 8000-8015")
        ranges.append(range(int(first), int(last) + 1))
    return [port for each in ranges for port in each]


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(ConnectionError, RuntimeError):
        sink.write_eof()


async def forward(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies the data of one connection in both directions until both ends have closed."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    inner_writer.close()
    writer.close()


async def relay(address: str, ports: list[int], poll_s: float = 0.5) -> None:
    """Listens on `address` for every port in `ports` that 127.0.0.1 listens on; checks every `poll_s` seconds until canceled."""
    relayed: dict[int, asyncio.Server] = {}
    while True:
        wanted = listening_on_loopback() & set(ports)
        for port in wanted - relayed.keys():
            with contextlib.suppress(OSError):  # the port or the address is not available: try again
                relayed[port] = await asyncio.start_server(partial(forward, port), address, port)
        for port in relayed.keys() - wanted:
            relayed.pop(port).close()
        await asyncio.sleep(poll_s)


def add_command(commands: Any) -> None:
    """Adds `relay` to the commands of `python -m server`."""
    command = commands.add_parser(
        "relay",
        help="let containers reach ports of this host's loopback interface (used by docker-compose.yml)",
        epilog="example: python -m server relay 8000-8015 9464",
    )
    command.add_argument(
        "ports", nargs="+", metavar="PORT", help="ports or ranges of ports to relay, e.g. 8000-8015 9464"
    )
    command.add_argument(
        "--host",
        default="host.docker.internal",
        help="host name by which containers reach this machine [host.docker.internal]",
    )
    command.set_defaults(execute=main)


def main(args: argparse.Namespace) -> int:
    """Relays until SIGTERM or SIGINT and returns the exit status."""
    ports = ports_of(args.ports)
    try:
        address = socket.gethostbyname(args.host)
    except OSError:
        print(
            f"relay: {args.host} has no address: start the relay with extra_hosts host-gateway (see docker-compose.yml)",
            file=sys.stderr,
        )
        return 2
    print(f"relay: {address} → 127.0.0.1 for {' '.join(args.ports)}", file=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(relay(address, ports))
    print(json.dumps({"relayed": args.ports}))
    return 0
