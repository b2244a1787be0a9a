"""The process that sends the requests of one Locust worker.

Locust runs on gevent, and the client runs on asyncio and uvloop. Both do not work well in one process (docs/decisions/0031),
so each worker starts a sender process and exchanges messages with it (`loadgen.run.process_protocol`). Nothing that happens
for each token passes between the two.

Rules: the first message is a SenderSetup, and each further one is Work, Slots or a ClockProbe. The end of stdin means that no more
work follows; requests that are still in flight then have DRAIN_S seconds to end. The records are written here, so a worker
that is killed loses no finished request. Messages to the worker are sent without waiting, so a worker that does not read them
delays no stream. When the disk is full, the last message is Failed with the reason, and the process ends.

This module does not know Locust, other workers, or how requests are assigned.
"""

import asyncio
import dataclasses
import itertools
import platform
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns

import msgspec

from loadgen.client.client import Client
from loadgen.client.timer import sleep_until
from loadgen.client.work_queue import WorkQueue
from loadgen.clock import RunClock
from loadgen.distributed.clock_sync import ClockProbe
from loadgen.distributed.messages import (
    Failed,
    FinishedRequest,
    SenderSetup,
    Slots,
    Work,
    WorkerInfo,
    parse_options,
)
from loadgen.errors import DiskFullError, UsageError, naming_full_disk
from loadgen.exchange import Request
from loadgen.files import private_files, write_atomically
from loadgen.lock import locked
from loadgen.measure.client_health import ClientHealth, HealthReport
from loadgen.plan import datasets
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import ClosedLoop
from loadgen.plan.workload import Item
from loadgen.record import Record
from loadgen.run import environment
from loadgen.run.dispatch import StopControl
from loadgen.run.partition import Partition
from loadgen.run.process_protocol import ParentConnection, Ready, run_child
from loadgen.run.recorder import Recorder
from loadgen.run.sender import deliver, make_client, workload_of
from loadgen.target.server_info import ServerInfo
from loadgen.terminal import say

DRAIN_S = 2.0
"""Real seconds. Locust itself waits 10 s for a worker to end."""

_setup = msgspec.json.Decoder(SenderSetup)
_message = msgspec.json.Decoder(Work | Slots | ClockProbe)


class FinishedReporter:
    """The listener of a partition: it tells the worker of each request that has ended."""

    def __init__(self, parent: ParentConnection) -> None:
        self._parent = parent

    def due(self, _request: Request) -> None:
        """Locust does not show requests that are due."""

    def tokens(self, _request: Request, count: int) -> None:
        """Locust does not show tokens while they arrive."""

    def answered(self) -> None:
        """Locust does not show requests in flight."""

    def ended(self, record: Record, _arrival_ns: list[int]) -> None:
        """Report the request to the worker."""
        end_s = record.last_token_s if record.outcome == "ok" else record.end_s
        self._parent.send(
            FinishedRequest(
                seq=record.seq,
                budget=record.budget,
                outcome=record.outcome,
                seconds=max(0.0, (end_s or record.due_s) - record.due_s),
                tokens=record.completion_tokens or 0,
                ttft_s=record.ttft_s,
                tpot_s=record.tpot_s,
                error=record.error,
            )
        )


class Sender:
    """Sends the requests that are assigned to a worker, and records them."""

    def __init__(self, setup: SenderSetup) -> None:
        self.setup = setup
        self.partition = make_partition(setup)
        self.workload = workload_of(self.partition)
        self.stop = StopControl()
        self._working: asyncio.Task[None] | None = None
        self.queue: asyncio.Queue[Work] = asyncio.Queue()
        self.slots: list[asyncio.Task[None]] = []
        self.send: Callable[[Work, int], Coroutine[None, None, None]]
        self._items: list[Item] = []
        self._more_items = self.workload.items()

    async def serve(self, parent: ParentConnection) -> None:
        """Send and record until the worker has no more work."""
        reporter, health, work_queue = FinishedReporter(parent), ClientHealth(), WorkQueue()
        with naming_full_disk(Path(self.setup.run.folder)):
            self._write_info(None)
        with Recorder(self.partition, reporter, work_queue, self._fail) as recorder:
            health.start()
            async with make_client(self.partition, reporter, work_queue) as client:
                self.send = lambda work, due_ns: self._send(client, recorder, work.seq, due_ns)
                parent.send(Ready())
                self._working = asyncio.ensure_future(self._work(parent, client))
                with suppress(asyncio.CancelledError):
                    await self._working
                for slot in self.slots:
                    slot.cancel()
                timer = asyncio.get_running_loop().call_later(DRAIN_S, self.stop.stop)
                await self.stop.wait_for_tasks()
                timer.cancel()
            report = health.stop()
        with naming_full_disk(Path(self.setup.run.folder)):
            self._write_info(report)
        self.stop.raise_error()

    async def _work(self, parent: ParentConnection, client: Client) -> None:
        """Handle the messages of the worker until it has no more."""
        while (message := await parent.receive(_message)) is not None:
            await self._handle(message, client)

    def _fail(self, error: Exception) -> None:
        """End: nothing can be recorded any more."""
        self.stop.fail(error)
        if self._working is not None:
            self._working.cancel()

    async def _handle(self, message: Work | Slots | ClockProbe, client: Client) -> None:
        if isinstance(message, ClockProbe):
            self.setup.probes.append(message)
        elif isinstance(message, Slots):
            while len(self.slots) > message.count:
                self.slots.pop().cancel()
            if (more := message.count - len(self.slots)) > 0:
                await client.warm(more)
                self.slots += [asyncio.ensure_future(self._fill_slot()) for _ in range(more)]
        elif self.setup.run.open_loop:
            due_ns = self._clock_ns(message.due_s)
            await sleep_until(due_ns)
            self.stop.start(self.send(message, due_ns))
        else:
            self.queue.put_nowait(message)

    def _clock_ns(self, run_s: float) -> int:
        """A time of the run as a value of this host's monotonic clock."""
        return round((self.setup.start_s + run_s) * 1e9)

    async def _fill_slot(self) -> None:
        """Keep one request of a closed loop in flight. It is due when the slot is free and it may be sent."""
        while True:
            free_ns = perf_counter_ns()
            work = await self.queue.get()
            due_ns = max(free_ns, self._clock_ns(work.due_s))
            await sleep_until(due_ns)
            await asyncio.wait({self.stop.start(self.send(work, due_ns))})

    async def _send(self, client: Client, recorder: Recorder, seq: int, due_ns: int) -> None:
        recorder.record(await deliver(client, self.workload.request(seq, self._item(seq)), due_ns))

    def _item(self, seq: int) -> Item:
        while len(self._items) <= seq:
            self._items += itertools.islice(self._more_items, 1024)
        return self._items[seq]

    def _write_info(self, report: HealthReport | None) -> None:
        setup = self.setup
        info = WorkerInfo(
            name=setup.name,
            host=platform.node(),
            run_id=setup.run.run_id,
            clock=environment.clock_anchor(),
            zero_s=setup.start_s,
            error_s=setup.error_s,
            probes=setup.probes,
            report=report,
        )
        write_atomically(Path(setup.run.folder) / f"worker.{setup.name}.json", msgspec.json.encode(info))


def make_partition(setup: SenderSetup) -> Partition:
    """The run as the sender process needs it. Raises UsageError where this host has another data set than the master."""
    options, server = parse_options(setup.run.argv), ServerInfo(**setup.run.server)
    dataset = datasets.load(options)
    if dataset.sha256 != setup.run.dataset_sha256:
        raise UsageError(f"--dataset {options.dataset} differs from the master's file: copy it to this host")
    name, _ = style_of(server.model, options.prompt)
    folder = Path(setup.run.folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}: choose another folder") from None
    records = folder / f"records.{setup.name}.jsonl"
    if records.exists():
        raise UsageError(f"{records} exists, from another run: give another --out, or move it away")
    start_ns = round(setup.start_s * 1e9)
    return Partition(
        options=dataclasses.replace(options, prompt=name),
        server=server,
        problems=dataset.problems,
        run_id=setup.run.run_id,
        records=records,
        chunks=folder / f"chunks.{setup.name}.bin",
        clock=RunClock(start_ns, server.time_scale),
        schedule=ClosedLoop(1),
        first=0,
        last=None,
        start_ns=start_ns,
    )


async def serve(parent: ParentConnection) -> None:
    """Run one sender process. Raises UsageError or DiskFullError."""
    if (setup := await parent.receive(_setup)) is None:
        return
    with private_files():
        sender = Sender(setup)
        with locked(Path(setup.run.folder), shared=True):
            try:
                await sender.serve(parent)
            except DiskFullError as error:
                parent.send(Failed(reason=str(error)))
                await parent.close()
                raise


def main() -> int:
    """Send until stdin ends. Returns 2 where the user has to correct something, and 1 where the disk is full."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for Locust, which then closes stdin
    try:
        run_child(serve)
    except UsageError as error:
        say(str(error))
        return 2
    except DiskFullError as error:
        say(f"{error}: this worker stops; every record before it is kept")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
