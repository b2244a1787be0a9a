"""The part of a run that waits: warm-up, the measured load, and who watches it.

Rules: metrics, terminal and GPU telemetry hear of everything and decide nothing. The first Ctrl-C drains, the second
stops; a full disk stops. Whatever happened, what was seen until then is returned.

Does not know: what a run is worth, or how a request is sent (share).
"""

import asyncio
import time
from pathlib import Path

import uvloop

from loadgen.chunks import CHUNKS
from loadgen.clock import RunClock
from loadgen.errors import DiskFullError
from loadgen.exchange import Request
from loadgen.live.exporter import Metrics
from loadgen.live.progress import Progress
from loadgen.measure.client_health import HealthReport
from loadgen.measure.observations import Observations
from loadgen.plan.schedule import WARMUP_CONCURRENCY, ClosedLoop, OpenLoop, Schedule
from loadgen.record import GPU_LOG, RECORDS, SERVER_AFTER, SERVER_BEFORE, Record, RunInfo
from loadgen.run import workers
from loadgen.run.dispatch import StopControl
from loadgen.run.merge import merge_workers
from loadgen.run.partition import Partition
from loadgen.run.prepare import Prepared
from loadgen.run.sender import carry
from loadgen.run.workers import ProgressReport, WorkerDiedError
from loadgen.target.gpu_log import GpuLog
from loadgen.target.server_metrics import snapshot

LEAD_S = 0.05
"""Real time between a schedule's set-up and its zero, so that the first request is not late."""
GPU_EVERY_S = 1.0


def load(plan: Prepared, folder: Path, run: RunInfo, clock: RunClock, live: Metrics) -> Observations:
    """Send everything that is missing."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(RunPhases(plan, folder, run, clock, live).carry_out())


class RunPhases:
    """One load and its listeners."""

    def __init__(self, plan: Prepared, folder: Path, run: RunInfo, clock: RunClock, live: Metrics) -> None:
        self.plan = plan
        self.folder = folder
        self.run = run
        self.clock = clock
        self.metrics = live
        self.progress = Progress(run, plan.planned, len(plan.before.done), plan.options.progress)
        self.brake = StopControl()
        self.interrupts = 0

    async def carry_out(self) -> Observations:
        """All phases, on one progress view."""
        self.metrics.begin(self.run, self.plan.planned, self.run.load.get("rate"))
        self.brake.on_interrupt(self._interrupted)
        with self.progress:
            return await self._phases()

    async def _phases(self) -> Observations:
        seen = Observations()
        options = self.plan.options
        gpu = self._gpu_log()
        try:
            if options.warmup:
                await self._phase(0, options.warmup, ClosedLoop(WARMUP_CONCURRENCY), None)
            seen.before = await asyncio.to_thread(snapshot, self.plan.ask, self._fresh(SERVER_BEFORE))
            gpu.start()
            for first, last in self.plan.workload.phases(self.plan.planned):
                schedule = self._schedule(first, last)
                reports = await self._phase(first, last, schedule, options.duration_s)
                # The client is judged by the measured requests, and not by those that check derived budgets.
                seen.reports = seen.reports or reports
            await gpu.stop()
            seen.after = await asyncio.to_thread(snapshot, self.plan.ask, self.folder / SERVER_AFTER)
        except WorkerDiedError as error:
            seen.stopped = str(error)
            await gpu.stop()
        except DiskFullError as error:
            seen.stopped = f"{error}; every record before it is kept"
            await gpu.stop()
        if self.interrupts:
            seen.stopped = "interrupted"
        seen.energy, seen.clocks_mhz, seen.gpus = gpu.energy, gpu.clocks_mhz, gpu.inventory
        return seen

    async def _phase(
        self, first: int, last: int | None, schedule: Schedule, duration_s: float | None
    ) -> list[HealthReport]:
        plan = self.plan
        share = Partition(
            options=plan.options,
            server=plan.server,
            problems=plan.dataset.problems,
            run_id=plan.run_id,
            records=self.folder / RECORDS,
            chunks=self.folder / CHUNKS,
            clock=self.clock,
            schedule=schedule,
            first=first,
            last=last,
            start_ns=time.perf_counter_ns() + round(LEAD_S * 1e9),
            duration_s=duration_s,
            done=plan.before.done,
        )
        cpus = int(self.run.host.get("cpus") or 1)
        processes = workers.number(plan.options.workers, share, cpus)
        if processes == 1:
            return [await carry(share, self.brake, self, self.metrics.loop_lag.observe)]
        try:
            return await workers.carry_split(share, processes, self.brake, self)
        finally:
            merge_workers(self.folder)

    def _schedule(self, first: int, last: int | None) -> Schedule:
        """The schedule of one part of the load; in an open loop what is left of it, from now on."""
        schedule, done = self.plan.schedule, self.plan.before.done
        if isinstance(schedule, ClosedLoop):
            return schedule
        before = first - self.plan.options.warmup
        skipped = before + sum(first <= seq < (last or seq + 1) for seq in done)
        rest = schedule.times_s[skipped : None if last is None else before + last - first]
        return OpenLoop([time_s - rest[0] for time_s in rest]) if skipped else OpenLoop(rest)

    def _fresh(self, name: str) -> Path:
        """The snapshot before a resumed part does not replace the first."""
        path = self.folder / name
        return path if self.plan.before.run is None else self.folder / f"resumed-{name}"

    def _gpu_log(self) -> GpuLog:
        scale = self.clock.scale
        return GpuLog(
            self.plan.ask,
            self.plan.server.gpu_metrics,
            self.folder / GPU_LOG,
            lambda: (time.perf_counter_ns() - self.clock.start_ns) * scale / 1e9,
            every_s=max(0.25, GPU_EVERY_S / scale),
        )

    def _interrupted(self) -> None:
        self.interrupts += 1
        if self.interrupts == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(self.plan.options.drain_s / self.clock.scale, self.brake.stop)
            self.progress.say("stopping: what is in flight may end; Ctrl-C again cuts it off")

    def due(self, _request: Request) -> None:
        """Listener."""
        self.metrics.due.inc()
        self.metrics.in_flight.inc()
        self.progress.due()

    def tokens(self, request: Request, count: int) -> None:
        """Listener."""
        self.metrics.completion.labels(budget=str(request.budget)).inc(count)
        self.progress.tokens(count)

    def told(self, told: ProgressReport) -> None:
        """Listener, of workers."""
        self.metrics.due.inc(told.due)
        self.metrics.in_flight.inc(told.due - told.answered)
        self.progress.due(told.due)
        for budget, count in told.tokens.items():
            self.metrics.completion.labels(budget=str(budget)).inc(count)
            self.progress.tokens(count)
        for lag_s in told.lags_s:
            self.metrics.loop_lag.observe(lag_s)
        for record in told.records:
            self.ended(record, [])
        if told.gaps:
            self.metrics.gaps.add(told.gaps, told.gaps_sum_s)

    def answered(self) -> None:
        """Listener."""
        self.metrics.in_flight.dec()

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        """Listener."""
        self.metrics.observe(record, self.run.slo)
        self.metrics.gaps.observe(arrival_ns, self.clock.scale)
        self.progress.ended(record)
