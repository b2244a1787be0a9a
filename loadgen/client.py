"""Sends a Request and stamps what comes back: one HTTP call, one Exchange.

Rules: `send` never raises for the server's faults and never sends twice: a retry would hide what is measured. One clock
read a socket read; parsing comes after, in batches, so that a busy parser does not stamp the next socket late. `sent` is
when the attempt begins, a new connection's set-up included; a connection that waits is used first. No limit on
connections: the schedule is the limit. Keys and proxy passwords appear in no error.

Does not know: when the request was due, what an answer is worth.
"""

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from types import TracebackType
from typing import Self

import msgspec

from loadgen.connection import SWEEP_S, Call, Connection, Turns
from loadgen.exchange import Exchange, Request
from loadgen.route import find_route, refusal

IDLE_LIMIT_NS = 2_000_000_000
"""A connection that waited longer is not used again: servers close theirs after 5 s (uvicorn), and a request that meets
the closing would look like a reset."""

WARM_S = 5.0
"""A server that accepts no connection for so long gets the requests all the same, and they time out."""


class Client:
    """Talks to one target. `tokens` counts token events' tokens as they are parsed, for live views."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        ca_file: str | None = None,
        verify: bool = True,
        on_tokens: Callable[[Request, int], None] | None = None,
    ) -> None:
        """`target` is a base URL such as `http://host:8000/v1`. Raises ValueError where it or a proxy's is none."""
        self._route = find_route(
            target, api_key=api_key, headers=headers or {}, ca_file=ca_file, verify=verify
        )
        self._timeout_s = timeout_s
        self._on_tokens = on_tokens
        self._turns = Turns()
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._all_lost = asyncio.Event()
        self.connections_opened = 0
        self.connections_peak = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def warm(self, connections: int) -> None:
        """Open so many connections beforehand: a closed loop's first requests should not time their set-up.

        A server that refuses refuses the requests too, and they say so.
        """
        opening = [asyncio.ensure_future(self._open_connection()) for _ in range(connections)]
        opened, late = await asyncio.wait(opening, timeout=WARM_S)
        for task in late:
            task.cancel()
        for task in opened:
            if not isinstance(task.exception(), OSError):
                connection = task.result()
                connection.idle_since_ns = perf_counter_ns()
                self._idle.append(connection)

    async def send(self, request: Request) -> Exchange:
        """Send one request and read its answer to the end, whichever it is.

        A cancelled `send` returns too: an Exchange `cancelled`, with what was measured until then.
        """
        payload = self._route.request_bytes(request.path, msgspec.json.encode(request.body))
        exchange = Exchange(sent_ns=perf_counter_ns())
        on_tokens = self._on_tokens
        call = Call(
            exchange, self._turns, None if on_tokens is None else lambda tokens: on_tokens(request, tokens)
        )
        try:
            await self._perform(call, payload)
        except asyncio.CancelledError:
            call.fail("cancelled", "stopped before the answer was whole")
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
        call.settle()
        return exchange

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        while self._open:
            self._all_lost.clear()
            await self._all_lost.wait()

    async def _perform(self, call: Call, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        timer = None
        if self._timeout_s is not None:
            timer = loop.call_later(
                self._timeout_s, call.fail, "timeout", f"no end within {self._timeout_s:g} s"
            )
        try:
            connection = self._waiting_connection() or await self._connect(call)
            if connection is not None:
                connection.start(call, payload)
                await call.ended
        finally:
            if timer is not None:
                timer.cancel()
            if call.connection is not None:
                self._release(call.connection)

    def _waiting_connection(self) -> Connection | None:
        oldest_ns = perf_counter_ns() - IDLE_LIMIT_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable() and connection.idle_since_ns > oldest_ns:
                return connection
            connection.abort()
        return None

    async def _connect(self, call: Call) -> Connection | None:
        """Open a connection, unless the call's time runs out first."""
        opening = asyncio.ensure_future(self._open_connection())
        try:
            await asyncio.wait((opening, call.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not opening.done():
                opening.cancel()
        if call.over:
            return None
        try:
            return opening.result()
        except OSError as error:
            call.fail(*refusal(error))
            return None

    async def _open_connection(self) -> Connection:
        connection = await self._route.connect(Connection)
        connection.on_lost = self._lost
        self._open.add(connection)
        if self._sweeper is None:
            self._sweep()
        self.connections_opened += 1
        self.connections_peak = max(self.connections_peak, len(self._open))
        return connection

    def _sweep(self) -> None:
        """Now and then have every call parse what waits: slow streams fill no batch."""
        before_ns = perf_counter_ns() - round(SWEEP_S * 1e9)
        for connection in self._open:
            if connection.call is not None:
                connection.call.sweep(before_ns)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()

    def _release(self, connection: Connection) -> None:
        if connection.release():
            connection.idle_since_ns = perf_counter_ns()
            self._idle.append(connection)
        else:
            connection.abort()
