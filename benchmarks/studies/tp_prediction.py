"""Judge a prediction of latency and power that was committed before the measurement.

    python -m benchmarks.studies.tp_prediction --judge PREDICTION.csv CELLS

A prediction has a row for each model, tensor parallel size, kind of n-gram speculation (off, none or all of the drafts accepted), number of
streams and number of output tokens, with TPOT and its bounds. It is compared with the median TPOT and the mean power of the measured cells,
as a Markdown table. Cells that were not predicted are left out: synchronous scheduling, an imposed acceptance, and plain servers at
temperature 1.

This module does not know how a prediction was made. The two in docs/results were written by its version in commit e22d533.
"""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from loadgen.record import RunInfo, find_runs, read_records, read_run


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
    with prediction.open() as file:
        written = {
            tuple(row[name] for name in ("model", "tp", "ngram", "streams", "output_tokens")): row
            for row in csv.DictReader(file)
        }
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for folder in find_runs(cells):
        run = read_run(folder)
        ngram, tp = predicted_kind(run), str(run.tensor_parallel_size)
        if ngram is None:
            continue
        tokens = "4096" if run.budgets == [4096] else "1024"
        row = written[run.model, tp, ngram, str(run.load["concurrency"]), tokens]
        kept = [record for record in read_records(folder / "records.jsonl") if not record.warmup and record.tpot_s]
        tpot_ms = 1e3 * statistics.median(record.tpot_s or 0.0 for record in kept)
        inside = float(row["tpot_low_ms"]) <= tpot_ms <= float(row["tpot_high_ms"])
        error = float(row["tpot_ms"]) / tpot_ms - 1
        found.setdefault((ngram, tp), []).append((abs(error), inside))
        gpu_w = run.energy["mean_w"] / run.num_gpus if run.energy and run.num_gpus else math.nan
        yield (
            f"{folder.name} | {ngram} | {float(row['tpot_ms']):.2f} [{float(row['tpot_low_ms']):.2f}, {float(row['tpot_high_ms']):.2f}]"
            f" | {tpot_ms:.2f} | {error:+.1%} | {'in' if inside else 'out'} | {row['gpu_w']} | {gpu_w:.0f}"
        )
    for (ngram, tp), judged in sorted(found.items()):
        errors = [error for error, _ in judged]
        inside_n = sum(inside for _, inside in judged)
        yield (
            f"median, worst | {ngram}, TP {tp} | | | {statistics.median(errors):.1%}, {max(errors):.1%}"
            f" | {inside_n} of {len(judged)} in | |"
        )


def main(argv: list[str]) -> int:
    """Compare a prediction with measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--judge", nargs=2, type=Path, required=True, metavar=("PREDICTION", "CELLS"))
    args = parser.parse_args(argv)
    print("| cell | n-gram | predicted, ms | measured | error | bounds | W a GPU, predicted | measured |")
    print(f"|{' --- |' * 8}", *(f"| {row} |" for row in compare_with_measurements(*args.judge)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
