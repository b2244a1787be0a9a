"""A share of the load for each of several processes, which share nothing but the start.

Each is `python -m loadgen.run.workers`: it reads its Share from stdin, says it is ready, waits for the start stamp (the
monotonic clock is one for the machine), carries its share into files of its own, and tells four times a second what
happened, for whoever watches. The parent merges the files when all have ended.

Rules: nothing secret is passed on (the key is in the inherited environment); a Ctrl-C reaches the parent alone, which
tells the workers; a worker whose parent is gone stops; one that died leaves requests that are missing, and is said.

Does not know: how a request is sent (share), or what the figures mean.
"""

import asyncio
import base64
import dataclasses
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec
import uvloop

from loadgen.errors import DiskFullError
from loadgen.live.exporter import GapHistogram
from loadgen.measure.client_health import HealthReport
from loadgen.plan.schedule import ClosedLoop
from loadgen.record import Record
from loadgen.run.dispatch import StopControl
from loadgen.run.partition import Partition
from loadgen.run.sender import carry

TELL_S = 0.25
LEAD_S = 0.1
LINE_LIMIT = 1 << 26


class WorkerDiedError(Exception):
    """A worker ended without its report."""


class ProgressReport(msgspec.Struct, omit_defaults=True):
    """What happened in a worker since it last told."""

    due: int = 0
    answered: int = 0
    tokens: dict[int, int] = {}
    records: list[Record] = []
    lags_s: list[float] = []
    gaps: list[int] = []
    gaps_sum_s: float = 0.0
    report: HealthReport | None = None
    full: str | None = None


class ProgressListener(Protocol):
    """Who watches a run through its workers."""

    def told(self, told: ProgressReport) -> None:
        """Something happened."""


def number(asked: int | None, share: Partition, cpus: int) -> int:
    """Processes for a share: as asked, else one a core; never more than streams of a closed loop."""
    most = share.schedule.concurrency if isinstance(share.schedule, ClosedLoop) else 1 << 16
    return max(1, min(asked or cpus, most))


def part(share: Partition, worker: int, workers: int) -> Partition:
    """The share of one worker, into files of its own beside the run's."""
    return dataclasses.replace(
        share,
        worker=worker,
        workers=workers,
        records=share.records.with_suffix(f".{worker}.jsonl"),
        chunks=share.chunks.with_suffix(f".{worker}.bin"),
    )


async def carry_split(
    share: Partition, workers: int, brake: StopControl, listener: ProgressListener
) -> list[HealthReport]:
    """Carry a share by several processes. Raises DiskFullError, WorkerDiedError, after all have ended."""
    crew = [await WorkerProcess.start(part(share, worker, workers)) for worker in range(workers)]
    for worker in crew:
        await worker.ready()
    start_ns = time.perf_counter_ns() + round(LEAD_S * 1e9)
    for worker in crew:
        worker.say(f"start {start_ns}")
    watching = asyncio.create_task(pass_on(brake, crew))
    try:
        ended = await asyncio.gather(*(worker.listen(listener) for worker in crew), return_exceptions=True)
    finally:
        watching.cancel()
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return [report for report in ended if isinstance(report, HealthReport)]


async def pass_on(brake: StopControl, crew: list["WorkerProcess"]) -> None:
    """Tell the workers when the brake is pressed."""
    said = ""
    while True:
        await asyncio.sleep(0.05)
        word = "stop" if brake.stopped else "drain" if brake.draining else ""
        if word != said:
            said = word
            for worker in crew:
                worker.say(word)


class WorkerProcess:
    """The parent's end of one worker."""

    def __init__(self, process: asyncio.subprocess.Process, number: int) -> None:
        self._process = process
        self._number = number

    @classmethod
    async def start(cls, share: Partition) -> "WorkerProcess":
        """Start the process and hand it its share."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadgen.run.workers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # the terminal's Ctrl-C is for the parent
            cwd=Path.cwd(),
        )
        worker = cls(process, share.worker)
        worker.say(base64.b64encode(pickle.dumps(share)).decode())
        return worker

    def say(self, line: str) -> None:
        """Send one line."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(line.encode() + b"\n")

    async def ready(self) -> None:
        """Wait until it has made its plan."""
        await self._line()

    async def listen(self, listener: ProgressListener) -> HealthReport:
        """Pass on what it tells until its report. Raises DiskFullError, WorkerDiedError."""
        decoder = msgspec.json.Decoder(ProgressReport)
        while True:
            told = decoder.decode(await self._line())
            listener.told(told)
            if told.full is not None:
                await self._process.wait()
                raise DiskFullError(told.full)
            if told.report is not None:
                await self._process.wait()
                return told.report

    async def _line(self) -> bytes:
        stdout = self._process.stdout
        line = await stdout.readline() if stdout is not None else b""
        if not line.endswith(b"\n"):
            status = await self._process.wait()
            raise WorkerDiedError(f"worker {self._number} died (status {status})")
        return line


class _ProgressSender:
    """A share's listener in the worker: gathers, and tells now and then."""

    def __init__(self, scale: float) -> None:
        self._told = ProgressReport()
        self._scale = scale
        self._gaps = GapHistogram()

    def due(self, _request: Any) -> None:
        self._told.due += 1

    def tokens(self, request: Any, count: int) -> None:
        tokens = self._told.tokens
        tokens[request.budget] = tokens.get(request.budget, 0) + count

    def answered(self) -> None:
        self._told.answered += 1

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        self._told.records.append(msgspec.structs.replace(record, text=None, reasoning=None, phases=None))
        self._gaps.observe(arrival_ns, self._scale)

    def lag(self, lag_s: float) -> None:
        self._told.lags_s.append(lag_s)

    def tell(self, **more: Any) -> None:
        """One line for the parent."""
        told, self._told = self._told, ProgressReport()
        told.gaps, told.gaps_sum_s = self._gaps.take()
        for name, value in more.items():
            setattr(told, name, value)
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()


async def _serve(share: Partition) -> None:
    """The worker's whole life, after its share was read."""
    loop = asyncio.get_running_loop()
    brake = StopControl()
    teller = _ProgressSender(share.clock.scale)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    start = await loop.run_in_executor(None, sys.stdin.readline)
    if not start.startswith("start "):
        return
    orders = threading.Thread(target=_obey, args=(loop, brake), daemon=True)
    orders.start()
    telling = asyncio.create_task(_tell(teller))
    try:
        report = await carry(
            dataclasses.replace(share, start_ns=int(start.split()[1])), brake, teller, teller.lag
        )
    except DiskFullError as error:
        teller.tell(full=str(error))
    else:
        teller.tell(report=report)
    finally:
        telling.cancel()


async def _tell(teller: _ProgressSender) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        teller.tell()


def _obey(loop: asyncio.AbstractEventLoop, brake: StopControl) -> None:
    """Orders from the parent; its end is an order to stop."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(brake.stop if line.strip() == "stop" else brake.drain)
    loop.call_soon_threadsafe(brake.stop)


def main() -> None:
    """A worker."""
    share = pickle.loads(base64.b64decode(sys.stdin.readline()))  # noqa: S301  our own parent's
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(share))


if __name__ == "__main__":
    main()
