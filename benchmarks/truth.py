"""Compares the client's measurements with the true values of a server that keeps a fixed timetable.

`python -m benchmarks.truth [--requests N]` runs each case of the reference server (loadgen/checks/reference_server.py) at
concurrency 1 and 64 and prints the median of every metric beside its true value; docs/truth.md has what published tools
measured in the same cases. At concurrency 64 the server has a CPU core of its own. The exit code is 1 where a median differs
by more than 1 ms and more than 1 %. The last line is JSON.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns

import uvloop

from benchmarks.common import closed_loop, parser
from loadgen.checks.reference_server import CASES, serving
from loadgen.client.response import ResponseReader
from loadgen.clock import RunClock
from loadgen.exchange import Request
from loadgen.measure.formulas import to_record
from loadgen.record import Record


@dataclass(frozen=True)
class Row:
    """One metric of one case."""

    case: str
    concurrency: int
    metric: str
    true_ms: float
    median_ms: float

    @property
    def ok(self) -> bool:
        """The median is within 1 ms or 1 % of the true value."""
        return abs(self.median_ms - self.true_ms) <= max(1.0, 0.01 * self.true_ms)


async def load(url: str, concurrency: int, requests: int) -> list[Record]:
    """Run a closed loop against one case and return its records."""
    records: list[Record] = []
    clock = RunClock(perf_counter_ns())

    def steps(request: Request, due_ns: int, reader: ResponseReader) -> Iterator[None]:
        records.append(to_record(request, reader.result(), due_ns, clock, run_id="truth"))
        yield

    planned = (Request(i, "p", 0, 65, "cut", "/chat/completions", {"stream": True}) for i in range(requests))
    await closed_loop(url, planned, streams=concurrency, clock=clock, steps=steps)
    return records


def rows(name: str, concurrency: int, records: list[Record]) -> list[Row]:
    """Return the median of each metric with a true value. The first request of each stream, on a new connection, is left out."""
    measured = [record for record in records if record.seq >= concurrency]
    assert {record.outcome for record in records} == {"ok"}, {record.error for record in records}
    found = []
    for metric, true_ms in CASES[name].truth.items():
        if metric == "stream_end_s":
            values = [record.end_s - record.sent_s for record in measured if record.end_s and record.sent_s]
        else:
            values = [value for record in measured if (value := getattr(record, metric)) is not None]
        # Where half of the records or more do not have the value, it was not measured, which is not the true value.
        median_ms = 1000 * median(values) if 2 * len(values) > len(measured) else math.nan
        found.append(Row(name, concurrency, metric, true_ms, median_ms))
    if name == "queued":
        found.append(Row(name, concurrency, "network + client", 0.0, median(map(unexplained_ms, measured))))
    return found


def unexplained_ms(record: Record) -> float:
    """Return the part of TTFT that the server does not account for."""
    timings = record.server_timings or {}
    served_ms = float(timings["queue_time_ms"]) + float(timings["time_to_first_token_ms"])
    return 1000 * (record.ttft_s or 0) - served_ms


def main() -> int:
    """Run every case and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--requests", type=int, default=20, help="per stream at concurrency 1, and a fifth of it at 64 [20]"
    )
    requests = arguments.parse_args().requests
    found: list[Row] = []
    for concurrency in (1, 64):
        number = requests if concurrency == 1 else concurrency * max(2, requests // 5)
        with serving(apart=concurrency > 1) as server:
            # The first requests are a warm-up that is not judged.
            uvloop.run(load(f"{server}/plain/v1", concurrency, 4 * concurrency))
            for name in CASES:
                found += rows(name, concurrency, uvloop.run(load(f"{server}/{name}/v1", concurrency, number)))
    for name in CASES:
        print(f"\n{name}")
        for row in (row for row in found if row.case == name):
            mark = "" if row.ok else "  ← wrong"
            print(
                f"  {row.concurrency:3}  {row.metric:17} true {row.true_ms:7.2f}  median {row.median_ms:7.2f} ms{mark}"
            )
    wrong = [row for row in found if not row.ok]
    worst = max(found, key=lambda row: abs(row.median_ms - row.true_ms))
    summary = {
        "ok": not wrong,
        "metrics": len(found),
        "wrong": len(wrong),
        "worst_ms": round(abs(worst.median_ms - worst.true_ms), 3),
        "worst": f"{worst.case} {worst.metric} at {worst.concurrency}",
    }
    print(json.dumps(summary))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
