"""One process's share of a run: its requests, its schedule, its files. A run without workers has one share.

Rules: the path of a request reads top to bottom here: `requests` → `send` → `keep`. A share shares nothing with its
siblings but the clock's start; every sum over shares is taken from their files. Derived records are written before the
record they come from: a crash between them leaves a request that is missing, never one that is half there.

Does not know: preflight, verdicts, summaries, who watches.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import msgspec

from loadgen import ask, budgets, onepass
from loadgen.budgets import Phase
from loadgen.chunks import ChunkLog
from loadgen.client import Client
from loadgen.datasets import Problem
from loadgen.exchange import Exchange, Request
from loadgen.health import Health, Report
from loadgen.journal import DiskFullError, Journal
from loadgen.measure import Clock, to_record
from loadgen.options import RunOptions
from loadgen.preflight import Server
from loadgen.prompts import style_of
from loadgen.record import Record
from loadgen.run import Brake, drive
from loadgen.schedule import Closed, Schedule, split
from loadgen.turns import Turns
from loadgen.workload import Workload

STRADDLES = "straddles.jsonl"
"""Chunks cut by a derived budget, until their text is settled after the run."""


class Listener(Protocol):
    """Who watches a run: metrics, the terminal."""

    def due(self, _request: Request) -> None:
        """A request is being sent."""

    def tokens(self, request: Request, count: int) -> None:
        """Tokens have arrived."""

    def answered(self) -> None:
        """A request is in flight no more; its record is still to be made."""

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        """The record of a request that was sent is kept."""


@dataclass(frozen=True)
class Share:
    """Everything a process needs to carry its part; picklable."""

    options: RunOptions
    server: Server
    problems: list[Problem]
    run_id: str
    records: Path
    chunks: Path
    clock: Clock
    schedule: Schedule
    first: int
    """`seq` of the first request: warm-ups come before the measured ones."""
    last: int | None
    """`seq` after the last; None where a duration ends the run."""
    start_ns: int
    duration_s: float | None = None
    done: frozenset[int] = field(default_factory=frozenset)
    worker: int = 0
    workers: int = 1

    @property
    def workload(self) -> Workload:
        """The plan of the whole run."""
        _, style = style_of(self.server.model, self.options.prompt)
        return Workload(self.problems, self.options, self.server.model, style, self.run_id)

    def requests(self) -> Iterator[Request]:
        """The requests of this share that are not done yet, in order."""
        missing = (r for r in self.workload.requests(self.first, self.last) if r.seq not in self.done)
        return islice(missing, self.worker, None, self.workers)


class Ended(NamedTuple):
    """A request that was due, and what became of it."""

    request: Request
    due_ns: int
    settle: Callable[[], Exchange]
    """What was read, decoded when this asks for it."""
    phases: list[Phase]


def client_of(share: Share, listener: Listener, turns: Turns) -> Client:
    """The client that sends for a share."""
    options = share.options
    return Client(
        options.target,
        api_key=ask.api_key(options),
        headers=dict(options.headers),
        timeout_s=options.timeout_s / share.clock.scale,
        ca_file=str(options.ca_file) if options.ca_file else None,
        verify=not options.insecure,
        on_tokens=listener.tokens,
        turns=turns,
    )


async def deliver(client: Client, request: Request, due_ns: int) -> Ended:
    """Send one request, in one call or in two."""
    if request.force is None:
        return Ended(request, due_ns, (await client.call(request)).settle, [])
    exchange, phases = await budgets.send_forced(client.send, request)
    return Ended(request, due_ns, lambda: exchange, phases)


async def carry(share: Share, brake: Brake, listener: Listener, on_lag: Callable[[float], None]) -> Report:
    """Send every request of the share; the process's own health. Raises DiskFullError."""
    health = Health(on_lag)
    turns = Turns()
    client = client_of(share, listener, turns)

    async def send(request: Request, due_ns: int) -> Ended:
        listener.due(request)
        return await deliver(client, request, due_ns)

    with Keeper(share, listener, turns) as keeper, Drain(share, brake) as drain:
        health.start()
        try:
            async with client:
                schedule = split(share.schedule, share.worker, share.workers)
                if isinstance(schedule, Closed):
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

    def __init__(self, share: Share, brake: Brake) -> None:
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


class Keeper:
    """Turns what ended into records and files, when the loop has time (`turns`).

    4,096 tokens and three derived budgets are 5 ms of work: done at once, every other stream's next stamp would wait so
    long. What is left is done on leaving. What goes wrong (DiskFullError) the next `keep` raises, or leaving.
    """

    def __init__(self, share: Share, listener: Listener, turns: Turns) -> None:
        self._share = share
        self._listener = listener
        self._turns = turns
        self._chunks = ChunkLog(share.chunks)
        self._journal = Journal(share.records, ask.api_key(share.options), self._chunks.sync)
        self._straddles = share.records.with_name(STRADDLES)
        self._largest = max(share.options.budgets)
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._turns.finish()
        finally:
            self._journal.close()
            self._chunks.close()
        if self._failure is not None and kind is None:
            raise self._failure

    def keep(self, ended: Ended) -> None:
        """Write one request's record soon, its derived ones before it."""
        if self._failure is not None:
            raise self._failure
        self._listener.answered()
        self._turns.later(self._steps(ended))

    def _steps(self, ended: Ended) -> Iterator[None]:
        try:
            if self._failure is None:
                yield from self._work(ended)
        except Exception as error:  # noqa: BLE001 here it would end a turn of the loop; it has to end the run
            self._failure = error

    def _work(self, ended: Ended) -> Iterator[None]:
        """All that is done of one request; the loop may look at its sockets at each yield."""
        request, due_ns, settle, phases = ended
        exchange = settle()
        yield
        if self._share.options.one_pass and request.budget == self._largest and not request.warmup:
            yield from self._derive(request, due_ns, exchange)
        try:
            self._chunks.append(request.seq, exchange.arrival_ns, exchange.tokens, self._share.clock)
        except OSError as error:
            raise DiskFullError(f"{self._share.chunks}: {error.strerror}") from error
        yield
        record = self._record(request, exchange, due_ns)
        if phases:
            record.phases = [phase.row(self._share.clock) for phase in phases]
        self._journal.append(record)
        yield
        self._listener.ended(record, exchange.arrival_ns)

    def _record(self, request: Request, exchange: Exchange, due_ns: int) -> Record:
        share = self._share
        record = to_record(
            request,
            exchange,
            due_ns,
            share.clock,
            run_id=share.run_id,
            emulated=share.server.emulated,
            keep_text=share.options.keep_text,
        )
        record.repeat = request.repeat
        record.simulated = share.server.simulated
        return record

    def _derive(self, request: Request, due_ns: int, whole: Exchange) -> Iterator[None]:
        stride = self._share.workload.planned_with_warmup
        smaller = [b for b in self._share.options.budgets if b < self._largest]
        for position, budget in enumerate(smaller, start=1):
            seq = request.seq + position * stride
            exchange, straddle = onepass.derive(whole, budget)
            record = self._record(onepass.derived_request(request, budget, seq), exchange, due_ns)
            record.derived = True
            if straddle is not None:
                record.cut_at = "chunk"
                self._note(seq, straddle)
            self._journal.append(record)
            yield

    def _note(self, seq: int, straddle: onepass.Straddle) -> None:
        if not self._share.options.keep_text:
            return
        try:
            with self._straddles.open("ab") as file:
                file.write(msgspec.json.encode((seq, straddle)) + b"\n")
        except OSError as error:
            raise DiskFullError(f"{self._straddles}: {error.strerror}") from error
