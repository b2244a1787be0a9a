"""The phases of a run that take time: the warm-up, the measured load, and the snapshots of the server before and after.

Rules: the metrics, the terminal and the GPU log receive everything that happens and decide nothing. The first Ctrl-C lets
the requests in flight end; the second cancels them, and nothing more is asked of the server. A full disk stops the run.
Whatever happens, the observations up to that time are returned.

This module does not know how a request is sent (`loadgen.run.sender`) or how the run is judged.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import uvloop

from loadgen.chunks import CHUNKS
from loadgen.clock import RunClock
from loadgen.errors import DiskFullError, naming_full_disk
from loadgen.exchange import Request
from loadgen.interrupts import INTERRUPTS
from loadgen.live.exporter import Metrics
from loadgen.live.progress import Progress
from loadgen.measure.client_health import HealthReport
from loadgen.measure.observations import WAITING, Observations
from loadgen.plan.schedule import WARMUP_CONCURRENCY, ClosedLoop, OpenLoop, Schedule
from loadgen.record import GPU_LOG, RECORDS, SERVER_AFTER, SERVER_BEFORE, Record, RunInfo
from loadgen.run import workers
from loadgen.run.dispatch import StopControl
from loadgen.run.merge import merge_workers
from loadgen.run.partition import Partition
from loadgen.run.prepare import Prepared
from loadgen.run.process_protocol import ProcessDiedError, Report
from loadgen.run.recorder import RunListener
from loadgen.run.sender import send_partition
from loadgen.target.gpu_log import GpuLog
from loadgen.target.server_metrics import snapshot, waiting

LEAD_S = 0.05
"""Real seconds between the preparation of a phase and the start of its schedule, so that the first request is not late."""
GPU_EVERY_S = 1.0
ABORT_LEAST = 10
"""A share of failures (`--abort-after P%`) says nothing before so many requests have ended."""
T = TypeVar("T")


class RunPhases(RunListener):
    """The phases of one run. It is the listener of its partitions and of its worker processes."""

    def __init__(
        self, prepared: Prepared, folder: Path, run: RunInfo, clock: RunClock, metrics: Metrics, *, lock: int
    ) -> None:
        self.prepared = prepared
        self.folder = folder
        self.lock = lock
        self.run = run
        self.clock = clock
        self.metrics = metrics
        done = len(prepared.previous.done)
        self.progress = Progress(run, prepared.planned, done, prepared.options.progress)
        self.stop = StopControl()
        self.interrupts = 0
        self.aborted: str | None = None
        """Why `--abort-after` has stopped the run."""
        self.interrupted_twice = asyncio.Event()
        """The user has interrupted twice: ask nothing more of the server."""

    def run_all(self) -> Observations:
        """Send all requests that are not recorded yet, on an event loop of its own."""
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        try:
            return runner.run(self._show_phases())
        finally:
            if INTERRUPTS.count < 2:  # closing waits for calls in other threads
                runner.close()
            INTERRUPTS.wake_thread()

    async def _show_phases(self) -> Observations:
        """Run all phases while the progress is shown. SIGINT and SIGTERM are handled in the event loop."""
        loop = asyncio.get_running_loop()
        self.metrics.begin(self.run, self.prepared.planned, self.run.load.get("rate"))
        with INTERRUPTS.passed_to(lambda: loop.call_soon_threadsafe(self._interrupted)), self.progress:
            return await self._run_phases()

    async def _run_phases(self) -> Observations:
        observations = Observations()
        options, api = self.prepared.options, self.prepared.api
        gpu = GpuLog(
            api,
            self.prepared.server.gpu_metrics,
            self.folder / GPU_LOG,
            lambda: (time.perf_counter_ns() - self.clock.start_ns) * self.clock.scale / 1e9,
            every_s=max(0.25, GPU_EVERY_S / self.clock.scale),
        )
        try:
            if options.warmup:
                await self._phase(0, options.warmup, ClosedLoop(WARMUP_CONCURRENCY), None)
            # A resumed run keeps the snapshot of its first part.
            before_file = SERVER_BEFORE if self.prepared.previous.run is None else f"resumed-{SERVER_BEFORE}"
            before = asyncio.to_thread(snapshot, api, self.folder / before_file)
            observations.before = await self._unless_interrupted_twice(before) or {}
            with naming_full_disk(self.folder / GPU_LOG):
                gpu.start()
            for first, last in self.prepared.workload.phases(self.prepared.planned):
                schedule = self._schedule(first, last)
                due_s = schedule.times_s if isinstance(schedule, OpenLoop) else ()
                left_s = options.duration_s
                if left_s is not None and isinstance(schedule, ClosedLoop):
                    left_s = max(0.0, left_s - self.prepared.previous.loaded_s)
                self.progress.load_begins(due_s, left_s)
                queue = asyncio.ensure_future(self._read_queue(due_s, observations))
                reports = await self._phase(first, last, schedule, left_s)
                queue.cancel()
                # The client is judged by the measured requests, and not by those that check derived budgets.
                observations.reports = observations.reports or reports
            await self._unless_interrupted_twice(gpu.stop())
            after = asyncio.to_thread(snapshot, api, self.folder / SERVER_AFTER)
            observations.after = await self._unless_interrupted_twice(after) or {}
        except (ProcessDiedError, DiskFullError) as error:
            observations.stopped = f"{error}; every record before it is kept"
            await self._unless_interrupted_twice(gpu.stop())
        if self.interrupts or self.aborted:
            observations.stopped = self.aborted or "interrupted"
        observations.energy, observations.gpus = gpu.energy, gpu.inventory
        observations.clocks_mhz = gpu.clocks_mhz
        return observations

    async def _phase(
        self, first: int, last: int | None, schedule: Schedule, duration_s: float | None
    ) -> list[HealthReport]:
        prepared = self.prepared
        partition = Partition(
            options=prepared.options,
            server=prepared.server,
            problems=prepared.dataset.problems,
            run_id=prepared.run_id,
            records=self.folder / RECORDS,
            chunks=self.folder / CHUNKS,
            clock=self.clock,
            schedule=schedule,
            first=first,
            last=last,
            start_ns=time.perf_counter_ns() + round(LEAD_S * 1e9),
            duration_s=duration_s,
            done=prepared.previous.done,
            stride=prepared.workload.planned_with_warmup,
        )
        cpus = int(self.run.host.get("cpus") or 1)
        processes = workers.worker_count(prepared.options.workers, partition, cpus)
        if processes == 1:
            return [await send_partition(partition, self.stop, self)]
        try:
            return await workers.run_workers(partition, processes, self.stop, self.worker_reported, self.lock)
        finally:
            merge_workers(self.folder)

    async def _read_queue(self, due_s: Sequence[float], observations: Observations) -> None:
        """Read the server's own queue once, when the last request of an open loop is due."""
        if due_s and WAITING in observations.before and observations.waiting is None:
            last_s = min(due_s[-1], self.prepared.options.duration_s or math.inf)
            await asyncio.sleep(LEAD_S + last_s / self.clock.scale)
            observations.waiting = await asyncio.to_thread(waiting, self.prepared.api)

    async def _unless_interrupted_twice(self, wait: Awaitable[T]) -> T | None:
        """Return the result of `wait`, or None as soon as the user has interrupted twice."""
        task, twice = asyncio.ensure_future(wait), asyncio.ensure_future(self.interrupted_twice.wait())
        await asyncio.wait({task, twice}, return_when=asyncio.FIRST_COMPLETED)
        twice.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    def _schedule(self, first: int, last: int | None) -> Schedule:
        """The schedule of one part of the load. In a resumed open loop, the rest of it, which starts now."""
        schedule, done = self.prepared.schedule, self.prepared.previous.done
        if isinstance(schedule, ClosedLoop):
            return schedule
        before = first - self.prepared.options.warmup
        skipped = before + sum(first <= seq < (last or seq + 1) for seq in done)
        rest = schedule.times_s[skipped : None if last is None else before + last - first]
        return OpenLoop([time_s - rest[0] for time_s in rest]) if skipped else OpenLoop(rest)

    def _interrupted(self) -> None:
        self.stop.interrupt()
        self.interrupts += 1
        if self.interrupts > 1:
            self.interrupted_twice.set()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(self.prepared.options.drain_s / self.clock.scale, self.stop.stop)
            self.progress.say("stopping: requests in flight may end; Ctrl-C again cancels them")

    def due(self, count: int = 1) -> None:
        """Count requests that are being sent."""
        self.metrics.due.inc(count)
        self.metrics.in_flight.inc(count)
        self.progress.sent += count

    def tokens(self, request: Request, count: int) -> None:
        """Count tokens that have arrived."""
        self._arrived(request.budget, count)

    def answered(self, count: int = 1) -> None:
        """Count requests that are not in flight any more."""
        self.metrics.in_flight.dec(count)

    def lag(self, lag_s: float) -> None:
        """Count a lag of the event loop."""
        self.metrics.loop_lag.observe(lag_s)

    def worker_reported(self, report: Report) -> None:
        """Count what happened in a worker process."""
        self.due(report.due)
        self.answered(report.answered)
        for budget, count in report.tokens.items():
            self._arrived(budget, count)
        for lag_s in report.lags_s:
            self.lag(lag_s)
        for record in report.records:
            self.ended(record, [])
        if report.gaps:
            self.metrics.gaps.add(report.gaps, report.gaps_sum_s)

    def _arrived(self, budget: int, count: int) -> None:
        self.metrics.completion.labels(budget=str(budget)).inc(count)
        self.progress.tokens += count

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        """Show a finished request in the metrics and on the terminal."""
        self.metrics.observe(record, self.run.slo)
        self.metrics.gaps.observe(arrival_ns, self.clock.scale)
        self.progress.ended(record)
        self._abort_if_failing()

    def _abort_if_failing(self) -> None:
        """Cancel the requests in flight and send no more where as many requests as `--abort-after` allows have failed."""
        limit, ended, failed = self.prepared.options.abort_after, self.progress.count, self.progress.failed
        if limit is None or self.stop.draining:
            return
        if limit.endswith("%"):
            reached = ended >= ABORT_LEAST and 100 * failed >= float(limit.removesuffix("%")) * ended
        else:
            reached = failed >= int(limit)
        if reached:
            self.aborted = f"--abort-after {limit}: {failed} of {ended} requests failed"
            self.progress.say(f"stopping: {self.aborted}")
            self.stop.stop()
