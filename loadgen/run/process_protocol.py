"""The protocol between a process and the child processes that send requests for it.

`loadgen.run.workers` (`--workers`) and `loadgen.distributed.worker` (Locust) start such child processes. A message is one
line of JSON over a pair of connected sockets, of which the child's is its stdin. The first message tells the child what to do.
The child answers with Reports, the first one when it can send requests. When its stdin ends, the parent has no more messages
or does not exist any more.

This module does not know what the parent tells its child: each kind of child process defines its own messages.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import uvloop
from msgspec.json import Decoder

from loadgen.measure.client_health import HealthReport
from loadgen.record import Record

LINE_LIMIT = 1 << 26
"""Largest message in bytes. A partition contains all problems, and a health report contains every measured lag."""

T = TypeVar("T")


class ProcessDiedError(Exception):
    """A child process ended before it had sent its last message."""


class Report(msgspec.Struct, omit_defaults=True):
    """What happened in a child process since its last report.

    The last one of `--workers` has either `health` or `disk_full`. Locust's sender process writes its health to a file.
    """

    due: int = 0
    answered: int = 0
    tokens: dict[int, int] = {}
    """Completion tokens by budget."""
    records: list[Record] = []
    """Without the texts."""
    lags_s: list[float] = []
    gaps: list[int] = []
    gaps_sum_s: float = 0.0
    health: HealthReport | None = None
    disk_full: str | None = None
    """Why nothing more can be recorded."""


REPORTS = Decoder(Report)
"""Decodes the messages of a child process."""


def command(module: str) -> list[str]:
    """The command line that starts a module as a child process."""
    return [sys.executable, "-m", module]


def encode(message: msgspec.Struct) -> bytes:
    """One message as a line."""
    return msgspec.json.encode(message) + b"\n"


class Channel:
    """One end of the connection, for a program on asyncio. Locust's worker, which runs on gevent, uses a socket itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Use one end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_LIMIT))

    def send(self, message: msgspec.Struct) -> None:
        """Send a message without waiting for the other process; one that has ended does not receive it."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self, decoder: Decoder[T]) -> T | None:
        """The next message, or None when the other process has ended or has no more messages."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return decoder.decode(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Wait until the other process has received every message, or has ended."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass(frozen=True)
class ChildProcess:
    """A child process of a program on asyncio."""

    process: asyncio.subprocess.Process
    channel: Channel
    name: str
    """What errors call it."""

    @classmethod
    async def start(cls, module: str, name: str, first: msgspec.Struct, lock: int) -> "ChildProcess":
        """Start a module as a child process and send the first message to it.

        It holds the lock of the result folder until it ends. Ctrl-C in the terminal reaches the parent only.
        """
        ours, its = socket.socketpair()
        with its:
            process = await asyncio.create_subprocess_exec(
                *command(module),
                stdin=its.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(lock,),
            )
        channel = await Channel.over(ours)
        channel.send(first)
        return cls(process, channel, name)

    async def receive(self) -> Report:
        """The next report. Raises ProcessDiedError where the child process ends without one."""
        if (report := await self.channel.receive(REPORTS)) is None:
            raise ProcessDiedError(f"{self.name} died (exit status {await self.end()})")
        return report

    async def end(self) -> int:
        """Wait until the child process has ended, and return its exit status."""
        await self.channel.close()
        return await self.process.wait()


def run_child(serve: Callable[[Channel], Coroutine[None, None, None]]) -> None:
    """Run a child process: call `serve` on an event loop of its own with the connection to the parent."""

    async def connect_and_serve() -> None:
        await serve(await Channel.over(socket.socket(fileno=sys.stdin.fileno())))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(connect_and_serve())
