"""The process that sends the requests of one Locust worker.

Locust runs on gevent, and the client runs on asyncio and uvloop. Both do not work well in one process (docs/decisions/0031),
so each worker starts a sender process and exchanges messages with it (`loadgen.run.process_protocol`). Nothing that happens
for each token passes between the two.

Rules: the first message is a SenderSetup, and each further one is Work, Slots or a ClockProbe. The end of stdin means that no more
work follows; requests that are still in flight then have DRAIN_S seconds to end. The records are written here, so a worker
that is killed loses no finished request. Messages to the worker are sent without waiting, so a worker that does not read them
delays no stream. When the disk is full, the last report says so, and the process ends.

This module does not know Locust, other workers, or how requests are assigned.
"""

import asyncio
import dataclasses
import platform
import signal
import sys
from pathlib import Path
from time import perf_counter_ns

import msgspec
from msgspec.json import Decoder

from loadgen.client.timer import sleep_until
from loadgen.clock import RunClock
from loadgen.distributed.clock_sync import ClockProbe
from loadgen.distributed.messages import SenderSetup, Slots, Work, WorkerInfo, parse_options
from loadgen.errors import DiskFullError, UsageError, naming_full_disk
from loadgen.exchange import Request
from loadgen.files import private_files, write_atomically
from loadgen.lock import locked
from loadgen.measure.client_health import ClientHealth, HealthReport
from loadgen.plan import datasets
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import ClosedLoop
from loadgen.record import Record
from loadgen.run import environment
from loadgen.run.dispatch import StopControl
from loadgen.run.partition import Partition
from loadgen.run.process_protocol import Channel, Report, run_child
from loadgen.run.recorder import RunListener
from loadgen.run.sender import Sending, sending, workload_of
from loadgen.target.server_info import ServerInfo
from loadgen.terminal import say

DRAIN_S = 2.0
"""Real seconds. Locust itself waits 10 s for a worker to end."""


class Reporter(RunListener):
    """The listener of a partition: it tells the worker of each request that has ended."""

    def __init__(self, parent: Channel) -> None:
        self._parent = parent

    def ended(self, record: Record, _arrival_ns: list[int]) -> None:
        """Report the request to the worker."""
        self._parent.send(Report(records=[record.without_texts()]))


class Sender:
    """Sends the requests that are assigned to a worker, and records them."""

    def __init__(self, setup: SenderSetup) -> None:
        self.setup = setup
        self.folder = Path(setup.run.folder)
        self.partition = make_partition(setup, self.folder)
        self.workload = workload_of(self.partition)
        self.items = enumerate(self.workload.items())
        self.stop = StopControl()
        self.queue: asyncio.Queue[tuple[Request, int]] = asyncio.Queue()
        """The requests of a closed loop that wait for a slot, and from when on (ns) each may be sent."""
        self.slots: list[asyncio.Task[None]] = []

    async def serve(self, parent: Channel) -> None:
        """Send and record until the worker has no more work. Raises DiskFullError."""
        health = ClientHealth()
        self._write_info(None)
        async with sending(self.partition, self.stop, Reporter(parent), health) as process:
            parent.send(Report())
            await self.stop.unless_draining(self._work(parent, process))
            for slot in self.slots:
                slot.cancel()
            timer = asyncio.get_running_loop().call_later(DRAIN_S, self.stop.stop)
            await self.stop.wait_for_tasks()
            timer.cancel()
        self._write_info(health.report)
        self.stop.raise_error()

    async def _work(self, parent: Channel, process: Sending) -> None:
        """Handle the messages of the worker until it has no more."""
        decoder = Decoder(Work | Slots | ClockProbe)
        while (message := await parent.receive(decoder)) is not None:
            if isinstance(message, ClockProbe):
                self.setup.probes.append(message)
            elif isinstance(message, Slots):
                await self._resize(message.count, process)
            else:
                # The master assigns numbers in ascending order.
                item = next(item for seq, item in self.items if seq == message.seq)
                request = self.workload.request(message.seq, item)
                due_ns = round((self.setup.start_s + message.due_s) * 1e9)
                if self.setup.run.open_loop:
                    await sleep_until(due_ns)
                    self.stop.start(process.send(request, due_ns))
                else:
                    self.queue.put_nowait((request, due_ns))

    async def _resize(self, count: int, process: Sending) -> None:
        """Have `count` requests of a closed loop in flight."""
        while len(self.slots) > count:
            self.slots.pop().cancel()
        if (more := count - len(self.slots)) > 0:
            await process.client.warm(more)
            self.slots += [asyncio.ensure_future(self._fill_slot(process)) for _ in range(more)]

    async def _fill_slot(self, process: Sending) -> None:
        """Keep one request of a closed loop in flight. It is due when the slot is free and it may be sent."""
        while True:
            free_ns = perf_counter_ns()
            request, from_ns = await self.queue.get()
            due_ns = max(free_ns, from_ns)
            await sleep_until(due_ns)
            await asyncio.wait({self.stop.start(process.send(request, due_ns))})

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
        with naming_full_disk(self.folder):
            write_atomically(self.folder / f"worker.{setup.name}.json", msgspec.json.encode(info))


def make_partition(setup: SenderSetup, folder: Path) -> Partition:
    """The run as the sender process needs it. Raises UsageError where this host has another data set than the master."""
    options, server = parse_options(setup.run.argv), ServerInfo(**setup.run.server)
    dataset = datasets.load(options)
    if dataset.sha256 != setup.run.dataset_sha256:
        raise UsageError(f"--dataset {options.dataset} differs from the master's file: copy it to this host")
    name, _ = style_of(server.model, options.prompt)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}: choose another folder") from None
    records = folder / f"records.{setup.name}.jsonl"
    if records.exists():
        raise UsageError(f"{records} exists, from another run: give another --out, or move it away")
    return Partition(
        options=dataclasses.replace(options, prompt=name),
        server=server,
        problems=dataset.problems,
        run_id=setup.run.run_id,
        records=records,
        chunks=folder / f"chunks.{setup.name}.bin",
        clock=RunClock(round(setup.start_s * 1e9), server.time_scale),
        schedule=ClosedLoop(1),
    )


async def serve(parent: Channel) -> None:
    """Run one sender process. Raises UsageError or DiskFullError."""
    if (setup := await parent.receive(Decoder(SenderSetup))) is None:
        return
    with private_files():
        sender = Sender(setup)
        with locked(sender.folder, shared=True):
            try:
                await sender.serve(parent)
            except DiskFullError as error:
                parent.send(Report(disk_full=str(error)))
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
