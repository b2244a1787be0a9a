"""Sends the requests of one partition: its schedule, its client, and the files that it records to.

Rules: the steps of a request are, in this order, `requests_of`, `deliver` and `Recorder.record`. Partitions share
nothing but the start time of the clock; sums over several partitions are computed from their files.

This module does not know how the server is checked, how a run is summarized or judged, or who shows its progress.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Self

from loadgen.client.client import Client
from loadgen.client.endpoint import endpoint_of
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Request
from loadgen.measure.client_health import ClientHealth, HealthReport
from loadgen.options import RunOptions
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import ClosedLoop, split
from loadgen.plan.workload import Workload
from loadgen.run import forced
from loadgen.run.dispatch import StopControl, dispatch
from loadgen.run.partition import Partition
from loadgen.run.recorder import Recorder, RecordListener, Result
from loadgen.target import control_api


def make_client(partition: Partition, listener: RecordListener, work_queue: WorkQueue) -> Client:
    """The client that sends the requests of a partition."""
    timeout_s = partition.options.timeout_s / partition.clock.scale
    return client_of(partition.options, timeout_s, listener.tokens, work_queue)


def client_of(
    options: RunOptions,
    timeout_s: float,
    on_tokens: Callable[[Request, int], None] | None = None,
    work_queue: WorkQueue | None = None,
) -> Client:
    """The client of the server that the options name."""
    endpoint = endpoint_of(
        options.target,
        api_key=control_api.api_key(options),
        headers=dict(options.headers),
        ca_file=options.ca_file,
        verify=not options.insecure,
    )
    return Client(endpoint, timeout_s, on_tokens, work_queue or WorkQueue())


def workload_of(partition: Partition) -> Workload:
    """Return the requests of the whole run."""
    options, server = partition.options, partition.server
    _, style = style_of(server.model, options.prompt)
    return Workload(partition.problems, options, server.model, style, partition.run_id, server.limit_field)


def requests_of(partition: Partition) -> Iterator[Request]:
    """Return the requests of a partition that are not recorded yet, in order."""
    requests = workload_of(partition).requests(partition.first, partition.last)
    missing = (request for request in requests if request.seq not in partition.done)
    return islice(missing, partition.worker, None, partition.workers)


async def deliver(client: Client, request: Request, due_ns: int) -> Result:
    """Send one request, in two calls where its budget is forced and the first call has used it up."""
    if request.force is None:
        return Result(request, due_ns, (await client.call(request)).result, [])
    exchange, phases = await forced.send_forced(client.send, request)
    return Result(request, due_ns, lambda: exchange, phases)


async def send_partition(
    partition: Partition, stop: StopControl, listener: RecordListener, on_lag: Callable[[float], None]
) -> HealthReport:
    """Send every request of a partition, and return the health of this process. Raises DiskFullError."""
    health = ClientHealth(on_lag)
    work_queue = WorkQueue()
    client = make_client(partition, listener, work_queue)

    async def send(request: Request, due_ns: int) -> Result:
        listener.due(request)
        return await deliver(client, request, due_ns)

    with (
        Recorder(partition, listener, work_queue, stop.fail) as recorder,
        DrainTimer(partition, stop) as timer,
    ):
        health.start()
        try:
            async with client:
                schedule = split(partition.schedule, partition.worker, partition.workers)
                if isinstance(schedule, ClosedLoop):
                    await client.warm(schedule.concurrency)
                await dispatch(
                    timer.start_after(requests_of(partition)),
                    schedule,
                    send,
                    recorder.record,
                    start_ns=partition.start_ns,
                    time_scale=partition.clock.scale,
                    duration_s=partition.duration_s,
                    stop=stop,
                )
        finally:
            report = health.stop()
    return report


class DrainTimer:
    """Cancels the requests in flight `drain_s` after the last request was sent or the run's duration was over."""

    def __init__(self, partition: Partition, stop: StopControl) -> None:
        self._partition = partition
        self._stop = stop
        self._timers: list[asyncio.TimerHandle] = []

    def __enter__(self) -> Self:
        if self._partition.duration_s is not None:
            self._start(self._partition.duration_s)
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()

    def start_after(self, requests: Iterator[Request]) -> Iterator[Request]:
        """Yield the requests, and start the timer when none is left."""
        yield from requests
        self._start(0)

    def _start(self, delay_s: float) -> None:
        wait_s = (delay_s + self._partition.options.drain_s) / self._partition.clock.scale
        self._timers.append(asyncio.get_running_loop().call_later(wait_s, self._stop.stop))
