"""TODO docstring."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, Self

import msgspec

from loadgen.chunks import ChunkLog
from loadgen.client.work_queue import WorkQueue
from loadgen.errors import DiskFullError
from loadgen.exchange import Exchange, Request
from loadgen.measure import one_pass
from loadgen.measure.formulas import to_record
from loadgen.record import STRADDLES, Record
from loadgen.run.forced import Phase
from loadgen.run.partition import Partition
from loadgen.run.record_writer import RecordWriter
from loadgen.target import control_api

"""Chunks cut by a derived budget, until their text is settled after the run."""


class RecordListener(Protocol):
    """Who watches a run: metrics, the terminal."""

    def due(self, _request: Request) -> None:
        """A request is being sent."""

    def tokens(self, request: Request, count: int) -> None:
        """Tokens have arrived."""

    def answered(self) -> None:
        """A request is in flight no more; its record is still to be made."""

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        """The record of a request that was sent is kept."""


class RecordedRequest(NamedTuple):
    """A request that was due, and what became of it."""

    request: Request
    due_ns: int
    settle: Callable[[], Exchange]
    """What was read, decoded when this asks for it."""
    phases: list[Phase]


class Recorder:
    """Turns what ended into records and files, when the loop has time (`turns`).

    4,096 tokens and three derived budgets are 5 ms of work: done at once, every other stream's next stamp would wait so
    long. What is left is done on leaving. What goes wrong (DiskFullError) the next `keep` raises, or leaving.
    """

    def __init__(self, share: Partition, listener: RecordListener, turns: WorkQueue) -> None:
        self._share = share
        self._listener = listener
        self._turns = turns
        self._chunks = ChunkLog(share.chunks)
        self._journal = RecordWriter(share.records, control_api.api_key(share.options), self._chunks.sync)
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

    def keep(self, ended: RecordedRequest) -> None:
        """Write one request's record soon, its derived ones before it."""
        if self._failure is not None:
            raise self._failure
        self._listener.answered()
        self._turns.add_steps(self._steps(ended))

    def _steps(self, ended: RecordedRequest) -> Iterator[None]:
        try:
            if self._failure is None:
                yield from self._work(ended)
        except Exception as error:  # noqa: BLE001 here it would end a turn of the loop; it has to end the run
            self._failure = error

    def _work(self, ended: RecordedRequest) -> Iterator[None]:
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
        gaps_known = record.inter_chunk_s is not None
        self._listener.ended(record, exchange.arrival_ns if gaps_known else [])

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
            exchange, straddle = one_pass.derive(whole, budget)
            record = self._record(one_pass.derived_request(request, budget, seq), exchange, due_ns)
            record.derived = True
            if straddle is not None:
                record.cut_at = "chunk"
                self._note(seq, straddle)
            self._journal.append(record)
            yield

    def _note(self, seq: int, straddle: one_pass.PendingCut) -> None:
        if not self._share.options.keep_text:
            return
        try:
            with self._straddles.open("ab") as file:
                file.write(msgspec.json.encode((seq, straddle)) + b"\n")
        except OSError as error:
            raise DiskFullError(f"{self._straddles}: {error.strerror}") from error
