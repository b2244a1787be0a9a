"""Compares a run through Locust with a run of `python -m loadgen`: the same load on one emulated server, alternately.

`python -m benchmarks.locust_agreement [--pairs N] [--requests N]`. Each pair is a run in one process, then one with Locust's
master and 3 workers. Both use the same plan, seed and open-loop schedule, so that corresponding requests send the same prompt
at the same time of the run and get the same tokens. There are two comparisons for each budget:

- The ratio of the means over all requests, with its 95 % interval. The mean is used because the median of a TTFT that waits
  for the running step is twice as noisy. The noise of the comparison is shown beside it: the ratio between two halves of the
  single-process runs.
- The median ratio of each request's figure to the figure that the server reports for it (`metrics` in its last chunk). Waiting
  for a step, the batch, and steps that are late on a busy machine affect both figures and cancel.

The server is emulated at a quarter of real time, so that what the client adds is small compared with what is measured. The
last line is JSON. The exit code is 1 where a ratio is not within 2 %.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.common import parser
from loadgen.record import Record, read_records
from tests.fixtures.emulated import emulated

MODEL = "r1-distill-qwen-14b"
WORKERS = 3
RATE = 160
"""Requests per second of server time, which is 40 per real second."""
SPEED = 0.25
LIMIT = 0.02
METRICS = ("ttft_s", "tpot_s", "e2e_s")


def reported_s(record: Record, metric: str) -> float:
    """Return the figure that the server reports for a request, in seconds."""
    timings: dict[str, float] = record.server_timings or {}
    first_ms = timings["queue_time_ms"] + timings["time_to_first_token_ms"]
    all_ms = {"ttft_s": first_ms, "tpot_s": timings["mean_itl_ms"], "e2e_s": first_ms + timings["generation_time_ms"]}
    return all_ms[metric] / 1e3


def beside_server(records: Iterable[Record], metric: str) -> float:
    """Return the median over requests of the measured figure divided by the reported one."""
    return float(median(getattr(record, metric) / reported_s(record, metric) for record in records))


def ratio(records: list[Record], others: list[Record], metric: str) -> tuple[float, float]:
    """Return the ratio of the means and half the width of its 95 % interval."""
    (mean, spread), (mean2, spread2) = (
        (fmean(values), stdev(values) / fmean(values) / math.sqrt(len(values)))
        for values in ([getattr(record, metric) for record in some] for some in (records, others))
    )
    return mean / mean2, 1.96 * mean / mean2 * math.hypot(spread, spread2)


def compare(single: list[list[Record]], locust: list[list[Record]]) -> list[dict[str, Any]]:
    """Return one row for each budget and metric. A run is a list of records."""
    rows = []
    for budget in sorted({record.budget for record in single[0]}):
        ours, theirs = ([[r for r in run if r.budget == budget] for run in runs] for runs in (single, locust))
        for metric in METRICS:
            one, other = [*chain.from_iterable(ours)], [*chain.from_iterable(theirs)]
            of_means, half_width = ratio(other, one, metric)
            single_to_server, locust_to_server = beside_server(one, metric), beside_server(other, metric)
            row = {
                "budget": budget, "metric": metric, "single_s": fmean(getattr(r, metric) for r in one),
                "ratio": of_means, "ci95": half_width, "noise": _noise(ours, metric),
                "single_to_server": single_to_server, "locust_to_server": locust_to_server, "ratio_to_server": locust_to_server / single_to_server,
            }  # fmt: skip
            rows.append(row)
    return rows


def _noise(runs: list[list[Record]], metric: str) -> float | None:
    """Return the ratio between two halves of the single-process runs; None where there is only one run."""
    half, rest = ([*chain.from_iterable(some)] for some in (runs[::2], runs[1::2]))
    return ratio(half, rest, metric)[0] if rest else None


def same_tokens(single: list[Record], locust: list[Record]) -> bool:
    """Return whether corresponding requests had the same prompt and got the same answer."""
    one, other = (
        {r.seq: (r.problem_id, r.budget, r.text, r.reasoning, r.completion_tokens, r.outcome) for r in run}
        for run in (single, locust)
    )
    return one == other


def commands(kind: str, target: str, requests: int, out: Path) -> list[list[str]]:
    """Return the command lines of one run."""
    plan = f"--target {target} --dataset sample --budgets 8,16 --requests {requests} --rate {RATE} --out {out}"
    if kind == "single":
        lines = [f"loadgen run --metrics-port off --progress none --cache salt {plan}"]
    else:
        quiet = f"--headless --only-summary --loglevel ERROR --processes {WORKERS} --more=--cache=salt"
        lines = [f"locust -f loadgen/locustfile.py {quiet} {plan}", f"loadgen gather {out}"]
    return [[sys.executable, "-m", *line.split()] for line in lines]


def run(kind: str, target: str, requests: int, out: Path) -> list[Record]:
    """Carry out one run and return its records."""
    for line in commands(kind, target, requests, out):
        done = subprocess.run(line, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"locust_agreement: {' '.join(line)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return list(read_records(out / "records.jsonl"))


def main() -> int:
    """Run all pairs, print the comparison, and return 1 where a ratio is not within the limit."""
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=2, metavar="N", help="runs of each kind [2]")
    arguments.add_argument("--requests", type=int, default=1000, metavar="N", help="in each run [1000]")
    options = arguments.parse_args()
    runs: dict[str, list[list[Record]]] = {"single": [], "locust": []}
    flags = ("--text", "trace", "--speed", str(SPEED), "--enable-per-request-metrics")
    with emulated("tp1", *flags, model=MODEL) as target, tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            for kind, done in runs.items():
                done.append(run(kind, target, options.requests, Path(folder) / f"{kind}-{pair}"))
    same = all(same_tokens(one, other) for one, other in zip(runs["single"], runs["locust"], strict=True))
    rows = compare(runs["single"], runs["locust"])
    print(
        f"{'budget':>6} {'':7}{'single':>10} {'locust / single':>19} {'single / single':>16} {'beside the server: single':>26} {'locust':>8} {'ratio':>8}"
    )
    for row in rows:
        noise = "" if row["noise"] is None else f"{row['noise']:.4f}"
        print(
            f"{row['budget']:>6} {row['metric']:7}{row['single_s'] * 1e3:>7.2f} ms {row['ratio']:>10.4f} ± {row['ci95']:.4f} {noise:>16}"
            f" {row['single_to_server']:>26.4f} {row['locust_to_server']:>8.4f} {row['ratio_to_server']:>8.4f}"
        )
    worst = max(abs(row[name] - 1) for row in rows for name in ("ratio", "ratio_to_server"))
    ok = same and worst <= LIMIT
    print(f"emulated; {options.pairs} pairs of {options.requests} requests; same answers, request by request: {same}")
    print(json.dumps({"ok": ok, "worst": round(worst, 4), "same_answers": same, "rows": rows}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
