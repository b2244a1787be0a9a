"""Writes the folder of a simulated cell: the same run.json, records.jsonl and problems.jsonl as a run over sockets.

Rules: the formulas are those of `loadgen.measure.formulas`, applied to arrays instead of lists; a test checks that both
agree. Every record is marked `simulated` and `emulated`. Its text is an excerpt that is long enough for grading. What needs a
client or a socket is absent and never zero: there is no chunks.bin, no time of the headers and no send lag.

This module does not know where the times come from (`server/emulator/simulated_cell.py`).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from loadgen.exchange import Request
from loadgen.files import private_files
from loadgen.measure.formulas import OF_REQUEST
from loadgen.measure.observations import Observations
from loadgen.options import RunOptions
from loadgen.plan.datasets import Dataset
from loadgen.plan.prompts import style_of
from loadgen.plan.workload import Workload
from loadgen.record import RECORDS, Record, RunInfo
from loadgen.run import environment
from loadgen.run.close_out import close_out
from loadgen.run.manifest import describe_run, make_folder, write_problems
from loadgen.target.server_info import ServerInfo, with_gpus


@dataclass(frozen=True, slots=True)
class SimulatedReply:
    """The simulated answer to one request."""

    sent_s: float
    times_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    stopped: bool
    """The answer ended by itself, not at the budget."""
    prompt_tokens: int
    thinking_end: int | None
    """The number of tokens up to the end of the thinking, with its end mark."""
    splits: bool = True
    """The server separates the thinking from the answer."""


def workload(options: RunOptions, dataset: Dataset, model: str, run_id: str) -> Workload:
    """The requests, which are the same as those of a run over sockets. Raises UsageError."""
    name, style = style_of(model, options.prompt)
    return Workload(dataset.problems, dataclasses.replace(options, prompt=name), model, style, run_id)


def record(request: Request, reply: SimulatedReply, run_id: str) -> Record:
    """The record of a complete answer."""
    times, tokens, sent_s = reply.times_s, reply.tokens, reply.sent_s
    total = int(tokens.sum())
    first_s, last_s = float(times[0]), float(times[-1])
    gaps = np.diff(times)
    after_first = total - int(tokens[0])
    answer_s = _answer_s(reply, total)
    return Record(
        run_id=run_id,
        **{name: getattr(request, name) for name in OF_REQUEST},
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
    """The tokens before the mark that ends the thinking, if the server reports them."""
    if not reply.splits:
        return None
    return total if reply.thinking_end is None else min(reply.thinking_end - 1, total)


def _answer_s(reply: SimulatedReply, total: int) -> float | None:
    """The arrival of the first answer token, the second one after the end mark: a line break comes first."""
    if not reply.splits or reply.thinking_end is None or reply.thinking_end + 2 > total:
        return None
    return float(reply.times_s[int(np.searchsorted(np.cumsum(reply.tokens), reply.thinking_end + 2))])


def _itl_s(gaps: NDArray[np.float64], tokens: NDArray[np.int64]) -> float | None:
    if not len(gaps):
        return None
    each = gaps if tokens.max() == 1 else np.repeat(gaps / tokens, tokens)
    return round(float(np.median(each)), 9)


def cut(reply: SimulatedReply, budget: int) -> SimulatedReply:
    """The answer at a smaller budget, like `loadgen.measure.one_pass.derive`."""
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
    """The derived records of the smaller budgets, and then the record of the request itself."""
    if options.one_pass and request.budget == max(options.budgets) and not request.warmup:
        for position, budget in enumerate((b for b in options.budgets if b < request.budget), start=1):
            derived = dataclasses.replace(request, budget=budget, seq=request.seq + position * stride)
            derived_record = record(derived, cut(reply, budget), run_id)
            derived_record.derived = True
            derived_record.cut_at = "token"
            yield derived_record
    yield record(request, reply, run_id)


def write(
    folder: Path, records: Sequence[Record], run: RunInfo, dataset: Dataset, energy: list[tuple[float, float]]
) -> RunInfo:
    """Write the folder of the run, with run.json as the last file. `energy` holds (time, joules since the start)."""
    with private_files():
        make_folder(folder)
        write_problems(folder, dataset)
        encoder = msgspec.json.Encoder()
        with (folder / RECORDS).open("wb") as file:
            file.writelines(encoder.encode(record) + b"\n" for record in records)
        close_out(folder, run, Observations(energy=energy), judged=False)
    return run


def run_info(options: RunOptions, facts: dict[str, Any], dataset: Dataset, run_id: str) -> RunInfo:
    """The run.json of a simulated cell. `facts` is what a server would report of itself and the load."""
    reported = ("config", "model", "speculation", "gpu", "preset", "version", "max_model_len")
    known = {name: facts[name] for name in (*reported, "draft_tokens", "acceptance") if name in facts}
    tp = int(facts["tensor_parallel_size"])
    server = ServerInfo(**known, tensor_parallel_size=tp, emulated=True, simulated=True)
    run = describe_run(options, with_gpus(server), dataset, run_id)
    run.target = "simulated"
    run.clock = environment.clock_anchor()
    run.load = facts["load"]
    run.sampling = {"name": options.sampling, "temperature": 0.0}
    run.server["backend"] = "simulate"
    run.gpus = [{"index": str(index), "name": facts["gpu"]} for index in range(tp)]
    return run
