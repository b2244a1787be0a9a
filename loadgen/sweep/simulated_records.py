"""A simulated cell as a run's folder: the same run.json, records.jsonl and problems.jsonl as a run over sockets.

Rules: formulas are measure.py's, over arrays instead of lists (a test holds that they agree). Every record says
`simulated` and `emulated`. Texts are excerpts, enough to grade; there is no chunks.bin, no headers stamp, no send lag:
what no socket and no client took part in is absent, never zero.

Does not know: where the times come from (server/emulator/simulated_cell.py; the sweep hands them over).
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from loadgen import options as options_module
from loadgen.exchange import Request
from loadgen.measure import one_pass_check
from loadgen.measure.run_facts import read_facts
from loadgen.measure.summary import summarize
from loadgen.options import RunOptions
from loadgen.plan.datasets import Dataset
from loadgen.plan.prompts import style_of
from loadgen.plan.workload import Workload
from loadgen.record import RECORDS, Record, RunInfo, write_run
from loadgen.run import environment
from loadgen.run.manifest import dataset_facts, write_problems
from loadgen.target.gpu_log import run_energy


@dataclass(frozen=True, slots=True)
class SimulatedReply:
    """What one request got: chunks, and what is said of them."""

    sent_s: float
    times_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    stopped: bool
    prompt_tokens: int
    thinking_end: int | None
    """Tokens up to the end of thinking, its mark included."""
    splits: bool = True
    """The server tells thinking from answer."""


def workload(options: RunOptions, dataset: Dataset, model: str, run_id: str) -> Workload:
    """The requests that a run over sockets would send. Raises UsageError."""
    name, style = style_of(model, options.prompt)
    return Workload(dataset.problems, dataclasses.replace(options, prompt=name), model, style, run_id)


def record(request: Request, reply: SimulatedReply, run_id: str) -> Record:
    """The record of a whole reply."""
    times, tokens, sent_s = reply.times_s, reply.tokens, reply.sent_s
    total = int(tokens.sum())
    first_s, last_s = float(times[0]), float(times[-1])
    gaps = np.diff(times)
    after_first = total - int(tokens[0])
    answer_s = _answer_s(reply, total)
    return Record(
        run_id=run_id,
        seq=request.seq,
        problem_id=request.problem_id,
        sample=request.sample,
        repeat=request.repeat,
        budget=request.budget,
        budget_mode=request.budget_mode,
        warmup=request.warmup,
        emulated=True,
        simulated=True,
        due_s=round(sent_s, 9),
        sent_s=round(sent_s, 9),
        first_token_s=round(first_s, 9),
        last_token_s=round(last_s, 9),
        end_s=round(last_s, 9),
        ttft_s=round(first_s - sent_s, 9),
        ttft_due_s=round(first_s - sent_s, 9),
        ttfot_s=None if answer_s is None else round(answer_s - sent_s, 9),
        tpot_s=round((last_s - first_s) / after_first, 9) if len(times) > 1 and after_first > 0 else None,
        itl_s=_itl_s(gaps, tokens[1:]),
        inter_chunk_s=round(float(np.median(gaps)), 9) if len(gaps) else None,
        e2e_s=round(last_s - sent_s, 9),
        e2e_due_s=round(last_s - sent_s, 9),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=total,
        reasoning_tokens=_reasoning_tokens(reply, total),
        chunks=len(times),
        token_source="continuous_usage",  # noqa: S106 - a source of counts, no secret
        outcome="ok",
        finish_reason="stop" if reply.stopped else "length",
    )


def _reasoning_tokens(reply: SimulatedReply, total: int) -> int | None:
    """Before the mark that ends the thinking, where the server says so at all."""
    if not reply.splits:
        return None
    return total if reply.thinking_end is None else min(reply.thinking_end - 1, total)


def _answer_s(reply: SimulatedReply, total: int) -> float | None:
    """When the first answer token came: two after the end of thinking, behind the line break that follows it."""
    if not reply.splits or reply.thinking_end is None or reply.thinking_end + 2 > total:
        return None
    return float(reply.times_s[int(np.searchsorted(np.cumsum(reply.tokens), reply.thinking_end + 2))])


def _itl_s(gaps: NDArray[np.float64], tokens: NDArray[np.int64]) -> float | None:
    if not len(gaps):
        return None
    each = gaps if tokens.max() == 1 else np.repeat(gaps / tokens, tokens)
    return round(float(np.median(each)), 9)


def cut(reply: SimulatedReply, budget: int) -> SimulatedReply:
    """The reply at a smaller budget (onepass.derive, over arrays)."""
    ends = np.cumsum(reply.tokens)
    total = int(ends[-1])
    if total < budget or (total == budget and reply.stopped):
        return reply
    last = int(np.searchsorted(ends, budget))
    tokens = reply.tokens[: last + 1].copy()
    tokens[last] = budget - (int(ends[last - 1]) if last else 0)
    return dataclasses.replace(reply, times_s=reply.times_s[: last + 1], tokens=tokens, stopped=False)


def with_derived(
    request: Request, reply: SimulatedReply, run_id: str, options: RunOptions, stride: int
) -> Iterator[Record]:
    """Derived records of the smaller budgets, then the request's own."""
    if options.one_pass and request.budget == max(options.budgets) and not request.warmup:
        for position, budget in enumerate((b for b in options.budgets if b < request.budget), start=1):
            derived = dataclasses.replace(request, budget=budget, seq=request.seq + position * stride)
            made = record(derived, cut(reply, budget), run_id)
            made.derived = True
            made.cut_at = "token"
            yield made
    yield record(request, reply, run_id)


def write(
    folder: Path,
    records: Sequence[Record],
    run: RunInfo,
    dataset: Dataset,
    energy: Sequence[tuple[float, float]],
) -> RunInfo:
    """The run's folder; run.json last. `energy` are (time, joules since the start)."""
    folder.mkdir(parents=True)
    write_problems(folder, dataset)
    encoder = msgspec.json.Encoder()
    with (folder / RECORDS).open("wb") as file:
        file.writelines(encoder.encode(one) + b"\n" for one in records)
    facts = read_facts(folder, run)
    summarize(folder, run, facts)
    whole_s = min(facts.spans.sent_s), max(facts.spans.end_s)
    run.energy = run_energy(energy, whole_s, run.window_s, "emulated")
    if run.one_pass and (found := one_pass_check.check(folder, run)) is not None:
        run.summary["one_pass_check"] = found
    run.verdict = "VALID"
    write_run(folder, run)
    return run


def run_info(options: RunOptions, said: dict[str, Any], dataset: Dataset, run_id: str) -> RunInfo:
    """run.json of a simulated cell; `said` is what the server would have said of itself, load and energy included."""
    tp = int(said["tensor_parallel_size"])
    return RunInfo(
        run_id=run_id,
        config=said["config"],
        model=said["model"],
        target="simulated",
        num_gpus=tp,
        tensor_parallel_size=tp,
        speculation=said["speculation"],
        gpu=said["gpu"],
        emulated=True,
        simulated=True,
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        clock={"wall_s": time.time(), "perf_s": time.perf_counter()},
        argv=options_module.redacted(options.argv),
        options=options_module.saved(options),
        labels=options.labels,
        price_per_gpu_hour=options.price_per_gpu_hour,
        seed=options.seed,
        load=said["load"],
        budgets=list(options.budgets),
        budget_mode=options.budget_mode,
        one_pass=options.one_pass,
        sampling={"name": options.sampling, "temperature": 0.0},
        dataset=dataset_facts(dataset),
        preset=said["preset"],
        slo=options.slo,
        host=environment.host(),
        packages=environment.packages(),
        git=environment.git(),
        server={"version": said["version"], "max_model_len": said["max_model_len"], "backend": "simulate"},
        gpus=[{"index": str(index), "name": said["gpu"]} for index in range(tp)],
    )
