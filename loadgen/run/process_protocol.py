"""The protocol between a process and the child processes that send requests for it.

`loadgen.run.workers` (`--workers`) and `loadgen.distributed.worker` (Locust) start such child processes. A message is one
line of JSON: the parent writes to the child's stdin, and the child writes to its stdout. The first message tells the child
what to do. The child answers with Reports, the first one when it can send requests. When stdin ends, the parent has no more
messages or does not exist any more.

This module does not know what the parent tells its child: each kind of child process defines its own messages.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
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
    """What happened in a child process since its last report. The last one has either `health` or `disk_full`."""

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


def without_texts(record: Record) -> Record:
    """A record as it is reported."""
    return msgspec.structs.replace(record, text=None, reasoning=None, phases=None)


def command(module: str) -> list[str]:
    """The command line that starts a module as a child process."""
    return [sys.executable, "-m", module]


def encode(message: msgspec.Struct) -> bytes:
    """One message as a line."""
    return msgspec.json.encode(message) + b"\n"


class ChildProcess:
    """The parent's side, for a program on asyncio. Locust's worker, which runs on gevent, uses `subprocess` instead."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, module: str, name: str, first: msgspec.Struct, lock: int) -> "ChildProcess":
        """Start a module as a child process and send the first message to it; errors call it `name`.

        It holds the lock of the result folder until it ends.
        """
        process = await asyncio.create_subprocess_exec(
            *command(module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # Ctrl-C in the terminal reaches the parent only
            pass_fds=(lock,),
        )
        child = cls(process, name)
        child.send(first)
        return child

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; a child process that has ended does not receive it."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(encode(message))

    async def receive(self) -> Report:
        """The next report. Raises ProcessDiedError where the child process ends without one."""
        stdout = self._process.stdout
        line = await stdout.readline() if stdout is not None else b""
        if not line.endswith(b"\n"):
            raise ProcessDiedError(f"{self._name} died (exit status {await self.wait()})")
        return msgspec.json.decode(line, type=Report)

    async def wait(self) -> int:
        """Wait until the child process has ended, and return its exit status."""
        return await self._process.wait()


class ParentConnection(asyncio.BaseProtocol):
    """The child's side: messages from the parent and to it."""

    _out: asyncio.WriteTransport

    def __init__(self) -> None:
        self._lines = asyncio.StreamReader(limit=LINE_LIMIT)
        self._lost = asyncio.Event()

    @classmethod
    async def open(cls) -> "ParentConnection":
        """Connect to this process's stdin and stdout."""
        loop, connection = asyncio.get_running_loop(), cls()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(connection._lines), sys.stdin)
        connection._out, _ = await loop.connect_write_pipe(lambda: connection, sys.stdout)
        return connection

    async def receive(self, decoder: Decoder[T]) -> T | None:
        """The next message, or None when the parent has closed the pipe or has ended."""
        line = await self._lines.readline()
        return decoder.decode(line) if line.endswith(b"\n") else None

    def send(self, message: Report) -> None:
        """Send a report without waiting for the parent, which may be slow; one that has ended does not receive it."""
        if not self._out.is_closing():
            self._out.write(encode(message))

    async def close(self) -> None:
        """Wait until the parent has received every message, or has ended."""
        self._out.close()
        await self._lost.wait()

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by the event loop when stdout is closed, after everything was written or the parent has ended."""
        self._lost.set()


def run_child(serve: Callable[[ParentConnection], Coroutine[None, None, None]]) -> None:
    """Run a child process: call `serve` on an event loop of its own with the connection to the parent."""

    async def connect_and_serve() -> None:
        await serve(await ParentConnection.open())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(connect_and_serve())
