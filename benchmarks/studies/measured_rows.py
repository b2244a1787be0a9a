"""Converts measured runs to the input format of benchmarks.emulator_fidelity.

Each cell with outputs of a fixed length becomes one decode row with the median TPOT and TTFT of its measured requests. The halves are
the cells whose name has an even and an odd hash. A model that was fitted to one half can then be evaluated on the other, and nobody
chooses the halves.

This module does not know what is fitted (see calibrate_emulator.py).
"""

import statistics
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from loadgen.record import Record, RunInfo, find_runs, read_records, read_run
from server.emulator.engine.model_runner import RUNNER


def row(run: RunInfo, records: list[Record]) -> dict[str, Any]:
    """Return the decode row of one run, in the schema of the reference measurements. Times are in ms."""

    def median_ms(name: str) -> float:
        values: list[float] = [getattr(record, name) for record in records]
        return 1000 * statistics.median(values)

    mean_w = (run.energy or {}).get("mean_w")
    return {
        "concurrency": run.load["concurrency"],
        "requests": len(records),
        "temperature": run.sampling["temperature"],
        "output_tokens": statistics.mode(record.completion_tokens or 0 for record in records),
        "mean_prompt_tokens": statistics.mean(record.prompt_tokens or 0 for record in records),
        "ttft_p50_ms": round(median_ms("ttft_s"), 3),
        "tpot_p50_ms": round(median_ms("tpot_s"), 4),
        "tokens_per_chunk": round(
            statistics.median((record.completion_tokens or 0) / record.chunks for record in records), 3
        ),
        "gpu_power_w": round(mean_w / run.num_gpus, 1) if mean_w and run.num_gpus else None,
    }


def half_of(name: str) -> str:
    """Return `even` or `odd` for the name of a cell. The result is the same on every machine."""
    return "odd" if zlib.crc32(name.encode()) % 2 else "even"


def configurations(root: Path, half: str | None, version: str = "") -> list[dict[str, Any]]:
    """Read the cells of a vLLM version in `root` by configuration. Cells whose outputs may end before their budget are left out."""
    found: dict[tuple[str, str, int, str | None, str | None], list[dict[str, Any]]] = defaultdict(list)
    for folder in find_runs(root):
        run = read_run(folder)
        records = [r for r in read_records(folder / "records.jsonl") if r.outcome == "ok" and not r.warmup]
        fixed_length = (run.sampling.get("extra_body") or getattr(run, "options", {}).get("extra_body") or {}).get(
            "ignore_eos"
        )
        # The emulator has no setting for CUDA graphs of pieces only.
        emulated = "piecewise" not in run.config and run.server["version"].startswith(version)
        if emulated and records and fixed_length and half in {None, half_of(folder.name)}:
            runner = (run.server.get("environment") or {}).get(RUNNER)
            found[run.model, run.config, run.tensor_parallel_size, run.speculation, runner].append(row(run, records))
    return [
        {
            "config": f"{model}-{config}",
            "model": model,
            "tensor_parallel_size": tp,
            "speculation": "ngram k=5 lookup 1..4" if spec else None,
            "async_scheduling": not config.endswith("-sync"),
            "environment": {RUNNER: runner} if runner else {},
            "decode": rows,
        }
        for (model, config, tp, spec, runner), rows in sorted(found.items(), key=str)
    ]
