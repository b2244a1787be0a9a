"""How far the cost of a token in a run of few requests is from that of a long run: over the whole run, and in its steady window.

    python -m benchmarks.windows                                        # about three minutes on two cores
    python -m benchmarks.windows --budgets 1024 --requests 36,320 --long 1000

Every run is simulated on the sample problems, so that only the number of requests differs. The truth is the steady window of
the longest run. A run without a steady window is marked as too short. The exit code is 1 if a run that is not marked differs
from the truth by more than 3 %.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadgen.cli import main as loadgen
from loadgen.record import read_run

LIMIT = 0.03


class Cost(NamedTuple):
    """GPU-seconds per token of one run."""

    whole: float
    steady: float | None
    share: float
    """Length of the steady window / length of the run."""
    joules: float | None
    """Joules per token in the steady window."""


def simulated(folder: Path, budget: int, requests: int, streams: str) -> dict[str, Cost]:
    """Simulate a run for each number of streams. Raises RuntimeError where the sweep fails."""
    out = folder / f"{budget}-{requests}"
    words = ["sweep", "--configs", "tp1", "--models", "r1-distill-qwen-7b", "--dataset", "sample"]
    words += ["--budgets", str(budget), "--requests", str(requests), "--loads", streams]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = loadgen([*words, "--backend", "simulate", "--out", str(out)])
    if code:
        raise RuntimeError(said.getvalue())
    return {load: cost(out / f"tp1_r1-distill-qwen-7b_c{load}") for load in streams.split(",")}


def cost(folder: Path) -> Cost:
    """The cost of one run from its run.json."""
    run = read_run(folder)
    steady, whole = run.summary["steady"], run.summary["throughput"]
    joules = run.energy.get("steady", {}).get("joules")
    tokens = None
    if run.window_s is not None:
        tokens = (run.window_s[1] - run.window_s[0]) * steady["completion_tokens_per_s"]
    return Cost(
        whole["gpu_seconds_per_token_wall"],
        steady.get("gpu_seconds_per_token"),
        steady.get("share", 0.0),
        joules / tokens if joules and tokens else None,
    )


def rows(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, bool]]:
    """The lines of the table, and whether each holds."""
    for budget in args.budgets.split(","):
        truth = simulated(folder, int(budget), args.long, args.streams)
        for requests in [*map(int, args.requests.split(",")), args.long]:
            found = truth if requests == args.long else simulated(folder, int(budget), requests, args.streams)
            for streams, one in found.items():
                yield row(f"{budget} | {streams} | {requests}", one, truth[streams])


def row(name: str, one: Cost, truth: Cost) -> tuple[str, bool]:
    """One line of the table."""
    if truth.steady is None or truth.joules is None:
        raise RuntimeError("the longest run has no steady window: give a larger --long")
    whole = f"{one.whole / truth.steady - 1:+.1%}"
    if one.steady is None or one.joules is None:
        return f"{name} | {whole} | too short | | ", True
    change, energy = one.steady / truth.steady - 1, one.joules / truth.joules - 1
    return f"{name} | {whole} | {change:+.1%} | {energy:+.1%} | {one.share:.0%}", max(abs(change), abs(energy)) <= LIMIT


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__)
    add = parser.add_argument
    add("--budgets", default="1024,8192", metavar="B,…", help="token budgets [%(default)s]")
    add("--streams", default="1,8,32", metavar="N,…", help="requests in flight [%(default)s]")
    add("--requests", default="36,64,100,200,320,1000", metavar="N,…", help="requests of a run [%(default)s]")
    add("--long", type=int, default=5000, metavar="N", help="requests of the long run [%(default)s]")
    args = parser.parse_args()
    print("budget | streams | requests | whole run | steady window | joules in it | share of the run")
    print("---|---|---|---|---|---|---")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for line, holds in rows(args, Path(folder)):
            print(line, flush=True)
            good &= holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
