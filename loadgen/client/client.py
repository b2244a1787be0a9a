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

from loadgen.client.connection import Connection
from loadgen.client.endpoint import find_route, refusal
from loadgen.client.response import ResponseReader
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Exchange, Request

IDLE_LIMIT_NS = 2_000_000_000
"""A connection that waited longer is not used again: servers close theirs after 5 s (uvicorn), and a request that meets
the closing would look like a reset."""

SWEEP_S = 0.25
"""Tokens are told no later than 1.5 times this after they came: Prometheus asks once a second."""

CLOCK_S = 0.001
"""uvloop's timers count whole ms, so one may ring that early."""

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
        turns: WorkQueue | None = None,
    ) -> None:
        """`target` is a base URL such as `http://host:8000/v1`. Raises ValueError where it or a proxy's is none."""
        self._route = find_route(
            target, api_key=api_key, headers=headers or {}, ca_file=ca_file, verify=verify
        )
        self._timeout_s = timeout_s
        self._on_tokens = on_tokens
        self._turns = turns or WorkQueue()
        self._calls: dict[ResponseReader, None] = {}
        """In flight, in the order they began."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
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
        return (await self.call(request)).settle()

    async def call(self, request: Request) -> ResponseReader:
        """The same, but for the events of the answer: they are decoded when `settle` asks for the Exchange."""
        payload = self._route.request_bytes(request.path, msgspec.json.encode(request.body))
        exchange = Exchange(sent_ns=perf_counter_ns())
        on_tokens = self._on_tokens
        call = ResponseReader(
            exchange, self._turns, None if on_tokens is None else lambda tokens: on_tokens(request, tokens)
        )
        connection: Connection | None = None
        self._calls[call] = None
        self._watch()
        try:
            connection = self._waiting_connection() or await self._connect(call)
            if connection is not None:
                connection.start(call, payload)
                await call.ended
        except asyncio.CancelledError:
            call.fail("cancelled", "stopped before the answer was whole")
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
        finally:
            del self._calls[call]
            if connection is not None:
                self._release(connection)
        return call

    async def close(self) -> None:
        """Close every connection."""
        for timer in (self._sweeper, self._timer):
            if timer is not None:
                timer.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        while self._open:
            self._all_lost.clear()
            await self._all_lost.wait()

    def _watch(self) -> None:
        """See to it that answers are taken in while they come, and end when their time is up."""
        loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        if self._timer is None and self._timeout_s is not None:
            self._timer = loop.call_later(self._timeout_s, self._time_out, self._timeout_s)

    def _sweep(self) -> None:
        """Have every call decode what has waited for a while: of short answers nothing has."""
        before_ns = perf_counter_ns() - round(SWEEP_S / 2 * 1e9)
        for call in self._calls:
            if call.reads and call.reads[0][0] < before_ns:
                self._turns.later(call.tidy())
        self._sweeper = None
        if self._calls:
            self._watch()

    def _time_out(self, limit_s: float) -> None:
        """End the calls that began too long ago; the first of the others is the next to look at."""
        self._timer = None
        for call in list(self._calls):
            left_s = limit_s - (perf_counter_ns() - call.exchange.sent_ns) / 1e9
            if left_s > CLOCK_S:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._time_out, limit_s)
                return
            call.fail("timeout", f"no end within {limit_s:g} s")

    def _waiting_connection(self) -> Connection | None:
        oldest_ns = perf_counter_ns() - IDLE_LIMIT_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable() and connection.idle_since_ns > oldest_ns:
                return connection
            connection.abort()
        return None

    async def _connect(self, call: ResponseReader) -> Connection | None:
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
        self.connections_opened += 1
        self.connections_peak = max(self.connections_peak, len(self._open))
        return connection

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
