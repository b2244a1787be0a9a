"""Sends requests when they are due. The only file that waits.

Rules: due times are absolute, so a late request makes no later one late, and nothing waits for an answer in an open
loop. First interrupt: no new request, those in flight end. Second: those in flight are cancelled, and are results too.

Does not know: HTTP, what a result holds, where it goes.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from time import perf_counter_ns
from typing import TypeVar

from loadgen.client.timer import sleep_until
from loadgen.exchange import Request
from loadgen.plan.schedule import OpenLoop, Schedule

T = TypeVar("T")

Send = Callable[[Request, int], Awaitable[T]]
"""Sends a request that was due at a stamp (ns). Cancelled, it returns what it has."""


class StopControl:
    """Ends a run early: pressed once it drains, pressed twice it stops. Holds what is in flight."""

    def __init__(self) -> None:
        self.draining = False
        """Nothing more is sent."""
        self.stopped = False
        """What was in flight is cancelled."""
        self._error: BaseException | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Task[None]] = set()

    def press(self) -> None:
        """What Ctrl-C does."""
        if self.draining:
            self.stop()
        else:
            self.drain()

    def drain(self) -> None:
        """Send nothing more."""
        self.draining = True
        if self._waiting is not None:
            self._waiting.cancel()

    def stop(self) -> None:
        """Send nothing more and cancel what is in flight."""
        self.drain()
        self.stopped = True
        for task in self._in_flight:
            task.cancel()

    def on_interrupt(self, told: Callable[[], None] = lambda: None) -> None:
        """Press on SIGINT and SIGTERM from now on, then call `told`."""
        loop = asyncio.get_running_loop()

        def pressed() -> None:
            self.press()
            told()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, pressed)

    async def unless_draining(self, wait: Coroutine[None, None, None]) -> bool:
        """True after `wait`, False as soon as nothing more is to be sent."""
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

    def watch(self, work: Coroutine[None, None, None]) -> None:
        """Start a piece of work that ends before the run does."""
        task = asyncio.ensure_future(work)
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

    async def all_ended(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def raise_error(self) -> None:
        """Raise what a piece of work raised first, if one did."""
        if self._error is not None:
            raise self._error

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self.stop()


async def drive(
    requests: Iterable[Request],
    schedule: Schedule,
    send: Send[T],
    on_record: Callable[[T], None],
    *,
    start_ns: int,
    time_scale: float = 1.0,
    duration_s: float | None = None,
    brake: StopControl | None = None,
) -> None:
    """Send every request as `schedule` says, counted from `start_ns`, and hand each result to `on_record`.

    `time_scale` model seconds pass in a real one. After `duration_s` model seconds nothing more is sent. Requests are
    taken one by one as they are sent: a generator keeps the memory flat. What `send` or `on_record` raises ends the run
    and is raised as it is, after the requests in flight have ended as cancelled.
    """
    brake = brake or StopControl()
    until_ns = None if duration_s is None else start_ns + round(duration_s / time_scale * 1e9)
    plan = _until(iter(requests), until_ns)

    async def one(request: Request, due_ns: int) -> None:
        on_record(await send(request, due_ns))

    try:
        if isinstance(schedule, OpenLoop):
            due = (start_ns + round(time_s / time_scale * 1e9) for time_s in schedule.times_s)
            await _open(plan, due, one, brake)
        else:
            await _closed(plan, schedule.concurrency, one, brake, start_ns)
    except BaseException:
        brake.stop()
        raise
    finally:
        await brake.all_ended()
    brake.raise_error()


def _until(requests: Iterator[Request], until_ns: int | None) -> Iterator[Request]:
    """Requests for as long as there is time to send one."""
    for request in requests:
        if until_ns is not None and perf_counter_ns() >= until_ns:
            return
        yield request


async def _open(
    plan: Iterator[Request],
    due: Iterable[int],
    one: Callable[[Request, int], Coroutine[None, None, None]],
    brake: StopControl,
) -> None:
    for due_ns in due:
        if not await brake.unless_draining(sleep_until(due_ns)):
            return
        request = next(plan, None)
        if request is None:
            return
        brake.watch(one(request, due_ns))


async def _closed(
    plan: Iterator[Request],
    concurrency: int,
    one: Callable[[Request, int], Coroutine[None, None, None]],
    brake: StopControl,
    start_ns: int,
) -> None:
    async def slot(free_ns: int) -> None:
        for request in plan:
            await one(request, free_ns)
            if brake.draining:
                return
            free_ns = perf_counter_ns()

    if await brake.unless_draining(sleep_until(start_ns)):
        free_ns = perf_counter_ns()
        for _ in range(concurrency):
            brake.watch(slot(free_ns))
