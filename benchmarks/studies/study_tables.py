"""Print the tables on the page of a published study as Markdown.

    python -m benchmarks.studies.study_tables docs/results/h200-vllm-0.26.0

Reads the published runs in `cells/`, `variants/` and `acceptance/` (runs with settings that explain a result but are not a
configuration), `comparisons.csv` (pairs of cells whose ratio is computed) and the files `vllm-bench_MODEL_cN.json` beside them. A table
without rows is left out. The 95 % interval of a median comes from order statistics, that of a ratio is a t interval of its logarithm
over the problems that both cells have (analysis.stats). With fewer than five problems there is no interval, and the range of the
requests is in braces. The intervals do not include the variation between repeated runs, because each cell was run once.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import stats
from benchmarks.studies.cells import MeasuredCell, interval, read_cells, table
from loadgen.target.server_metrics import totals


def or_range(found: stats.Interval, values: "pd.Series[float]", digits: int = 3) -> str:
    """Format an estimate with its interval, or with the range of the values in braces if there is no interval."""
    if math.isnan(found.low) or math.isnan(found.high):
        return f"{found.estimate:.{digits}f} {{{values.min():.{digits}f} to {values.max():.{digits}f}}}"
    return interval(*found, digits)


def latency_and_energy(cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows with TPOT, TTFT, power and energy of each cell."""
    for cell in cells:
        if cell.requests.empty:
            outcomes = ", ".join(f"{count} {name}" for name, count in cell.run.summary["outcomes"].items())
            yield f"{cell.name} | 0 | {outcomes} | – | – | – | {cell.run.verdict}"
            continue
        tpot, ttft = cell.ms("tpot_s"), cell.ms("ttft_s")
        mean_w, rate = cell.power_and_rate
        energy = f"{mean_w:.0f} | {mean_w / rate:.3f}" if mean_w and rate else "– | –"
        yield (
            f"{cell.name} | {len(tpot)} | {or_range(stats.percentile(tpot, 0.5), tpot)}"
            f" | {or_range(stats.percentile(ttft, 0.5), ttft, 1)} | {energy} | {cell.run.verdict}"
        )


def ratios(folder: Path, cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows with the ratio of the summed TPOT of two cells, over the problems that both have."""
    if not (folder / "comparisons.csv").is_file():
        return
    by_name = {cell.name: cell for cell in cells}
    for row in pd.read_csv(folder / "comparisons.csv").to_dict("records"):
        if row["top"] not in by_name or row["bottom"] not in by_name:
            yield f"{row['what']} | {row['where']} | not run |"
            continue
        over, under = by_name[row["top"]].tpot_ms.align(by_name[row["bottom"]].tpot_ms, join="inner")
        yield f"{row['what']} | {row['where']} | {or_range(stats.ratio(over, under), over / under, 2)} | {len(over)}"


def decompositions(cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows with the mean phases of a request by the server's clock, the remaining time, and the decode time by both clocks."""
    for cell in cells:
        split = cell.requests.dropna(subset=["queue_s", "prefill_s", "decode_s"])
        if split.empty:
            continue
        mean = split[["e2e_s", "queue_s", "prefill_s", "decode_s"]].mean()
        before_s = (split["ttft_s"] - split["queue_s"] - split["prefill_s"]).mean()
        outside_s = split["network_client_s"].mean()
        clocks = ((split["last_token_s"] - split["first_token_s"]) / split["decode_s"] - 1).median()
        yield (
            f"{cell.name} | {mean['e2e_s']:.3f} | {1e3 * mean['queue_s']:.2f} | {1e3 * mean['prefill_s']:.1f} | {mean['decode_s']:.4f}"
            f" | {1e3 * before_s:.1f} | {1e3 * (outside_s - before_s):+.2f} | {outside_s / mean['e2e_s']:.2%} | {clocks:+.2%}"
        )


def vllm_bench_rows(folder: Path, cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows that compare with `vllm bench serve`, which used the same server some minutes before or after."""
    by_name = {cell.name: cell for cell in cells}
    for path in sorted(folder.glob("vllm-bench_*.json")):
        _, model, load, *turn = path.stem.split("_")
        if turn:
            continue
        bench, cell = json.loads(path.read_text()), by_name[f"tp1_{model}_{load}_t0"]
        tpot, ttft = (stats.nearest_rank(cell.ms(name), 0.5) for name in ("tpot_s", "ttft_s"))
        yield (
            f"{model} {load} | {tpot:.3f} | {bench['median_tpot_ms']:.3f} | {tpot / bench['median_tpot_ms'] - 1:+.1%}"
            f" | {ttft:.1f} | {bench['median_ttft_ms']:.1f} | {ttft - bench['median_ttft_ms']:+.1f}"
            f" | {cell.run.summary['throughput']['completion_tokens_per_s']:.0f} | {bench['output_throughput']:.0f}"
        )


def counters(cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows that compare the increase of the server's /metrics with the client's records, with the numbers of steps and drafts."""
    for cell in cells:
        snapshots = [cell.folder / f"server-{when}.prom" for when in ("before", "after")]
        if not snapshots[1].is_file():
            continue
        before, after = (totals(path.read_text()) if path.is_file() else {} for path in snapshots)
        server = {name.removeprefix("vllm:"): value - before.get(name, 0.0) for name, value in after.items()}
        requests, client = cell.requests, cell.requests.sum(numeric_only=True)
        decode_s = client["last_token_s"] - client["first_token_s"]
        served_ms = 1e3 * server["time_to_first_token_seconds_sum"] / server["time_to_first_token_seconds_count"]
        drafted = server.get("spec_decode_num_draft_tokens_total")
        accepted = server.get("spec_decode_num_accepted_tokens_total", 0.0)
        yield (
            f"{cell.name} | {server['request_success_total'] - len(requests):+.0f}"
            f" | {server['prompt_tokens_total'] - client['prompt_tokens']:+.0f}"
            f" | {server['generation_tokens_total'] - client['completion_tokens']:+.0f}"
            f" | {decode_s / server['request_decode_time_seconds_sum'] - 1:+.2%}"
            f" | {client['e2e_s'] / server['e2e_request_latency_seconds_sum'] - 1:+.2%}"
            f" | {cell.ms('ttft_s').mean() - served_ms:+.1f} | {server['iteration_tokens_total_count']:.0f}"
            f" | {server.get('spec_decode_num_drafts_total', 0.0):.0f} | {f'{accepted / drafted:.1%}' if drafted else '–'}"
        )


def clients(cells: list[MeasuredCell]) -> Iterator[str]:
    """Rows with CPU use and lag of the client in cells with at least 32 streams."""
    for cell in cells:
        client, rate = cell.run.client, cell.run.summary["throughput"]
        if cell.run.load["concurrency"] >= 32:
            yield (
                f"{cell.name} | {rate['completion_tokens_per_s']:.0f} | {rate['chunks_per_s']:.0f} | {client['cpu_share']:.0%}"
                f" | {1e3 * client['loop_lag_p99_s']:.2f} | {1e3 * client['loop_lag_max_s']:.1f} | {cell.run.verdict}"
            )


def section(title: str, head: str, rows: Iterator[str]) -> None:
    """Print one table under its title, unless it has no rows."""
    if found := list(rows):
        print(f"\n### {title}\n")
        table(head, found)


def main(argv: list[str]) -> int:
    """Print every table of a study."""
    folder = Path(argv[0] if argv else "docs/results/h200-vllm-0.26.0")
    parts = (folder / part for part in ("cells", "variants", "acceptance"))
    cells = read_cells(*(part for part in parts if part.is_dir()))
    section(
        "Times and energy",
        "cell | n | TPOT p50, ms | TTFT p50, ms | W, all GPUs | J a token | verdict",
        latency_and_energy(cells),
    )
    section("Ratios of TPOT", "what | where | ratio | problems", ratios(folder, cells))
    section(
        "The client's stamps beside the server's own",
        "cell | e2e, s | queue, ms | prefill, ms | decode, s | before the first token, ms | after it, ms | outside | decode, client / server",
        decompositions(cells),
    )
    section(
        "Beside `vllm bench serve`",
        "where | TPOT ours, ms | theirs | | TTFT ours, ms | theirs | | tokens/s ours | theirs",
        vllm_bench_rows(folder, cells),
    )
    section(
        "The client's records beside `/metrics`",
        "cell | requests | prompt tokens | tokens | decode | e2e | TTFT, ms | steps | drafts | accepted",
        counters(cells),
    )
    section("The client", "cell | tokens/s | chunks/s | CPU | loop lag p99, ms | max | verdict", clients(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
