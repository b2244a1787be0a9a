"""The tables of a published study's page: `python -m benchmarks.study_tables docs/results/h200-vllm-0.26.0`.

Reads `cells/` and `vllm-bench_MODEL_cN.json` beside it; prints Markdown. A median's interval is that of order statistics, a
ratio's is a bootstrap over the problems that both cells asked (95 %, analysis.stats); below five problems there is none, and
the range of the requests stands in braces. What repeats of a cell would differ by is in no interval: each was run once.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis import stats
from loadgen.record import Record, RunInfo, find_runs, read_records, read_run
from loadgen.summary import server_split

RATIOS = (
    ("tp2 / tp1", "tp2_{}_t0", "tp1_{}_t0"),
    ("tp1-sync / tp1", "tp1-sync_{}_t0", "tp1_{}_t0"),
    ("tp1-ngram, all accepted / tp1", "tp1-ngram_{}_t0", "tp1_{}_t0"),
    ("tp1-ngram, none accepted / tp1", "tp1-ngram_{}_t1", "tp1_{}_t0"),
    ("tp1-ngram, all accepted / tp1-sync", "tp1-ngram_{}_t0", "tp1-sync_{}_t0"),
    ("tp1-ngram, none accepted / tp1-sync", "tp1-ngram_{}_t1", "tp1-sync_{}_t0"),
    ("tp2-ngram, all accepted / tp2", "tp2-ngram_{}_t0", "tp2_{}_t0"),
    ("tp2-ngram, none accepted / tp2", "tp2-ngram_{}_t1", "tp2_{}_t0"),
    ("tp1-ngram / tp1, natural acceptance", "tp1-ngram_{}", "tp1_{}"),
)


@dataclass(frozen=True)
class Cell:
    """One run, and its measured requests."""

    name: str
    run: RunInfo
    records: list[Record]

    @classmethod
    def read(cls, folder: Path) -> "Cell":
        """From a published folder."""
        kept = [
            record
            for record in read_records(folder / "records.jsonl")
            if record.outcome == "ok" and not record.warmup and not record.derived and record.tpot_s
        ]
        return cls(folder.name, read_run(folder), kept)

    @cached_property
    def tpot_ms(self) -> dict[str, float]:
        """By problem; of several requests their mean."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            found.setdefault(record.problem_id, []).append(1e3 * (record.tpot_s or math.nan))
        return {problem: sum(values) / len(values) for problem, values in found.items()}


def table(title: str, head: str, rows: Iterator[str]) -> None:
    """One Markdown table."""
    columns = head.count("|") + 1
    print(f"\n### {title}\n\n| {head} |\n|{' --- |' * columns}")
    for row in rows:
        print(f"| {row} |")


def interval(found: stats.Interval, values: list[float], digits: int = 3) -> str:
    """An estimate with its interval; where there is none, the range in braces."""
    if math.isnan(found.low) or math.isnan(found.high):
        return f"{found.estimate:.{digits}f} {{{min(values):.{digits}f} to {max(values):.{digits}f}}}"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def times(cells: dict[str, Cell]) -> Iterator[str]:
    """TPOT, TTFT, power and energy of each cell."""
    for cell in cells.values():
        tpot = [1e3 * (record.tpot_s or math.nan) for record in cell.records]
        ttft = [1e3 * (record.ttft_s or math.nan) for record in cell.records]
        mean_w = (cell.run.energy or {}).get("mean_w")
        rate = cell.run.summary.get("steady", {}).get("completion_tokens_per_s")
        energy = f"{mean_w:.0f} | {mean_w / rate:.3f}" if mean_w and rate else "– | –"
        yield (
            f"{cell.name} | {len(tpot)} | {interval(stats.percentile(tpot, 0.5), tpot)}"
            f" | {interval(stats.percentile(ttft, 0.5), ttft, 1)} | {energy} | {cell.run.verdict}"
        )


def ratios(cells: dict[str, Cell]) -> Iterator[str]:
    """Σ TPOT over Σ TPOT of the problems two cells share."""
    forced = [f"{model}_c{load}" for model in ("1.5b", "14b") for load in (1, 32)]
    for title, top, bottom in RATIOS:
        for setting in forced if "_t" in top else ("memo-20m_c1", "memo-20m_c32"):
            names = top.format(setting), bottom.format(setting)
            if not all(name in cells for name in names):
                yield f"{title} | {setting} | not run |"
                continue
            first, second = (cells[name].tpot_ms for name in names)
            both = [problem for problem in first if problem in second]
            over, under = ([side[problem] for problem in both] for side in (first, second))
            each = (np.array(over) / np.array(under)).tolist()
            yield f"{title} | {setting} | {interval(stats.ratio(over, under), each, 2)} | {len(both)}"


def decompositions(cells: dict[str, Cell]) -> Iterator[str]:
    """Means of the parts of e2e by the server's own clock, and what they leave; and decode by both clocks."""
    for cell in cells.values():
        split = [(record, found) for record in cell.records if (found := server_split(record))]
        if not split:
            continue
        e2e_s = float(np.mean([record.e2e_s for record, _ in split]))
        mean = {
            name: float(np.mean([part[name] for _, part in split]))
            for name in ("queue_s", "prefill_s", "decode_s")
        }
        before = float(np.mean([(r.ttft_s or 0) - p["queue_s"] - p["prefill_s"] for r, p in split]))
        after = e2e_s - sum(mean.values()) - before
        clocks = np.median(
            [((r.last_token_s or 0) - (r.first_token_s or 0)) / p["decode_s"] - 1 for r, p in split]
        )
        yield (
            f"{cell.name} | {e2e_s:.3f} | {1e3 * mean['queue_s']:.2f} | {1e3 * mean['prefill_s']:.1f} | {mean['decode_s']:.4f}"
            f" | {1e3 * before:.1f} | {1e3 * after:+.2f} | {(before + after) / e2e_s:.2%} | {clocks:+.2%}"
        )


def beside(folder: Path, cells: dict[str, Cell]) -> Iterator[str]:
    """`vllm bench serve` on the same server, minutes apart."""
    for path in sorted(folder.glob("vllm-bench_*.json")):
        _, model, load = path.stem.split("_")
        theirs, cell = json.loads(path.read_text()), cells[f"tp1_{model}_{load}_t0"]
        tpot, ttft = (
            stats.percentile([1e3 * getattr(record, name) for record in cell.records], 0.5)
            for name in ("tpot_s", "ttft_s")
        )
        yield (
            f"{model} {load} | {tpot.estimate:.3f} | {theirs['median_tpot_ms']:.3f}"
            f" | {tpot.estimate / theirs['median_tpot_ms'] - 1:+.1%} | {ttft.estimate:.1f} | {theirs['median_ttft_ms']:.1f}"
            f" | {ttft.estimate - theirs['median_ttft_ms']:+.1f} | {cell.run.summary['throughput']['completion_tokens_per_s']:.0f}"
            f" | {theirs['output_throughput']:.0f}"
        )


def clients(cells: dict[str, Cell]) -> Iterator[str]:
    """The client in the cells of 32 streams."""
    for cell in cells.values():
        client, rate = cell.run.client or {}, cell.run.summary["throughput"]
        if cell.run.load["concurrency"] == 32:
            yield (
                f"{cell.name} | {rate['completion_tokens_per_s']:.0f} | {rate['chunks_per_s']:.0f} | {client['cpu_share']:.0%}"
                f" | {1e3 * client['loop_lag_p99_s']:.2f} | {1e3 * client['loop_lag_max_s']:.1f} | {cell.run.verdict}"
            )


def main(argv: list[str]) -> int:
    """Print every table."""
    folder = Path(argv[0] if argv else "docs/results/h200-vllm-0.26.0")
    cells = {path.name: Cell.read(path) for path in find_runs(folder / "cells")}
    table(
        "Times and energy",
        "cell | n | TPOT p50, ms | TTFT p50, ms | W, all GPUs | J a token | verdict",
        times(cells),
    )
    table("Ratios of TPOT", "what | where | ratio | problems", ratios(cells))
    table(
        "The client's stamps beside the server's own",
        "cell | e2e, s | queue, ms | prefill, ms | decode, s | before the first token, ms | after it, ms | outside | decode, client / server",
        decompositions(cells),
    )
    table(
        "Beside `vllm bench serve`",
        "where | TPOT ours, ms | theirs | | TTFT ours, ms | theirs | | tokens/s ours | theirs",
        beside(folder, cells),
    )
    table("The client", "cell | tokens/s | chunks/s | CPU | loop lag p99, ms | max | verdict", clients(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
