"""Makes records of results and writes them, and the arrival times of their tokens, to the files of a partition.

Rules: records that are derived for smaller budgets are written before the record that they are derived from. After a crash
between the two, the request counts as missing, so that no request is recorded in part.

This module does not know how a request was sent, or what a run's summary contains.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple, Self

import msgspec

from loadgen.chunks import ChunkLog
from loadgen.client.work_queue import WorkQueue
from loadgen.errors import naming_full_disk
from loadgen.exchange import Exchange, Request
from loadgen.measure import one_pass
from loadgen.measure.formulas import to_record
from loadgen.record import STRADDLES, Record
from loadgen.redaction import Redactor
from loadgen.run.forced import Phase
from loadgen.run.partition import Partition
from loadgen.run.record_writer import RecordWriter
from loadgen.target.control_api import secrets


class RunListener:
    """Follows what one process sends, for example to show it. A subclass overrides the methods that it needs."""

    def due(self) -> None:
        """Called when a request is due and is being sent."""

    def tokens(self, request: Request, count: int) -> None:
        """Called when `count` tokens of a request's answer have arrived."""

    def answered(self) -> None:
        """Called when a request is not in flight any more. Its record is made later."""

    def ended(self, record: Record, arrival_ns: list[int]) -> None:
        """Called when the record of a request has been written."""

    def lag(self, lag_s: float) -> None:
        """Called for each measurement of the event loop's lag."""


class Result(NamedTuple):
    """A request that was due, and its answer or failure."""

    request: Request
    due_ns: int
    decode: Callable[[], Exchange]
    """Decodes the answer, which may take milliseconds, and returns it."""
    phases: list[Phase]


class Recorder:
    """Records results when the event loop has time for it (`work_queue`).

    The record of 4,096 tokens and three derived budgets takes 5 ms. If it were made at once, the timestamps of all other
    streams would be late by that time. Leaving the context makes all records that are still missing. An error such as
    DiskFullError is passed to `on_failure` at once, and raised when the context is left.
    """

    def __init__(
        self,
        partition: Partition,
        listener: RunListener,
        work_queue: WorkQueue,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._partition = partition
        self._listener = listener
        self._work_queue = work_queue
        self._on_failure = on_failure
        options = partition.options
        self._redactor = Redactor(secrets(options, all_headers=False))
        with naming_full_disk(partition.records.parent):
            self._chunks = ChunkLog(partition.chunks)
            self._writer = RecordWriter(partition.records, self._redactor, self._chunks.sync)
        self._straddles = partition.records.with_name(STRADDLES)
        self._largest_budget = max(partition.options.budgets)
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._work_queue.finish()
        finally:
            with ExitStack() as closing:
                closing.callback(self._close_chunks)
                closing.callback(self._writer.close)  # first, because it syncs the chunks too
        if self._failure is not None and kind is None:
            raise self._failure

    def _close_chunks(self) -> None:
        with naming_full_disk(self._partition.chunks):
            self._chunks.close()

    def record(self, result: Result) -> None:
        """Record one result soon."""
        self._listener.answered()
        self._work_queue.add_steps(self._steps(result))

    def _steps(self, result: Result) -> Iterator[None]:
        try:
            if self._failure is None:
                yield from self._record_in_steps(result)
        except Exception as error:  # noqa: BLE001 raised here, it would end the work queue instead of the run
            self._failure = error
            self._on_failure(error)

    def _record_in_steps(self, result: Result) -> Iterator[None]:
        """All the work of one result. At each `yield`, the event loop may read its sockets."""
        request, due_ns, decode, phases = result
        exchange = decode()
        yield
        if self._partition.options.one_pass and request.budget == self._largest_budget and not request.warmup:
            yield from self._derive(request, due_ns, exchange)
        with naming_full_disk(self._partition.chunks):
            self._chunks.append(request.seq, exchange.arrival_ns, exchange.tokens, self._partition.clock)
        yield
        record = self._make_record(request, exchange, due_ns)
        if phases:
            record.phases = [phase.row(self._partition.clock) for phase in phases]
        self._writer.append(record)
        yield
        if record.error is not None:
            record.error = self._redactor.text(record.error)  # the listener shows it
        gaps_known = record.inter_chunk_s is not None
        self._listener.ended(record, exchange.arrival_ns if gaps_known else [])

    def _make_record(self, request: Request, exchange: Exchange, due_ns: int) -> Record:
        partition = self._partition
        return to_record(
            request,
            exchange,
            due_ns,
            partition.clock,
            run_id=partition.run_id,
            emulated=partition.server.emulated,
            simulated=partition.server.simulated,
            keep_text=partition.options.keep_text,
        )

    def _derive(self, request: Request, due_ns: int, largest: Exchange) -> Iterator[None]:
        """Write the records of the smaller budgets, which are derived from the answer at the largest."""
        stride = self._partition.stride
        smaller = [budget for budget in self._partition.options.budgets if budget < self._largest_budget]
        for position, budget in enumerate(smaller, start=1):
            seq = request.seq + position * stride
            exchange, pending_cut = one_pass.derive(largest, budget)
            answered = dataclasses.replace(request, budget=budget, seq=seq)
            record = self._make_record(answered, exchange, due_ns)
            record.derived = True
            if pending_cut is not None:
                record.cut_at = "chunk"
                self._store_pending_cut(seq, pending_cut)
            self._writer.append(record)
            yield

    def _store_pending_cut(self, seq: int, pending_cut: one_pass.PendingCut) -> None:
        if not self._partition.options.keep_text:
            return
        with naming_full_disk(self._straddles), self._straddles.open("ab") as file:
            file.write(msgspec.json.encode((seq, pending_cut)) + b"\n")
