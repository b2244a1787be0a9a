"""Worker processes for one run (`--workers`): each sends its partition of the requests and shares only the start time.

A worker process is `python -m loadgen.run.workers`. It receives its partition, reports that it is ready, and waits for the
start time, which is a value of the monotonic clock and therefore the same for all processes of the machine. It writes files
of its own and reports its progress four times a second. `loadgen.run.merge` merges the files when all processes have ended.

Rules: no secret is sent to a worker, which inherits the environment and reads the API key from there. Ctrl-C reaches the
parent only, and the parent tells its workers to stop. A worker whose parent has ended stops. When a worker dies, the records
of its unfinished requests are missing, and the run's verdict says so.

This module does not know how a request is sent (`loadgen.run.sender`) or how the progress is shown.
"""

import asyncio
import dataclasses
import pickle
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.json import Decoder

from loadgen.errors import DiskFullError
from loadgen.exchange import Request
from loadgen.live.exporter import GapHistogram
from loadgen.measure.client_health import HealthReport
from loadgen.plan.schedule import ClosedLoop
from loadgen.record import Record
from loadgen.run.dispatch import StopControl
from loadgen.run.partition import Partition
from loadgen.run.process_protocol import Channel, ChildProcess, Report, run_child
from loadgen.run.recorder import RunListener
from loadgen.run.sender import send_partition

REPORT_S = 0.25
LEAD_S = 0.1
"""Real seconds between the message that starts the workers and their common start time."""
STOP_POLL_S = 0.05


class Setup(msgspec.Struct):
    """The first message to a worker."""

    partition: bytes
    """A pickled Partition."""


class Start(msgspec.Struct):
    """The start time of the schedule, by the monotonic clock."""

    start_ns: int


class Stop(msgspec.Struct):
    """Send no more requests, and cancel those in flight if `cancel` is true."""

    cancel: bool


def worker_count(requested: int | None, partition: Partition, cpus: int) -> int:
    """The number of processes: as requested or one per core, but at most the concurrency of a closed loop."""
    wanted, schedule = requested or cpus, partition.schedule
    return min(wanted, schedule.concurrency) if isinstance(schedule, ClosedLoop) else wanted


def worker_partition(partition: Partition, worker: int, workers: int) -> Partition:
    """The part of one worker, which writes to files of its own beside those of the run."""
    return dataclasses.replace(
        partition,
        worker=worker,
        workers=workers,
        records=partition.records.with_suffix(f".{worker}.jsonl"),
        chunks=partition.chunks.with_suffix(f".{worker}.bin"),
    )


async def run_workers(
    partition: Partition, workers: int, stop: StopControl, on_report: Callable[[Report], None], lock: int
) -> list[HealthReport]:
    """Send a partition with several processes, which all hold the folder's lock, and return their health.

    Raises DiskFullError or ProcessDiedError, but only after all processes have ended.
    """
    children = []
    for worker in range(workers):
        setup = Setup(pickle.dumps(worker_partition(partition, worker, workers)))
        children.append(await ChildProcess.start("loadgen.run.workers", f"worker {worker}", setup, lock))
    for child in children:
        await child.receive()
    start_ns = time.perf_counter_ns() + round(LEAD_S * 1e9)
    for child in children:
        child.channel.send(Start(start_ns))
    forwarding = asyncio.create_task(_forward_stop(stop, children))
    try:
        ended = await asyncio.gather(*(_follow(child, on_report) for child in children), return_exceptions=True)
    finally:
        forwarding.cancel()
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return [report for report in ended if isinstance(report, HealthReport)]


async def _forward_stop(stop: StopControl, children: list[ChildProcess]) -> None:
    """Tell the workers when the run is stopped, and when its requests in flight are cancelled."""
    sent = (False, False)
    while True:
        await asyncio.sleep(STOP_POLL_S)
        state = (stop.draining, stop.stopped)
        if state != sent:
            sent = state
            for child in children:
                child.channel.send(Stop(cancel=stop.stopped))


async def _follow(child: ChildProcess, on_report: Callable[[Report], None]) -> HealthReport:
    """Pass on a worker's reports until the final one. Raises DiskFullError or ProcessDiedError."""
    while True:
        report = await child.receive()
        on_report(report)
        if report.disk_full is not None:
            await child.end()
            raise DiskFullError(report.disk_full)
        if report.health is not None:
            await child.end()
            return report.health


class _Reporter(RunListener):
    """The listener of a partition in a worker: it collects what happens and reports it to the parent."""

    def __init__(self, parent: Channel, scale: float) -> None:
        self._parent = parent
        self._scale = scale
        self._next = Report()
        self._gaps = GapHistogram()

    def due(self) -> None:
        self._next.due += 1

    def tokens(self, request: Request, count: int) -> None:
        tokens = self._next.tokens
        tokens[request.budget] = tokens.get(request.budget, 0) + count

    def answered(self) -> None:
        self._next.answered += 1

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        self._next.records.append(record.without_texts())
        self._gaps.observe(arrival_ns, self._scale)

    def lag(self, lag_s: float) -> None:
        self._next.lags_s.append(lag_s)

    def report(self, **final: Any) -> None:
        """Send what happened since the last report."""
        gaps, gaps_sum_s = self._gaps.take()
        report, self._next = self._next, Report()
        self._parent.send(msgspec.structs.replace(report, gaps=gaps, gaps_sum_s=gaps_sum_s, **final))

    async def report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self.report()


async def _obey(parent: Channel, stop: StopControl) -> None:
    """Stop when the parent says so or has ended."""
    decoder = Decoder(Stop)
    while (message := await parent.receive(decoder)) is not None:
        if message.cancel:
            stop.stop()
        else:
            stop.drain()
    stop.stop()


async def serve(parent: Channel) -> None:
    """Run one worker process."""
    if (setup := await parent.receive(Decoder(Setup))) is None:
        return
    partition: Partition = pickle.loads(setup.partition)  # noqa: S301  it comes from our own parent process
    parent.send(Report())
    if (start := await parent.receive(Decoder(Start))) is None:
        return
    stop, reporter = StopControl(), _Reporter(parent, partition.clock.scale)
    tasks = [asyncio.create_task(_obey(parent, stop)), asyncio.create_task(reporter.report_regularly())]
    partition = dataclasses.replace(partition, start_ns=start.start_ns)
    try:
        health = await send_partition(partition, stop, reporter)
    except DiskFullError as error:
        reporter.report(disk_full=str(error))
    else:
        reporter.report(health=health)
    finally:
        for task in tasks:
            task.cancel()
    await parent.close()


if __name__ == "__main__":
    run_child(serve)
