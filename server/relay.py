"""`python -m server relay PORT …`: lets a container reach what listens on this host's loopback, and nobody else.

On Linux a container reaches the host at the bridge's address, where nothing of ours listens: servers and generators bind
127.0.0.1. This runs in the host's network and forwards bridge:PORT to 127.0.0.1:PORT, for as long as somebody listens
there and no longer, so that it never takes a port that its owner wants on all addresses. Docker Desktop forwards by
itself: there the bridge's address is not ours to bind, and the relay idles.

Rules: bytes in, bytes out. Does not know: HTTP.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.config import ConfigError

LISTEN = "0A"
LOOPBACK = "0100007F"


def listening_on_loopback(table: str) -> set[int]:
    """Ports of 127.0.0.1 in state LISTEN, from the text of /proc/net/tcp."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return {
        int(row[1].partition(":")[2], 16) for row in rows if row[3] == LISTEN and row[1].startswith(LOOPBACK)
    }


def listening_now() -> set[int]:
    """Ports of this machine's loopback with a listener."""
    return listening_on_loopback(Path("/proc/net/tcp").read_text())


def ports_of(arguments: Iterable[str]) -> list[int]:
    """`8000-8002 9464` as single ports. Raises ConfigError."""
    spans = []
    for argument in arguments:
        first, _, last = argument.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) <= 65535):
            raise ConfigError(f"relay {argument}: write a port or a span of ports, e.g. 8000-8015")
        spans.append(range(int(first), int(last) + 1))
    return [port for span in spans for port in span]


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(65536):
            sink.write(piece)
            await sink.drain()
    with contextlib.suppress(ConnectionError, RuntimeError):
        sink.write_eof()


async def forward(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, both ways, until both ends have finished."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
    inner_writer.close()
    writer.close()


async def relay(address: str, ports: list[int], poll_s: float = 0.5) -> None:
    """Open and close listeners as their loopback twins come and go; runs until it is cancelled."""
    open_: dict[int, asyncio.Server] = {}
    while True:
        wanted = listening_now() & set(ports)
        for port in wanted - open_.keys():
            with contextlib.suppress(OSError):  # taken, or not our address: try again next time

                async def serve(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port
                ) -> None:
                    await forward(port, reader, writer)

                open_[port] = await asyncio.start_server(serve, address, port)
        for port in open_.keys() - wanted:
            open_.pop(port).close()
        await asyncio.sleep(poll_s)


async def _until_told(address: str, ports: list[int]) -> None:
    task = asyncio.ensure_future(relay(address, ports))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def add_verb(verbs: Any) -> None:
    """Add `relay` to the parser of `python -m server`."""
    verb = verbs.add_parser(
        "relay",
        help="let containers reach this host's loopback (used by docker-compose.yml)",
        epilog="example: python -m server relay 8000-8015 9464",
    )
    verb.add_argument("ports", nargs="+", metavar="PORT", help="ports to relay, e.g. 8000-8015 9464")
    verb.add_argument(
        "--host",
        default="host.docker.internal",
        help="name by which containers know this machine [host.docker.internal]",
    )
    verb.set_defaults(verb=main)


def main(args: argparse.Namespace) -> int:
    """Relay until SIGTERM."""
    ports = ports_of(args.ports)
    try:
        address = socket.gethostbyname(args.host)
    except OSError:
        print(
            f"relay: {args.host} has no address: start it with extra_hosts host-gateway (docker-compose.yml)",
            file=sys.stderr,
        )
        return 2
    print(f"relay: {address} → 127.0.0.1 for {' '.join(args.ports)}", file=sys.stderr)
    asyncio.run(_until_told(address, ports))
    print(json.dumps({"relayed": args.ports}))
    return 0
