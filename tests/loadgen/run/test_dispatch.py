"""Requests are sent when they are due, whatever the server does, and an interrupt loses no request."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import median

import pytest
import uvloop

from loadgen.exchange import Request
from loadgen.interrupts import INTERRUPTS
from loadgen.plan.schedule import ClosedLoop, OpenLoop, RateStep, arrivals
from loadgen.run.dispatch import StopControl, dispatch

Sent = tuple[int, float, float, str]
"""The seq, the due time and the start in seconds since the run's start, and how the request ended."""


def request(seq: int) -> Request:
    return Request(seq, f"p{seq}", 0, 64, "cut", "/completions", {})


class FakeServer:
    """An implementation of `send` that takes a given time for each request, once `stalled_until` requests have been in flight."""

    def __init__(
        self, start_ns: int, takes_s: Callable[[int], float], sent: list[Sent], stalled_until: int = 0
    ) -> None:
        self.start_ns = start_ns
        self.takes_s = takes_s
        self.stalled_until = stalled_until
        self.answers = asyncio.Event()
        self.in_flight = 0
        self.peak = 0
        self.sent = sent

    async def send(self, request: Request, due_ns: int) -> None:
        """Wait for the time that the request takes, and record it in `sent`."""
        start_ns = time.perf_counter_ns()
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        if self.peak >= self.stalled_until:
            self.answers.set()
        ended = "ok"
        try:
            await self.answers.wait()
            await asyncio.sleep(self.takes_s(request.seq))
        except asyncio.CancelledError:
            ended = "cancelled"
        self.in_flight -= 1
        times_s = (due_ns - self.start_ns) / 1e9, (start_ns - self.start_ns) / 1e9
        self.sent.append((request.seq, *times_s, ended))


def run(work: Callable[[int], Awaitable[None]]) -> None:
    async def start() -> None:
        await work(time.perf_counter_ns())

    uvloop.run(start())


def test_an_open_loop_sends_at_the_due_times_while_the_server_stalls() -> None:
    """There is no coordinated omission: a server that answers nothing until the last request delays no request.

    A busy machine delays requests. It delays a task that only sleeps until the same times as much.
    """
    sent: list[Sent] = []
    sleeper_lags: list[float] = []

    async def sleeper(start_ns: int, times_s: Sequence[float]) -> None:
        for time_s in times_s:
            await asyncio.sleep(time_s - (time.perf_counter_ns() - start_ns) / 1e9)
            sleeper_lags.append((time.perf_counter_ns() - start_ns) / 1e9 - time_s)

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0, sent, stalled_until=100)
        schedule = arrivals("poisson", [RateStep(200)], seed=0, requests=100)
        sending = dispatch(map(request, range(100)), schedule, server.send, start_ns=start_ns)
        await asyncio.gather(sending, sleeper(start_ns, schedule.times_s))
        assert server.peak == 100
        assert [due for _, due, _, _ in sorted(sent)] == pytest.approx(list(schedule.times_s), abs=1e-6)

    run(work)
    lags = [start - due for _, due, start, _ in sent]
    assert min(lags) >= 0
    assert median(lags) < median(sleeper_lags) + 0.02


def test_a_closed_loop_holds_its_concurrency() -> None:
    """The concurrency is never exceeded, and all slots are used. Each request is due when its slot becomes free."""
    sent: list[Sent] = []

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda seq: 0.01 * (1 + seq % 3), sent)
        await dispatch(map(request, range(40)), ClosedLoop(8), server.send, start_ns=start_ns)
        assert server.peak == 8
        assert server.in_flight == 0

    run(work)
    assert sorted(seq for seq, *_ in sent) == list(range(40))
    assert min(start - due for _, due, start, _ in sent) >= 0
    assert median(start - due for _, due, start, _ in sent) < 0.02
    dues = sorted(due for _, due, _, _ in sent)
    assert dues[0] == dues[7] < dues[8]


def test_time_scale_divides_the_waiting() -> None:
    """At a scale of 20, 2 model seconds pass in 0.1 real seconds."""
    sent: list[Sent] = []

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0, sent)
        times = OpenLoop([0.0, 1.0, 2.0])
        await dispatch(map(request, range(3)), times, server.send, start_ns=start_ns, time_scale=20)

    run(work)
    assert [due for _, due, _, _ in sent] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize("schedule", [ClosedLoop(2), OpenLoop([0.05 * i for i in range(1000)])])
def test_a_duration_ends_the_sending_and_drains(schedule: ClosedLoop | OpenLoop) -> None:
    """After the duration nothing is sent, and requests in flight end by themselves."""
    sent: list[Sent] = []

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0.1, sent)
        plan = map(request, range(1000))
        await dispatch(plan, schedule, server.send, start_ns=start_ns, time_scale=2, duration_s=0.6)

    run(work)
    assert 2 <= len(sent) <= 12
    assert all(due < 0.3 and ended == "ok" for _, due, _, ended in sent)


@pytest.mark.parametrize("schedule", [ClosedLoop(3), OpenLoop([0.02 * i for i in range(1000)])])
@pytest.mark.parametrize("interrupts", [1, 2])
def test_first_interrupt_drains_second_stops(schedule: ClosedLoop | OpenLoop, interrupts: int) -> None:
    """With real signals: after one, requests in flight end; after two, they are cancelled. Each has one result."""
    sent: list[Sent] = []
    started: list[int] = []

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0.4 if interrupts == 1 else 60, sent)
        stop = StopControl()

        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            stop.interrupt()
            if interrupts == 2 and not stop.stopped:
                os.kill(os.getpid(), signal.SIGINT)

        async def send(request: Request, due_ns: int) -> None:
            assert not stop.draining, "nothing is sent after an interrupt"
            started.append(request.seq)
            if len(started) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            await server.send(request, due_ns)

        plan = map(request, range(1000))
        with INTERRUPTS.passed_to(lambda: loop.call_soon_threadsafe(interrupt)):
            await dispatch(plan, schedule, send, start_ns=start_ns, stop=stop)
        assert stop.draining
        assert stop.stopped == (interrupts == 2)

    try:
        run(work)
    finally:
        INTERRUPTS.count = 0  # a command that a later test runs in this process would take them for its own
    assert sorted(seq for seq, *_ in sent) == sorted(started)
    assert 3 <= len(sent) < 1000
    assert {ended for *_, ended in sent} == ({"ok"} if interrupts == 1 else {"cancelled"})


@pytest.mark.parametrize("schedule", [ClosedLoop(3), OpenLoop([0.01 * i for i in range(1000)])])
def test_an_error_of_recording_ends_the_run_and_is_raised(schedule: ClosedLoop | OpenLoop) -> None:
    """A full disk stops the run at once, and nothing is sent after it."""
    seen = 0

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0.05, [])

        async def send(request: Request, due_ns: int) -> None:
            nonlocal seen
            await server.send(request, due_ns)
            seen += 1
            raise OSError(28, "No space left on device")

        await dispatch(map(request, range(1000)), schedule, send, start_ns=start_ns)

    with pytest.raises(OSError, match="No space left"):
        run(work)
    assert seen < 500


def test_requests_are_taken_one_by_one() -> None:
    """A request is taken from a generator of a million requests only when it is sent."""
    taken = 0

    def plan() -> Iterator[Request]:
        nonlocal taken
        for seq in range(10**6):
            taken += 1
            yield request(seq)

    async def work(start_ns: int) -> None:
        server = FakeServer(start_ns, lambda _seq: 0.01, [])
        await dispatch(plan(), ClosedLoop(4), server.send, start_ns=start_ns, duration_s=0.1)

    run(work)
    assert taken < 200


def test_an_interrupt_before_the_first_request_sends_nothing() -> None:
    sent: list[Sent] = []

    async def work(start_ns: int) -> None:
        stop = StopControl()
        asyncio.get_running_loop().call_later(0.05, stop.interrupt)
        server = FakeServer(start_ns, lambda _seq: 0, sent)
        later_ns = start_ns + 60 * 10**9
        await dispatch([request(0)], ClosedLoop(1), server.send, start_ns=later_ns, stop=stop)

    run(work)
    assert sent == []
