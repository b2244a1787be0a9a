"""Write synthetic run folders of any size: what the report's speed and robustness are measured on.

Rules: seeded, the same folders for the same arguments; every record is marked emulated and the run says who made it.
Step times follow a roofline (weights over bandwidth, all-reduce a layer, host overhead), lengths are log-normal by
difficulty, n-gram speculation emits more tokens a step where a text repeats itself. Only the shape matters.

Does not know: the emulator (server/emulator), which executes what is drawn here.

  python -m benchmarks.make_records OUT                                  # 12 cells x 60 problems x 5 budgets
  python -m benchmarks.make_records OUT --records 1000000 --no-text      # the speed bar's input
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from loadgen.record import RunInfo, write_run

Floats = NDArray[np.float64]
SUBJECTS = (
    "Algebra",
    "Intermediate Algebra",
    "Prealgebra",
    "Number Theory",
    "Precalculus",
    "Geometry",
    "Counting & Probability",
)
IDLE_W, BUSY_W = 115.0, 590.0  # one H200 in decode, about
BANDWIDTH_GB_MS = 4.17  # H200, 87 % of 4.8 TB/s
LAYER_MS = 0.040
ALL_REDUCE_MS = {1: 0.0, 2: 0.0208, 4: 0.0215}  # eager; under CUDA graphs 0.0045


@dataclass(frozen=True, slots=True)
class Model:
    """What a model's size changes."""

    id: str
    weights_gb: float
    layers: int
    mu: float
    """Mean of ln(tokens a full answer needs)."""
    ceiling: float
    """Share of finished answers that are right."""


MODELS = {
    "r1-distill-qwen-1.5b": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 3.09, 28, 8.0, 0.86),
    "r1-distill-qwen-7b": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 14.14, 28, 7.75, 0.94),
    "r1-distill-qwen-14b": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 27.98, 48, 7.65, 0.955),
}


@dataclass(frozen=True, slots=True)
class Problems:
    """Every problem's draw, shared by all cells so that cells pair."""

    ids: list[str]
    hardness: Floats
    repeats: Floats
    answers: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the arguments ask for, per cell."""

    budgets: list[int]
    samples: int
    concurrency: int
    text: bool
    seed: int
    server_metrics: bool


def draw_problems(count: int, seed: int) -> Problems:
    """Hardness in [0, 1], how much a text repeats itself, an integer answer."""
    rng = np.random.default_rng([seed, 1])
    ids = [f"synthetic/{n:06d}" for n in range(count)]
    return Problems(ids, rng.random(count), rng.normal(0, 1, count), rng.integers(2, 999, count))


def step_ms(model: Model, tp: int, ngram: bool, batch: int) -> float:
    """One decode step."""
    host = 0.9 if ngram else 0.35
    reduce = 2 * model.layers * ALL_REDUCE_MS[tp]
    return (
        model.weights_gb / (tp * BANDWIDTH_GB_MS)
        + model.layers * LAYER_MS * (1 + batch / 256)
        + reduce
        + host
    )


def draw_cell(model: Model, tp: int, ngram: bool, problems: Problems, plan: Plan) -> dict[str, NDArray[Any]]:
    """Columns of one cell, one row a request, in the order sent."""
    n, shape = len(problems.ids), (len(plan.budgets), plan.samples, len(problems.ids))
    rng = np.random.default_rng([plan.seed, 2, model.layers, int(model.weights_gb * 100), tp, ngram])
    fate = np.random.default_rng(
        [plan.seed, 3, int(model.weights_gb * 100)]
    )  # the same in every configuration
    need = np.exp(model.mu + 1.1 * (problems.hardness - 0.5) + fate.normal(0, 0.55, (plan.samples, n)))
    right = fate.random((plan.samples, n)) < np.clip(model.ceiling + 0.25 * (0.5 - problems.hardness), 0, 1)
    budget = np.broadcast_to(np.array(plan.budgets)[:, None, None], shape)
    finished = need[None] <= budget
    tokens = np.maximum(2, np.minimum(need[None], budget)).astype(np.int64)
    spread = 0.10 + 0.01 * model.weights_gb
    per_step = np.exp(np.log(1.5 + tokens / 2e4) + spread * problems.repeats) if ngram else np.ones(shape)
    per_step = np.clip(per_step, 1.0, 5.5)
    tpot_s = step_ms(model, tp, ngram, plan.concurrency) / 1e3 / per_step * rng.normal(1, 0.01, shape)
    prefill_s = 0.004 + model.weights_gb / (tp * BANDWIDTH_GB_MS) / 1e3 * rng.uniform(1.0, 1.3, shape)
    columns = {
        "problem": np.broadcast_to(np.arange(n), shape),
        "sample": np.broadcast_to(np.arange(plan.samples)[None, :, None], shape),
        "budget": budget,
        "finished": finished,
        "right": finished & right[None],
        "tokens": tokens,
        "tpot_s": tpot_s,
        "prefill_s": prefill_s,
        "queue_s": rng.exponential(0.0004, shape),
        "network_s": rng.gamma(4, 0.0003, shape),
        "per_step": per_step,
        "failed": rng.random(shape) < 0.0005,
        "prompt": np.broadcast_to(60 + (problems.hardness * 90).astype(np.int64), shape),
    }
    return {name: values.reshape(-1) for name, values in columns.items()}


def schedule(e2e_s: Floats, concurrency: int) -> Floats:
    """Start of each request in a closed loop: lane i sends every i-th request, one after another."""
    sent = np.zeros(len(e2e_s))
    for lane in range(concurrency):
        mine = e2e_s[lane::concurrency]
        sent[lane::concurrency] = (
            np.concatenate([[0.0], np.cumsum(mine + 0.0005)[:-1]]) if len(mine) else mine
        )
    return sent


def rounded(values: Floats) -> list[float]:
    """Microseconds are enough for a synthetic stamp."""
    out: list[float] = np.round(values, 6).tolist()
    return out


def write_records(path: Path, run_id: str, cell: dict[str, Any], problems: Problems, plan: Plan) -> float:
    """Write one line a request; return the run's duration in seconds."""
    decode_s = cell["tpot_s"] * (cell["tokens"] - 1)
    ttft_s = cell["queue_s"] + cell["prefill_s"] + cell["network_s"]
    e2e_s = ttft_s + decode_s
    sent_s = schedule(e2e_s, plan.concurrency)
    columns = {
        "sent_s": rounded(sent_s),
        "ttft_s": rounded(ttft_s),
        "e2e_s": rounded(e2e_s),
        "last_s": rounded(sent_s + e2e_s),
        "first_s": rounded(sent_s + ttft_s),
    } | {name: values.tolist() for name, values in cell.items()}
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for seq, row in enumerate(zip(*columns.values(), strict=True)):
            record = one_record(run_id, seq, dict(zip(columns, row, strict=True)), problems, plan)
            file.write(encoder.encode(record) + b"\n")
    return float((sent_s + e2e_s).max(initial=0.0))


def one_record(run_id: str, seq: int, row: dict[str, Any], problems: Problems, plan: Plan) -> dict[str, Any]:
    """One line, with the keys of `loadgen.record.Record`."""
    problem = row["problem"]
    common = {
        "schema": 1,
        "run_id": run_id,
        "seq": seq,
        "problem_id": problems.ids[problem],
        "budget": row["budget"],
        "emulated": True,
        "due_s": row["sent_s"],
        "sent_s": row["sent_s"],
    }
    if row["sample"]:
        common["sample"] = row["sample"]
    if row["failed"]:
        return common | {
            "end_s": row["first_s"],
            "outcome": "server_error",
            "status": 500,
            "error": "synthetic",
        }
    chunks = max(1, round(row["tokens"] / row["per_step"]))
    record = common | {
        "first_token_s": row["first_s"],
        "last_token_s": row["last_s"],
        "end_s": row["last_s"],
        "ttft_s": row["ttft_s"],
        "tpot_s": round(row["tpot_s"], 7),
        "e2e_s": row["e2e_s"],
        "e2e_due_s": row["e2e_s"],
        "prompt_tokens": row["prompt"],
        "completion_tokens": row["tokens"],
        "chunks": chunks,
        "token_source": "continuous_usage",
        "outcome": "ok",
        "status": 200,
        "finish_reason": "stop" if row["finished"] else "length",
    }
    if plan.server_metrics:
        record["server_timings"] = server_timings(row, chunks)
    if plan.text:
        answer = problems.answers[problem] + (0 if row["right"] else 1)
        record["text"] = (
            f"So the answer is \\boxed{{{answer}}}." if row["finished"] else "Let me think. Wait,"
        )
    return record


def server_timings(row: dict[str, Any], chunks: int) -> dict[str, Any]:
    """VLLM's per-request `metrics`, in milliseconds."""
    timings: dict[str, Any] = {
        "time_to_first_token_ms": round(row["prefill_s"] * 1e3, 3),
        "generation_time_ms": round(row["tpot_s"] * (row["tokens"] - 1) * 1e3, 3),
        "queue_time_ms": round(row["queue_s"] * 1e3, 3),
    }
    if row["per_step"] > 1:
        accepted = row["tokens"] - chunks
        timings["speculative_decoding"] = {
            "mean_acceptance_length": round(row["per_step"], 4),
            "num_spec_steps": chunks,
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": chunks * 5,
        }
    return timings


def write_gpu(path: Path, num_gpus: int, duration_s: float) -> float:
    """`gpu.csv`, at most 600 scrapes a GPU; returns the joules of all of them."""
    times = np.linspace(0, duration_s, min(600, max(2, int(duration_s))))
    rows = ["t_s,gpu,power_w,energy_j,util,memory_mib,sm_clock_mhz,dram_active,sm_active"]
    for t in times:
        power = BUSY_W + 20 * np.sin(t / 30)
        rows += [
            f"{t:.2f},{gpu},{power:.1f},{BUSY_W * t:.0f},100,131072,1980,0.8,0.7" for gpu in range(num_gpus)
        ]
    path.write_text("\n".join(rows) + "\n")
    return BUSY_W * duration_s * num_gpus


def write_problems(path: Path, problems: Problems) -> None:
    """What grading needs of each problem."""
    with path.open("w") as file:
        for index, name in enumerate(problems.ids):
            row = {"unique_id": name, "answer": str(problems.answers[index]), "subject": SUBJECTS[index % 7]}
            file.write(json.dumps(row | {"level": 1 + int(problems.hardness[index] * 5)}) + "\n")


def write_cell(out: Path, preset: str, config: str, problems: Problems, plan: Plan) -> int:
    """One run folder; returns its number of records."""
    model, tp, ngram = MODELS[preset], int(config[2]), config.endswith("ngram")
    name = f"{config}--{preset}"
    folder = out / name
    folder.mkdir(parents=True)
    cell = draw_cell(model, tp, ngram, problems, plan)
    duration_s = write_records(folder / "records.jsonl", name, cell, problems, plan)
    joules = write_gpu(folder / "gpu.csv", tp, duration_s)
    write_problems(folder / "problems.jsonl", problems)
    run = RunInfo(
        run_id=name,
        config=config,
        model=model.id,
        target="http://127.0.0.1:8000/v1",
        num_gpus=tp,
        tensor_parallel_size=tp,
        speculation="ngram" if ngram else None,
        gpu="h200",
        emulated=True,
        started_at="2026-01-01T00:00:00Z",
        clock={"wall_s": 1767225600.0, "perf_s": 0.0},
        duration_s=duration_s,
        argv=["benchmarks.make_records"],
        seed=plan.seed,
        load={"kind": "closed", "concurrency": plan.concurrency, "requests": len(cell["tokens"])},
        budgets=plan.budgets,
        samples=plan.samples,
        dataset={"name": "synthetic", "problems": len(problems.ids)},
        preset=preset,
        server={"version": "synthetic", "generator": "benchmarks/make_records.py"},
        energy={"joules": joules, "mean_w": BUSY_W * tp, "source": "emulated"},
        verdict="VALID",
    )
    write_run(folder, run)
    return len(cell["tokens"])


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_records", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--configs", default="tp1,tp1-ngram,tp4,tp4-ngram")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--budgets", default="1024,2048,4096,8192,16384")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--records", type=int, help="in all; sets --problems")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-text", dest="text", action="store_false")
    parser.add_argument("--no-server-metrics", dest="server_metrics", action="store_false")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Write the folders and print how many records they hold."""
    args = parse(argv)
    configs, models = args.configs.split(","), args.models.split(",")
    budgets = [int(b) for b in args.budgets.split(",")]
    per_problem = len(configs) * len(models) * len(budgets) * args.samples
    count = -(-args.records // per_problem) if args.records else args.problems
    problems = draw_problems(count, args.seed)
    plan = Plan(budgets, args.samples, args.concurrency, args.text, args.seed, args.server_metrics)
    written = sum(
        write_cell(args.out, model, config, problems, plan) for model in models for config in configs
    )
    print(json.dumps({"records": written, "cells": len(configs) * len(models), "out": str(args.out)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
