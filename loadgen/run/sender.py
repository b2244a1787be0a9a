"""One process's share of a run: its requests, its schedule, its files. A run without workers has one share.

Rules: the path of a request reads top to bottom here: `requests` → `send` → `keep`. A share shares nothing with its
siblings but the clock's start; every sum over shares is taken from their files. Derived records are written before the
record they come from: a crash between them leaves a request that is missing, never one that is half there.

Does not know: preflight, verdicts, summaries, who watches.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Self

from loadgen.client.client import Client
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Request
from loadgen.measure.client_health import ClientHealth, HealthReport
from loadgen.plan.schedule import ClosedLoop, split
from loadgen.run import forced
from loadgen.run.dispatch import StopControl, drive
from loadgen.run.partition import Partition
from loadgen.run.recorder import RecordedRequest, Recorder, RecordListener
from loadgen.target import control_api


def client_of(share: Partition, listener: RecordListener, turns: WorkQueue) -> Client:
    """The client that sends for a share."""
    options = share.options
    return Client(
        options.target,
        api_key=control_api.api_key(options),
        headers=dict(options.headers),
        timeout_s=options.timeout_s / share.clock.scale,
        ca_file=str(options.ca_file) if options.ca_file else None,
        verify=not options.insecure,
        on_tokens=listener.tokens,
        work_queue=turns,
    )


async def deliver(client: Client, request: Request, due_ns: int) -> RecordedRequest:
    """Send one request, in one call or in two."""
    if request.force is None:
        return RecordedRequest(request, due_ns, (await client.call(request)).result, [])
    exchange, phases = await forced.send_forced(client.send, request)
    return RecordedRequest(request, due_ns, lambda: exchange, phases)


async def carry(
    share: Partition, brake: StopControl, listener: RecordListener, on_lag: Callable[[float], None]
) -> HealthReport:
    """Send every request of the share; the process's own health. Raises DiskFullError."""
    health = ClientHealth(on_lag)
    turns = WorkQueue()
    client = client_of(share, listener, turns)

    async def send(request: Request, due_ns: int) -> RecordedRequest:
        listener.due(request)
        return await deliver(client, request, due_ns)

    with Recorder(share, listener, turns) as keeper, Drain(share, brake) as drain:
        health.start()
        try:
            async with client:
                schedule = split(share.schedule, share.worker, share.workers)
                if isinstance(schedule, ClosedLoop):
                    await client.warm(schedule.concurrency)
                await drive(
                    drain.after(share.requests()),
                    schedule,
                    send,
                    keeper.keep,
                    start_ns=share.start_ns,
                    time_scale=share.clock.scale,
                    duration_s=share.duration_s,
                    brake=brake,
                )
        finally:
            report = health.stop()
    return report


class Drain:
    """Gives what is in flight `drain_s` to end, once the last request is sent or the run's duration is over."""

    def __init__(self, share: Partition, brake: StopControl) -> None:
        self._share = share
        self._brake = brake
        self._timers: list[asyncio.TimerHandle] = []

    def __enter__(self) -> Self:
        if self._share.duration_s is not None:
            self._stop_in(self._share.duration_s + self._share.options.drain_s)
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()

    def after(self, requests: Iterator[Request]) -> Iterator[Request]:
        """The same requests; the wait begins when there is none left."""
        yield from requests
        self._stop_in(self._share.options.drain_s)

    def _stop_in(self, model_s: float) -> None:
        wait_s = model_s / self._share.clock.scale
        self._timers.append(asyncio.get_running_loop().call_later(wait_s, self._brake.stop))
