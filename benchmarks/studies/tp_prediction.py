"""Predict latency and power of tensor parallelism with the emulator, so that the prediction can be committed before the measurement.

    python -m benchmarks.studies.tp_prediction [--gpu h200]
    python -m benchmarks.studies.tp_prediction --judge PREDICTION.csv CELLS

The first command writes the prediction as CSV, for every model, TP 1, 2 and 4, no n-gram speculation or speculation with no draft or every
draft accepted, and several numbers of streams and output tokens. All values are emulated, by the same steps as in
benchmarks.emulator_fidelity. The bounds of the TPOT add the worst error that the evaluated half of the H200 cells had at this TP (for TP 4,
that of TP 2), and at TP 4 all-reduce times of 4.4 and 5.8 us. The second command compares a prediction with the median TPOT and the mean
power of measured cells, as a Markdown table.
"""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.emulator_fidelity import burst
from loadgen.record import find_runs, read_records, read_run
from server.config import Ngram, load_model, load_serving
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import EngineVersion, Gpu, engine_versions, gpus
from server.emulator.engine.virtual_time import Simulation
from server.emulator.text.model import TextModel
from server.emulator.text.tokenizer import Tokenizer

WORST_TPOT_ERROR = {1: 0.046, 2: 0.125, 4: 0.125}
"""Worst TPOT error of the evaluated half at each TP, from the page of the H200 study. There were no cells with TP 4."""
ALLREDUCE_US = (4.4, 5.8)
PROMPT_TOKENS = 100
TEXT = {"off": "random", "none accepted": "random", "all accepted": "loop"}
Gpus = tuple[Gpu, Gpu, Gpu]
Row = dict[str, str | int | float]


def _gpu_variants(gpu: Gpu) -> Gpus:
    """Return the GPU as calibrated, and with the shortest and the longest of four published all-reduce times."""
    slope = gpu.allreduce_us[4][1]
    low, high = (replace(gpu, allreduce_us=gpu.allreduce_us | {4: (us, slope)}) for us in ALLREDUCE_US)
    return gpu, low, high


class Point(NamedTuple):
    """One prediction: a model with a configuration and a load."""

    model: str
    tp: int
    ngram: str
    streams: int
    output_tokens: int


def _row(point: Point, variants: Gpus, engine: EngineVersion, text: TextModel) -> Row:
    size, tp, ngram, streams, tokens = point
    serving = replace(
        load_serving("tp1"), tensor_parallel_size=tp, speculation=None if ngram == "off" else Ngram(5, 1, 4)
    )
    tpot, first, watts, wall_s = [], 0.0, 0.0, 0.0
    for gpu in variants if tp == 4 else variants[:1]:
        simulation = Simulation(serving, load_model(f"r1-distill-qwen-{size}"), gpu, engine)
        ttft_ms, tpot_ms = burst(simulation, text, streams, PROMPT_TOKENS, tokens)
        tpot.append(statistics.median(tpot_ms))
        if gpu is variants[0]:
            first, wall_s = statistics.median(ttft_ms), simulation.engine.now_s
            watts = Telemetry(gpu, tp, used_bytes=0, seed=0).power_w(wall_s, simulation.engine.usage)
    return {
        "gpu": variants[0].name,
        **point._asdict(),
        "tpot_ms": round(tpot[0], 3),
        "tpot_low_ms": round(min(tpot) * (1 - WORST_TPOT_ERROR[tp]), 3),
        "tpot_high_ms": round(max(tpot) * (1 + WORST_TPOT_ERROR[tp]), 3),
        "ttft_ms": round(first, 1),
        "tokens_per_s": round(streams * tokens / wall_s),
        "gpu_w": round(watts),
        "joules_per_token": round(tp * watts * wall_s / streams / tokens, 4),
    }


def predict(gpu: str, tokens: tuple[int, ...] = (1024, 4096)) -> Iterator[Row]:
    """Predict every row for one GPU model."""
    tokenizer, engine, variants = Tokenizer(), engine_versions()["0.26"], _gpu_variants(gpus()[gpu])
    texts = {mode: TextModel({}, [], tokenizer, mode) for mode in ("loop", "random")}
    for size in ("1.5b", "7b", "14b"):
        for ngram, mode in TEXT.items():
            for streams in (1, 8, 32, 128):
                for length in tokens:
                    for tp in (1, 2, 4):
                        yield _row(Point(size, tp, ngram, streams, length), variants, engine, texts[mode])


def compare_with_measurements(prediction: Path, cells: Path) -> Iterator[str]:
    """Return Markdown rows with the prediction and the measurement of each cell. Cells with 512 tokens use the row for 1,024."""
    with prediction.open() as file:
        written = {
            tuple(row[name] for name in ("model", "tp", "ngram", "streams", "output_tokens")): row
            for row in csv.DictReader(file)
        }
    errors: dict[str, list[float]] = {"off": [], "none accepted": [], "all accepted": []}
    for folder in find_runs(cells):
        run = read_run(folder)
        if run.config.endswith("-sync") or (run.speculation is None and run.sampling["temperature"] > 0):
            continue
        ngram = (
            "off"
            if run.speculation is None
            else ("none accepted", "all accepted")[run.sampling["temperature"] == 0]
        )
        tokens = "4096" if run.budgets == [4096] else "1024"
        row = written[run.model, str(run.tensor_parallel_size), ngram, str(run.load["concurrency"]), tokens]
        kept = [
            record for record in read_records(folder / "records.jsonl") if not record.warmup and record.tpot_s
        ]
        tpot_ms = 1e3 * statistics.median(record.tpot_s or 0.0 for record in kept)
        inside = float(row["tpot_low_ms"]) <= tpot_ms <= float(row["tpot_high_ms"])
        error = float(row["tpot_ms"]) / tpot_ms - 1
        errors[ngram].append(abs(error))
        gpu_w = run.energy["mean_w"] / run.num_gpus if run.energy and run.num_gpus else math.nan
        yield (
            f"{folder.name} | {ngram} | {float(row['tpot_ms']):.2f} [{float(row['tpot_low_ms']):.2f}, {float(row['tpot_high_ms']):.2f}]"
            f" | {tpot_ms:.2f} | {error:+.1%} | {'in' if inside else 'out'} | {row['gpu_w']} | {gpu_w:.0f}"
        )
    for ngram, found in errors.items():
        if found:
            yield f"median, worst | {ngram} | | | {statistics.median(found):.1%}, {max(found):.1%} | | |"


def main(argv: list[str]) -> int:
    """Write a prediction as CSV to stdout, or compare one with measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", default="h200", help="GPU model [%(default)s]")
    parser.add_argument(
        "--judge", nargs=2, type=Path, metavar=("PREDICTION", "CELLS"), help="compare with measured cells"
    )
    args = parser.parse_args(argv)
    if args.judge:
        print("| cell | n-gram | predicted, ms | measured | error | bounds | W a GPU, predicted | measured |")
        print(f"|{' --- |' * 8}", *(f"| {row} |" for row in compare_with_measurements(*args.judge)), sep="\n")
        return 0
    rows = predict(args.gpu)
    first = next(rows)
    writer = csv.DictWriter(sys.stdout, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
