"""Sends each request when it is due, and ends a run early when the user asks for it.

Rules: due times are absolute, so a request that is sent late does not delay the following ones, and in an open loop no
request waits for an answer. After the first interrupt no request is sent, and those in flight end by themselves. A second
interrupt cancels those in flight; a cancelled request has a result too.

This module does not know HTTP, what a result contains, or where results are stored.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import takewhile
from time import perf_counter_ns

from loadgen.client.timer import sleep_until
from loadgen.exchange import Request
from loadgen.plan.schedule import OpenLoop, Schedule

Send = Callable[[Request, int], Coroutine[None, None, None]]
"""Sends a request that is due at a time (ns), and records its result. When cancelled, it records the result so far."""


class StopControl:
    """Ends a run before all requests are sent, and keeps track of the requests in flight."""

    def __init__(self) -> None:
        self.draining = False
        """No more requests are sent."""
        self.stopped = False
        """Requests that were in flight have been cancelled."""
        self._error: BaseException | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Task[None]] = set()

    def interrupt(self) -> None:
        """Drain at the first call and stop at the second, like Ctrl-C."""
        if self.draining:
            self.stop()
        else:
            self.drain()

    def drain(self) -> None:
        """Send no more requests; those in flight end by themselves."""
        self.draining = True
        if self._waiting is not None:
            self._waiting.cancel()

    def stop(self) -> None:
        """Send no more requests and cancel those in flight."""
        self.drain()
        self.stopped = True
        for task in self._in_flight:
            task.cancel()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error, which `raise_error` raises at the end."""
        self._error = self._error or error
        self.stop()

    async def unless_draining(self, wait: Coroutine[None, None, None]) -> bool:
        """Run `wait`. Returns True after it, or False as soon as no more requests are to be sent."""
        self._waiting = asyncio.ensure_future(wait)
        if self.draining:
            self._waiting.cancel()
        try:
            await self._waiting
        except asyncio.CancelledError:
            if not self.draining:
                raise
        finally:
            self._waiting = None
        return not self.draining

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task that counts as in flight until it ends."""
        task = asyncio.ensure_future(work)
        self._in_flight.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait_for_tasks(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def raise_error(self) -> None:
        """Raise the first exception that a task raised, if there is one."""
        if self._error is not None:
            raise self._error

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)


async def dispatch(
    requests: Iterable[Request],
    schedule: Schedule,
    send: Send,
    *,
    start_ns: int,
    time_scale: float = 1.0,
    duration_s: float | None = None,
    stop: StopControl | None = None,
) -> None:
    """Send every request at the time that `schedule` gives, counted from `start_ns`.

    In one real second, `time_scale` model seconds pass. After `duration_s` model seconds no more requests are sent. A
    request is taken from `requests` when it is sent, so a generator needs little memory. An exception of `send` ends
    the run: the requests in flight are cancelled, and then the exception is raised.
    """
    stop = stop or StopControl()
    end_ns = None if duration_s is None else start_ns + round(duration_s / time_scale * 1e9)
    remaining = takewhile(lambda _: end_ns is None or perf_counter_ns() < end_ns, requests)

    try:
        if isinstance(schedule, OpenLoop):
            due = (start_ns + round(time_s / time_scale * 1e9) for time_s in schedule.times_s)
            await _open_loop(remaining, due, send, stop)
        else:
            await _closed_loop(remaining, schedule.concurrency, send, stop, start_ns)
    except BaseException:
        stop.stop()
        raise
    finally:
        await stop.wait_for_tasks()
    stop.raise_error()


async def _open_loop(requests: Iterator[Request], due: Iterable[int], send: Send, stop: StopControl) -> None:
    for due_ns in due:
        if not await stop.unless_draining(sleep_until(due_ns)):
            return
        request = next(requests, None)
        if request is None:
            return
        stop.start(send(request, due_ns))


async def _closed_loop(
    requests: Iterator[Request], concurrency: int, send: Send, stop: StopControl, start_ns: int
) -> None:
    async def fill_slot(free_ns: int) -> None:
        for request in requests:
            await send(request, free_ns)
            if stop.draining:
                return
            free_ns = perf_counter_ns()

    if await stop.unless_draining(sleep_until(start_ns)):
        free_ns = perf_counter_ns()
        for _ in range(concurrency):
            stop.start(fill_slot(free_ns))
