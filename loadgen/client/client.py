"""Sends a Request and timestamps its response: one HTTP request, one Exchange.

`send` raises no error for a fault of the server and never sends a request twice: a retry would hide what is measured. The
clock is read once for each read of a socket; parsing follows later and in batches, so that it does not delay the timestamps
of other sockets. `sent` is the start of the attempt and includes opening a connection where no idle one can be used. The
number of connections is not limited: only the schedule limits the load. No error text contains a key or a proxy password.

This module does not know when the request was due, nor what the response is worth.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Self

import msgspec

from loadgen.client.connection import Connection
from loadgen.client.endpoint import Endpoint, connect_failure
from loadgen.client.response import ResponseReader
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Exchange, Request

MAX_IDLE_NS = 2_000_000_000
"""A connection that was idle for longer is not used again. Servers close idle connections after 5 s (uvicorn), and a request
sent at that moment would look like a reset. Where a server says or shows that it closes them earlier, the limit is lower."""
SAFE_SHARE_OF_IDLE = 0.5
"""Share of the time after which a server closes idle connections for which they are used."""

DECODE_INTERVAL_S = 0.25
"""Tokens are reported at most 1.5 times this after they arrived. Prometheus scrapes once a second."""

TIMER_RESOLUTION_S = 0.001
"""The timers of uvloop count whole milliseconds and may fire this much too early."""

WARM_UP_LIMIT_S = 5.0
"""After this time the load starts even if the server has accepted no connection; its requests then time out."""


@dataclass(eq=False, repr=False)  # the endpoint holds the key, which no text may contain
class Client:
    """Talks to one target. `on_tokens` is called with the number of new tokens as they are decoded, for live views."""

    endpoint: Endpoint
    timeout_s: float | None = None
    on_tokens: Callable[[Request, int], None] | None = None
    work_queue: WorkQueue = field(default_factory=WorkQueue)
    connections_opened: int = 0
    _in_flight: dict[ResponseReader, None] = field(default_factory=dict)
    """Responses that have not ended, in the order in which their requests were sent."""
    _decode_timer: asyncio.TimerHandle | None = None
    _timeout_timer: asyncio.TimerHandle | None = None
    _idle: list[Connection] = field(default_factory=list)
    _max_idle_ns: int = MAX_IDLE_NS
    _open: set[Connection] = field(default_factory=set)
    _all_lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        for timer in (self._decode_timer, self._timeout_timer):
            if timer is not None:
                timer.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        while self._open:
            self._all_lost.clear()
            await self._all_lost.wait()

    async def warm(self, connections: int) -> None:
        """Open connections in advance, so that the first requests of a closed loop do not include the time to connect.

        Nothing is raised where the server refuses: it then also refuses the requests, and their outcome says so.
        """
        opening = [asyncio.ensure_future(self._open_connection()) for _ in range(connections)]
        opened, late = await asyncio.wait(opening, timeout=WARM_UP_LIMIT_S)
        for task in late:
            task.cancel()
        for task in opened:
            if not isinstance(task.exception(), OSError):
                connection = task.result()
                connection.idle_since_ns = perf_counter_ns()
                self._idle.append(connection)

    async def send(self, request: Request) -> Exchange:
        """Send one request and read its response to the end.

        A cancelled `send` returns as well: an Exchange with outcome `cancelled` and everything measured until then.
        """
        return (await self.call(request)).result()

    async def call(self, request: Request) -> ResponseReader:
        """Do the same as `send`, but leave the events undecoded until `result` asks for the Exchange."""
        payload = self.endpoint.request_bytes(request.path, msgspec.json.encode(request.body))
        exchange = Exchange(sent_ns=perf_counter_ns())
        on_tokens = self.on_tokens
        reader = ResponseReader(
            exchange, self.work_queue, None if on_tokens is None else lambda tokens: on_tokens(request, tokens)
        )
        connection: Connection | None = None
        self._in_flight[reader] = None
        self._start_timers()
        try:
            connection = self._idle_connection()
            exchange.reused = connection is not None
            if connection is None:
                connection = await self._connect(reader)
            if connection is not None:
                connection.start(reader, payload)
                await reader.ended
        except asyncio.CancelledError:
            reader.fail("cancelled", "stopped before the response was complete")
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
        finally:
            del self._in_flight[reader]
            if connection is not None:
                self._release(connection, reader)
        return reader

    def _start_timers(self) -> None:
        """Start the timers that decode responses while they arrive and that end those which take too long."""
        loop = asyncio.get_running_loop()
        if self._decode_timer is None:
            self._decode_timer = loop.call_later(DECODE_INTERVAL_S, self._decode_waiting)
        if self._timeout_timer is None and self.timeout_s is not None:
            self._timeout_timer = loop.call_later(self.timeout_s, self._time_out, self.timeout_s)

    def _decode_waiting(self) -> None:
        """Decode the reads of every response that have waited for some time. Short responses have none."""
        before_ns = perf_counter_ns() - round(DECODE_INTERVAL_S / 2 * 1e9)
        for reader in self._in_flight:
            if reader.reads and reader.reads[0][0] < before_ns:
                self.work_queue.add_steps(reader.decode_steps())
        self._decode_timer = None
        if self._in_flight:
            self._start_timers()

    def _time_out(self, limit_s: float) -> None:
        """End the responses that have taken too long, and set the timer for the oldest of the others."""
        self._timeout_timer = None
        for reader in list(self._in_flight):
            left_s = limit_s - (perf_counter_ns() - reader.exchange.sent_ns) / 1e9
            if left_s > TIMER_RESOLUTION_S:
                self._timeout_timer = asyncio.get_running_loop().call_later(left_s, self._time_out, limit_s)
                return
            reader.fail("timeout", f"no end within {limit_s:g} s")

    def _idle_connection(self) -> Connection | None:
        oldest_ns = perf_counter_ns() - self._max_idle_ns
        while self._idle:
            connection = self._idle.pop()
            if connection.usable() and connection.idle_since_ns > oldest_ns:
                return connection
            connection.abort()
        return None

    async def _connect(self, reader: ResponseReader) -> Connection | None:
        """Open a connection; None where this fails or the request times out first."""
        opening = asyncio.ensure_future(self._open_connection())
        try:
            await asyncio.wait((opening, reader.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not opening.done():
                opening.cancel()
        if reader.finished:
            return None
        try:
            connection = opening.result()
        except OSError as error:
            reader.fail(*connect_failure(error))
            return None
        reader.exchange.connect_ns = perf_counter_ns() - reader.exchange.sent_ns
        return connection

    async def _open_connection(self) -> Connection:
        connection = await self.endpoint.connect(Connection)
        connection.on_lost = self._lost
        self._open.add(connection)
        self.connections_opened += 1
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()

    def _release(self, connection: Connection, reader: ResponseReader) -> None:
        self._learn_idle_limit(connection, reader)
        if connection.release():
            connection.idle_since_ns = perf_counter_ns()
            self._idle.append(connection)
        else:
            connection.abort()

    def _learn_idle_limit(self, connection: Connection, reader: ResponseReader) -> None:
        """Lower the limit of idle time where the server says how long it waits, or has closed a connection that was idle."""
        closed_after_ns: float | None = None
        if reader.exchange.outcome == "reset" and reader.unanswered():
            closed_after_ns = reader.exchange.sent_ns - connection.idle_since_ns
        elif (limit_s := reader.idle_limit_s()) is not None:
            closed_after_ns = limit_s * 1e9
        if closed_after_ns is not None:
            self._max_idle_ns = min(self._max_idle_ns, int(closed_after_ns * SAFE_SHARE_OF_IDLE))
