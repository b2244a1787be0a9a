"""Judge a prediction of latency and power that was committed before the measurement.

    python -m benchmarks.studies.tp_prediction --judge PREDICTION.csv CELLS

A prediction has a row for each model, tensor parallel size, kind of n-gram speculation (off, none or all of the drafts accepted), number of
streams and number of output tokens, with TPOT and its bounds. It is compared with the median TPOT and the mean power of the measured cells,
as a Markdown table. Cells that were not predicted are left out: synchronous scheduling, an imposed acceptance, and plain servers at
temperature 1.

This module does not know how a prediction was made. The two in docs/results were written by its version in commit e22d533.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.studies.cells import interval, read_cells, table
from loadgen.record import RunInfo

KEY = ["model", "tp", "ngram", "streams", "output_tokens"]


def predicted_kind(run: RunInfo) -> str | None:
    """The kind of n-gram speculation under which a run was predicted; None if it was not."""
    greedy = run.sampling["temperature"] == 0
    if run.config.endswith("-sync") or "-ngram-a" in run.config:
        return None
    if run.speculation is None:
        return "off" if greedy else None
    return "all accepted" if greedy else "none accepted"


def compare_with_measurements(prediction: Path, cells: Path) -> Iterator[str]:
    """Return Markdown rows with the prediction and the measurement of each cell. Cells with 512 tokens use the row for 1,024."""
    written = pd.read_csv(prediction).set_index(KEY).to_dict("index")
    judged = []
    for cell in read_cells(cells):
        run, ngram = cell.run, predicted_kind(cell.run)
        if ngram is None:
            continue
        tokens = 4096 if run.budgets == [4096] else 1024
        row = written[run.model, run.tensor_parallel_size, ngram, run.load["concurrency"], tokens]
        tpot_ms = cell.ms("tpot_s").median()
        inside = row["tpot_low_ms"] <= tpot_ms <= row["tpot_high_ms"]
        error = row["tpot_ms"] / tpot_ms - 1
        judged.append({"ngram": ngram, "tp": run.tensor_parallel_size, "error": abs(error), "inside": inside})
        gpu_w = run.energy["mean_w"] / run.num_gpus if run.energy and run.num_gpus else math.nan
        yield (
            f"{cell.name} | {ngram} | {interval(row['tpot_ms'], row['tpot_low_ms'], row['tpot_high_ms'])} | {tpot_ms:.2f}"
            f" | {error:+.1%} | {'in' if inside else 'out'} | {row['gpu_w']:.0f} | {gpu_w:.0f}"
        )
    for (kind, tp), group in pd.DataFrame(judged, columns=["ngram", "tp", "error", "inside"]).groupby(["ngram", "tp"]):
        yield (
            f"median, worst | {kind}, TP {tp} | | | {group['error'].median():.1%}, {group['error'].max():.1%}"
            f" | {group['inside'].sum()} of {len(group)} in | |"
        )


def main(argv: list[str]) -> int:
    """Compare a prediction with measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--judge", nargs=2, type=Path, required=True, metavar=("PREDICTION", "CELLS"))
    args = parser.parse_args(argv)
    head = "cell | n-gram | predicted, ms | measured | error | bounds | W a GPU, predicted | measured"
    table(head, compare_with_measurements(*args.judge))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
