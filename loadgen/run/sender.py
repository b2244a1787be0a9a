"""Sends the requests of one partition: its schedule, its client, and the files that it records to.

Rules: the steps of a request are, in this order, `requests_of`, `Sending.send` and `Recorder.record`. Partitions share
nothing but the start time of the clock; sums over several partitions are computed from their files.

This module does not know how the server is checked, how a run is summarized or judged, or who shows its progress.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice

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
from loadgen.run.recorder import Recorder, Result, RunListener
from loadgen.target import control_api


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


@dataclass(frozen=True)
class Sending:
    """What sends and records the requests of one process."""

    client: Client
    recorder: Recorder
    listener: RunListener

    async def send(self, request: Request, due_ns: int) -> None:
        """Send one request, in two calls where its budget is forced and the first call has used it up, and record it."""
        self.listener.due()
        if request.force is None:
            result = Result(request, due_ns, (await self.client.call(request)).result, [])
        else:
            exchange, phases = await forced.send_forced(self.client.send, request)
            result = Result(request, due_ns, lambda: exchange, phases)
        self.recorder.record(result)


@asynccontextmanager
async def sending(
    partition: Partition, stop: StopControl, listener: RunListener, health: ClientHealth
) -> AsyncIterator[Sending]:
    """Connections and files for the requests of a partition. The health of the process is measured within the block.

    Raises DiskFullError at the end where a record could not be written. Then `stop` has ended the sending.
    """
    options, work_queue = partition.options, WorkQueue()
    client = client_of(options, options.timeout_s / partition.clock.scale, listener.tokens, work_queue)
    with Recorder(partition, listener, work_queue, stop.fail) as recorder:
        health.start()
        try:
            async with client:
                yield Sending(client, recorder, listener)
        finally:
            health.stop()


async def send_partition(partition: Partition, stop: StopControl, listener: RunListener) -> HealthReport:
    """Send every request of a partition, and return the health of this process. Raises DiskFullError."""
    health, scale = ClientHealth(listener.lag), partition.clock.scale
    schedule = split(partition.schedule, partition.worker, partition.workers)
    async with sending(partition, stop, listener, health) as process:
        with ExitStack() as timers:

            def cancel_after(delay_s: float) -> None:
                """Cancel the requests that are still in flight `drain_s` after a delay."""
                wait_s = (delay_s + partition.options.drain_s) / scale
                timers.callback(asyncio.get_running_loop().call_later(wait_s, stop.stop).cancel)

            def requests() -> Iterator[Request]:
                yield from requests_of(partition)
                cancel_after(0)

            if partition.duration_s is not None:
                cancel_after(partition.duration_s)
            if isinstance(schedule, ClosedLoop):
                await process.client.warm(schedule.concurrency)
            await dispatch(
                requests(),
                schedule,
                process.send,
                start_ns=partition.start_ns,
                time_scale=scale,
                duration_s=partition.duration_s,
                stop=stop,
            )
    return health.report
