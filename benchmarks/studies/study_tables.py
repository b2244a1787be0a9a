"""Print the tables on the page of a published study as Markdown.

    python -m benchmarks.studies.study_tables docs/results/h200-vllm-0.26.0

Reads the published runs in `cells/`, `variants/` and `acceptance/` (runs with settings that explain a result but are not a
configuration), `comparisons.csv` (pairs of cells whose ratio is computed) and the files `vllm-bench_MODEL_cN.json` beside them. A table
without rows is left out. The 95 % interval of a median comes from order statistics, that of a ratio is a t interval of its logarithm
over the problems that both cells have (analysis.stats). With fewer than five problems there is no interval, and the range of the
requests is in braces. The intervals do not include the variation between repeated runs, because each cell was run once.
"""

import csv
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis import stats
from loadgen.measure.run_facts import server_split
from loadgen.record import Record, RunInfo, find_runs, read_records, read_run
from loadgen.target.server_metrics import totals


@dataclass(frozen=True)
class MeasuredCell:
    """One run with its measured requests."""

    name: str
    run: RunInfo
    records: list[Record]
    counted: dict[str, float]
    """Increase of the server's counters over the measured requests; empty if no snapshots were published."""

    @classmethod
    def read(cls, folder: Path) -> "MeasuredCell":
        """Read the folder of a published run."""
        kept = [
            record
            for record in read_records(folder / "records.jsonl")
            if record.outcome == "ok" and not record.warmup and not record.derived and record.tpot_s
        ]
        before, after = (
            totals(path.read_text()) if path.is_file() else {}
            for path in (folder / "server-before.prom", folder / "server-after.prom")
        )
        counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
        return cls(folder.name, read_run(folder), kept, counted)

    @cached_property
    def tpot_ms(self) -> dict[str, float]:
        """TPOT by problem in ms; the mean if a problem has several requests."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            found.setdefault(record.problem_id, []).append(1e3 * (record.tpot_s or math.nan))
        return {problem: sum(values) / len(values) for problem, values in found.items()}

    @property
    def power_and_rate(self) -> tuple[float, float]:
        """Mean power in W, and tokens per second in the steady window; of the whole run, where it had none."""
        rates = (self.run.summary.get(part, {}).get("completion_tokens_per_s") for part in ("steady", "throughput"))
        return (self.run.energy or {}).get("mean_w", 0.0), next((rate for rate in rates if rate), 0.0)


def table(title: str, head: str, rows: Iterator[str]) -> None:
    """Print one Markdown table, unless it has no rows."""
    columns = head.count("|") + 1
    lines = [f"| {row} |" for row in rows]
    if lines:
        print(f"\n### {title}\n\n| {head} |\n|{' --- |' * columns}", *lines, sep="\n")


def interval(found: stats.Interval, values: list[float], digits: int = 3) -> str:
    """Format an estimate with its interval, or with the range of the values in braces if there is no interval."""
    if math.isnan(found.low) or math.isnan(found.high):
        return f"{found.estimate:.{digits}f} {{{min(values):.{digits}f} to {max(values):.{digits}f}}}"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def latency_and_energy(cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows with TPOT, TTFT, power and energy of each cell."""
    for cell in cells.values():
        if not cell.records:
            outcomes = ", ".join(f"{count} {name}" for name, count in cell.run.summary["outcomes"].items())
            yield f"{cell.name} | 0 | {outcomes} | – | – | – | {cell.run.verdict}"
            continue
        tpot = [1e3 * (record.tpot_s or math.nan) for record in cell.records]
        ttft = [1e3 * (record.ttft_s or math.nan) for record in cell.records]
        mean_w, rate = cell.power_and_rate
        energy = f"{mean_w:.0f} | {mean_w / rate:.3f}" if mean_w and rate else "– | –"
        yield (
            f"{cell.name} | {len(tpot)} | {interval(stats.percentile(tpot, 0.5), tpot)}"
            f" | {interval(stats.percentile(ttft, 0.5), ttft, 1)} | {energy} | {cell.run.verdict}"
        )


def ratios(folder: Path, cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows with the ratio of the summed TPOT of two cells, over the problems that both have."""
    if not (folder / "comparisons.csv").is_file():
        return
    with (folder / "comparisons.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["top"] not in cells or row["bottom"] not in cells:
            yield f"{row['what']} | {row['where']} | not run |"
            continue
        first, second = cells[row["top"]].tpot_ms, cells[row["bottom"]].tpot_ms
        both = [problem for problem in first if problem in second]
        over, under = ([side[problem] for problem in both] for side in (first, second))
        each = (np.array(over) / np.array(under)).tolist()
        yield f"{row['what']} | {row['where']} | {interval(stats.ratio(over, under), each, 2)} | {len(both)}"


def decompositions(cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows with the mean phases of a request by the server's clock, the remaining time, and the decode time by both clocks."""
    for cell in cells.values():
        split = [(record, found) for record in cell.records if (found := server_split(record))]
        if not split:
            continue
        e2e_s = float(np.mean([record.e2e_s for record, _ in split]))
        mean = {
            name: float(np.mean([part[name] for _, part in split])) for name in ("queue_s", "prefill_s", "decode_s")
        }
        before = float(np.mean([(r.ttft_s or 0) - p["queue_s"] - p["prefill_s"] for r, p in split]))
        after = e2e_s - sum(mean.values()) - before
        clocks = np.median([((r.last_token_s or 0) - (r.first_token_s or 0)) / p["decode_s"] - 1 for r, p in split])
        yield (
            f"{cell.name} | {e2e_s:.3f} | {1e3 * mean['queue_s']:.2f} | {1e3 * mean['prefill_s']:.1f} | {mean['decode_s']:.4f}"
            f" | {1e3 * before:.1f} | {1e3 * after:+.2f} | {(before + after) / e2e_s:.2%} | {clocks:+.2%}"
        )


def vllm_bench_rows(folder: Path, cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows that compare with `vllm bench serve`, which used the same server some minutes before or after."""
    for path in sorted(folder.glob("vllm-bench_*.json")):
        _, model, load, *turn = path.stem.split("_")
        if turn:
            continue
        bench, cell = json.loads(path.read_text()), cells[f"tp1_{model}_{load}_t0"]
        tpot, ttft = (
            stats.percentile([1e3 * getattr(record, name) for record in cell.records], 0.5)
            for name in ("tpot_s", "ttft_s")
        )
        yield (
            f"{model} {load} | {tpot.estimate:.3f} | {bench['median_tpot_ms']:.3f}"
            f" | {tpot.estimate / bench['median_tpot_ms'] - 1:+.1%} | {ttft.estimate:.1f} | {bench['median_ttft_ms']:.1f}"
            f" | {ttft.estimate - bench['median_ttft_ms']:+.1f} | {cell.run.summary['throughput']['completion_tokens_per_s']:.0f}"
            f" | {bench['output_throughput']:.0f}"
        )


def counters(cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows that compare the server's /metrics with the client's records, with the numbers of steps and drafts."""
    for cell in cells.values():
        if not cell.counted:
            continue
        server = {name.removeprefix("vllm:"): value for name, value in cell.counted.items()}
        tokens = sum(record.completion_tokens or 0 for record in cell.records)
        prompts = sum(record.prompt_tokens or 0 for record in cell.records)
        ttft_ms = 1e3 * float(np.mean([record.ttft_s for record in cell.records]))
        served_ms = 1e3 * server["time_to_first_token_seconds_sum"] / server["time_to_first_token_seconds_count"]
        decode_s = sum((record.last_token_s or 0) - (record.first_token_s or 0) for record in cell.records)
        e2e_s = sum(record.e2e_s or 0 for record in cell.records)
        steps, drafts = (
            server["iteration_tokens_total_count"],
            server.get("spec_decode_num_drafts_total", 0.0),
        )
        drafted = server.get("spec_decode_num_draft_tokens_total", 0.0)
        accepted = server.get("spec_decode_num_accepted_tokens_total", 0.0)
        kept = f"{accepted / drafted:.1%}" if drafted else "–"
        yield (
            f"{cell.name} | {server['request_success_total'] - len(cell.records):+.0f}"
            f" | {server['prompt_tokens_total'] - prompts:+.0f} | {server['generation_tokens_total'] - tokens:+.0f}"
            f" | {decode_s / server['request_decode_time_seconds_sum'] - 1:+.2%}"
            f" | {e2e_s / server['e2e_request_latency_seconds_sum'] - 1:+.2%} | {ttft_ms - served_ms:+.1f} | {steps:.0f}"
            f" | {drafts:.0f} | {kept}"
        )


def clients(cells: dict[str, MeasuredCell]) -> Iterator[str]:
    """Rows with CPU use and lag of the client in cells with at least 32 streams."""
    for cell in cells.values():
        client, rate = cell.run.client or {}, cell.run.summary["throughput"]
        if cell.run.load["concurrency"] >= 32:
            yield (
                f"{cell.name} | {rate['completion_tokens_per_s']:.0f} | {rate['chunks_per_s']:.0f} | {client['cpu_share']:.0%}"
                f" | {1e3 * client['loop_lag_p99_s']:.2f} | {1e3 * client['loop_lag_max_s']:.1f} | {cell.run.verdict}"
            )


def main(argv: list[str]) -> int:
    """Print every table of a study."""
    folder = Path(argv[0] if argv else "docs/results/h200-vllm-0.26.0")
    runs = [
        path
        for part in ("cells", "variants", "acceptance")
        if (folder / part).is_dir()
        for path in find_runs(folder / part)
    ]
    cells = {path.name: MeasuredCell.read(path) for path in runs}
    table(
        "Times and energy",
        "cell | n | TPOT p50, ms | TTFT p50, ms | W, all GPUs | J a token | verdict",
        latency_and_energy(cells),
    )
    table("Ratios of TPOT", "what | where | ratio | problems", ratios(folder, cells))
    table(
        "The client's stamps beside the server's own",
        "cell | e2e, s | queue, ms | prefill, ms | decode, s | before the first token, ms | after it, ms | outside | decode, client / server",
        decompositions(cells),
    )
    table(
        "Beside `vllm bench serve`",
        "where | TPOT ours, ms | theirs | | TTFT ours, ms | theirs | | tokens/s ours | theirs",
        vllm_bench_rows(folder, cells),
    )
    table(
        "The client's records beside `/metrics`",
        "cell | requests | prompt tokens | tokens | decode | e2e | TTFT, ms | steps | drafts | accepted",
        counters(cells),
    )
    table("The client", "cell | tokens/s | chunks/s | CPU | loop lag p99, ms | max | verdict", clients(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
