"""The process that sends for one Locust worker: work in on stdin, a line for each ended request out on stdout.

Locust runs on gevent, our client on asyncio and uvloop, and neither lives well inside the other (docs/decisions/0031): so
a worker does its sending in a process of its own, with a pipe between. Nothing of a token's path crosses it.

Rules: the first line is a SenderPlan, every further one Work, Slots or a Probe; the end of stdin means that no more comes, and
what is in flight then is given DRAIN_S. Records are written here: a worker that is killed takes nothing finished along.
Writing to the worker waits for nobody: one that hangs stops no stream.

Does not know: Locust, other workers, who decides what is sent.
"""

import asyncio
import dataclasses
import itertools
import platform
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter_ns

import msgspec
import uvloop

from loadgen.client.client import Client
from loadgen.client.timer import sleep_until
from loadgen.client.work_queue import WorkQueue
from loadgen.clock import RunClock
from loadgen.distributed.clock_sync import Probe
from loadgen.distributed.messages import (
    READY,
    FinishedRequest,
    SenderSetup,
    Slots,
    Work,
    WorkerInfo,
    options_of,
)
from loadgen.errors import UsageError
from loadgen.exchange import Request
from loadgen.files import write_atomically
from loadgen.measure.client_health import ClientHealth, HealthReport
from loadgen.plan import datasets
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import ClosedLoop
from loadgen.plan.workload import Item
from loadgen.record import Record
from loadgen.run.dispatch import StopControl
from loadgen.run.partition import Partition
from loadgen.run.recorder import Recorder
from loadgen.run.sender import client_of, deliver
from loadgen.target.server_info import ServerInfo

DRAIN_S = 2.0
"""Real seconds: Locust itself waits 10 s for a worker to end."""


_decode = msgspec.json.Decoder(Work | Slots | Probe).decode


class Pipe:
    """Listens to a share, and tells the worker what ends."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write

    def due(self, _request: Request) -> None:
        """Listener."""

    def tokens(self, _request: Request, count: int) -> None:
        """Listener."""

    def answered(self) -> None:
        """Listener."""

    def ended(self, record: Record, _arrival_ns: list[int]) -> None:
        """Listener."""
        end_s = record.last_token_s if record.outcome == "ok" else record.end_s
        told = FinishedRequest(
            seq=record.seq,
            budget=record.budget,
            outcome=record.outcome,
            seconds=max(0.0, (end_s or record.due_s) - record.due_s),
            tokens=record.completion_tokens or 0,
            ttft_s=record.ttft_s,
            tpot_s=record.tpot_s,
            error=record.error,
        )
        self.write(msgspec.json.encode(told) + b"\n")


class Sender:
    """Sends what it is told to, and keeps the records."""

    def __init__(self, plan: SenderSetup) -> None:
        self.plan = plan
        self.share = share_of(plan)
        self.workload = self.share.workload
        self.brake = StopControl()
        self.queue: asyncio.Queue[Work] = asyncio.Queue()
        self.slots: list[asyncio.Task[None]] = []
        self.send: Callable[[Work, int], Coroutine[None, None, None]]
        self._items: list[Item] = []
        self._more = self.workload.items()

    async def carry_out(self, lines: asyncio.StreamReader, write: Callable[[bytes], None]) -> None:
        """Everything until stdin ends."""
        pipe, health, turns = Pipe(write), ClientHealth(), WorkQueue()
        self._say_who(None)
        with Recorder(self.share, pipe, turns) as keeper:
            health.start()
            async with client_of(self.share, pipe, turns) as client:
                self.send = lambda work, due_ns: self._one(client, keeper, work.seq, due_ns)
                write(READY)
                while line := await lines.readline():
                    await self._told(_decode(line), client)
                for slot in self.slots:
                    slot.cancel()
                stop = asyncio.get_running_loop().call_later(DRAIN_S, self.brake.stop)
                await self.brake.all_ended()
                stop.cancel()
            report = health.stop()
        self._say_who(report)
        self.brake.raise_error()

    async def _told(self, word: Work | Slots | Probe, client: Client) -> None:
        if isinstance(word, Probe):
            self.plan.probes.append(word)
        elif isinstance(word, Slots):
            while len(self.slots) > word.count:
                self.slots.pop().cancel()
            if (more := word.count - len(self.slots)) > 0:
                await client.warm(more)
                self.slots += [asyncio.ensure_future(self._slot()) for _ in range(more)]
        elif self.plan.plan.open:
            await sleep_until(self._ns(word.due_s))
            self.brake.watch(self.send(word, self._ns(word.due_s)))
        else:
            self.queue.put_nowait(word)

    def _ns(self, run_s: float) -> int:
        """A time of the run on this host's monotonic clock."""
        return round((self.plan.zero_s + run_s) * 1e9)

    async def _slot(self) -> None:
        """One stream of a closed loop: a request is due when the slot is free, and it may be sent."""
        while True:
            free_ns = perf_counter_ns()
            work = await self.queue.get()
            due_ns = max(free_ns, self._ns(work.due_s))
            await sleep_until(due_ns)
            ended = asyncio.get_running_loop().create_future()
            self.brake.watch(self._then(self.send(work, due_ns), ended))
            await ended

    async def _then(self, sending: Coroutine[None, None, None], ended: "asyncio.Future[None]") -> None:
        try:
            await sending
        finally:
            if not ended.done():
                ended.set_result(None)

    async def _one(self, client: Client, keeper: Recorder, seq: int, due_ns: int) -> None:
        keeper.keep(await deliver(client, self.workload.request(seq, self._item(seq)), due_ns))

    def _item(self, seq: int) -> Item:
        while len(self._items) <= seq:
            self._items += itertools.islice(self._more, 1024)
        return self._items[seq]

    def _say_who(self, report: HealthReport | None) -> None:
        plan = self.plan
        worker = WorkerInfo(
            name=plan.name,
            host=platform.node(),
            run_id=plan.plan.run_id,
            clock={"wall_s": time.time(), "perf_s": time.perf_counter()},
            zero_s=plan.zero_s,
            error_s=plan.error_s,
            probes=plan.probes,
            report=report,
        )
        write_atomically(Path(plan.plan.folder) / f"worker.{plan.name}.json", msgspec.json.encode(worker))


def share_of(plan: SenderSetup) -> Partition:
    """The run as this process needs it. Raises UsageError where this host lacks the data set."""
    options, server = options_of(plan.plan.argv), ServerInfo(**plan.plan.server)
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    if dataset.sha256 != plan.plan.sha256:
        raise UsageError(
            f"--dataset {options.dataset} is another file than the master's: copy it to this host"
        )
    name, _ = style_of(server.model, options.prompt)
    folder = Path(plan.plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / f"records.{plan.name}.jsonl"
    if records.exists():
        raise UsageError(f"{records} exists, of another run: give another --out, or move it away")
    start_ns = round(plan.zero_s * 1e9)
    return Partition(
        options=dataclasses.replace(options, prompt=name),
        server=server,
        problems=dataset.problems,
        run_id=plan.plan.run_id,
        records=records,
        chunks=folder / f"chunks.{plan.name}.bin",
        clock=RunClock(start_ns, server.time_scale),
        schedule=ClosedLoop(1),
        first=0,
        last=None,
        start_ns=start_ns,
    )


async def serve() -> None:
    """Read the plan, then the work."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)

    def tell(data: bytes) -> None:
        """To the worker, as long as there is one: what is in flight ends, and is recorded, without it too."""
        if not out.is_closing():
            out.write(data)

    plan = msgspec.json.decode(await lines.readline(), type=SenderSetup)
    await Sender(plan).carry_out(lines, tell)


def main() -> int:
    """Send until stdin ends; 2 where the operator has to mend something."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for Locust, which then closes stdin
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except UsageError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
