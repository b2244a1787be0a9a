"""`python -m analysis import FILE --out RUN`: the result file of another load tool as a run folder, with notes on its fields.

It reads the result files of `vllm bench serve`, guidellm and AIPerf. A field is taken only where its definition is the same
as ours or can be converted, and a note says how. What a tool does not keep stays null and is never guessed. Failed requests
are kept where the tool keeps them. Nothing is graded, because none of the three keeps the reference answer beside the text.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import msgspec

from analysis.errors import InputError
from loadgen.record import RECORDS, Record, RunInfo, write_run


@dataclass(frozen=True, slots=True)
class Foreign:
    """The content of a tool's file, converted to Thinkload's records."""

    tool: str
    model: str
    load: dict[str, Any]
    records: list[Record]
    notes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `import`."""
    parser.add_argument(
        "file", type=Path, help="result of vllm bench serve (JSON), guidellm (JSON) or AIPerf (JSON lines)"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder to create")
    parser.add_argument(
        "--config-name", default="imported", help="name of the serving configuration (default: %(default)s)"
    )
    parser.add_argument("--model", help="model id (default: the one in the file)")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="GPUs of the server, for costs (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=int, default=0, help="token limit of the requests, or 0 where there was none"
    )
    parser.epilog = "example: python -m analysis import benchmarks.json --out results/theirs --config-name tp2 --num-gpus 2"


def main(args: argparse.Namespace) -> int:
    """Write the run folder and print notes on the fields of the tool."""
    if args.out.exists():
        raise InputError(f"--out {args.out}: the folder exists already; give a new one")
    try:
        foreign = read(_parse(args.file.read_bytes()))
    except OSError as error:
        raise InputError(f"{args.file}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{args.file}: {error}") from error
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
        hint = "give an unmodified file of the tool"
        raise InputError(f"{args.file}: a field has an unexpected value ({error}); {hint}") from error
    _write(foreign, args)
    print(f"{foreign.tool}: imported {len(foreign.records)} requests. Notes on the fields:", file=sys.stderr)
    print(*(f"  - {note}" for note in foreign.notes), sep="\n", file=sys.stderr)
    result = {"tool": foreign.tool, "requests": len(foreign.records), "run": str(args.out)}
    print(json.dumps(result | {"notes": foreign.notes}))
    return 0


def _parse(data: bytes) -> list[Any]:
    """The documents of a JSON file or of a file of JSON lines. Python's decoder accepts NaN, which the tools write."""
    try:
        return [json.loads(data)]
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"the file is neither JSON nor JSON lines ({error})") from error


def _write(foreign: Foreign, args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True)
    start_s = min((r.sent_s for r in foreign.records if r.sent_s is not None), default=0.0)
    for record in foreign.records:
        record.budget = args.budget
        _add_stamps(record, start_s)
    encoder = msgspec.json.Encoder()
    (args.out / RECORDS).write_bytes(b"".join(encoder.encode(record) + b"\n" for record in foreign.records))
    run = RunInfo(
        run_id=args.out.name,
        config=args.config_name,
        model=args.model or foreign.model,
        target="unknown",
        num_gpus=args.num_gpus,
        tensor_parallel_size=args.num_gpus,
        started_at="1970-01-01T00:00:00Z",
        clock={"wall_s": 0.0, "perf_s": 0.0},
        load=foreign.load,
        budgets=[args.budget],
        dataset={"name": f"imported from {foreign.tool}", "path": args.file.name},
        reasons=[f"imported from {foreign.tool}: {note}" for note in foreign.notes],
    )
    write_run(args.out, run)


def _add_stamps(record: Record, start_s: float) -> None:
    """Make the stamps of a record from its durations, relative to the first request. Without the time when it was sent, none is known."""
    if record.sent_s is None:
        return
    record.due_s = record.sent_s = record.sent_s - start_s
    if record.ttft_s is not None:
        record.first_token_s = record.sent_s + record.ttft_s
    if record.e2e_s is not None:
        record.last_token_s = record.end_s = record.sent_s + record.e2e_s


def read(documents: list[Any]) -> Foreign:
    """Recognize the tool by the fields of its file. Raises InputError."""
    first = documents[0] if documents and isinstance(documents[0], dict) else {}
    if "metrics" in first:
        return aiperf(documents)
    if "benchmarks" in first:
        return guidellm(first)
    if "ttfts" not in first and "request_throughput" not in first:
        raise InputError(
            "the tool is not recognized; give the JSON of vllm bench serve --save-result --save-detailed, guidellm's "
            "benchmarks.json, or AIPerf's profile_export.jsonl"
        )
    if len(documents) > 1:
        hint = "split it into a file for each line"
        raise InputError(f"{len(documents)} results in one file (--append-result); {hint}")
    return vllm_bench(first)


def vllm_bench(document: dict[str, Any]) -> Foreign:
    """Convert the file of `vllm bench serve --save-result --save-detailed`, which has a list for each field.

    The file of SGLang's bench_serving has the same fields.
    """
    if not document.get("ttfts"):
        raise InputError(
            "the file has no single requests; run vllm bench serve with --save-result --save-detailed"
        )
    names = ("ttfts", "itls", "input_lens", "output_lens", "errors", "start_times")
    rows = zip_longest(*(document.get(name) or [] for name in names))
    records = [_vllm_request(seq, dict(zip(names, row, strict=True))) for seq, row in enumerate(rows)]
    concurrency = document.get("max_concurrency")
    load = (
        {"kind": "closed", "concurrency": concurrency} if concurrency else _open(document.get("request_rate"))
    )
    notes = [
        "ttft starts when the request is sent, after the semaphore of the client, so it does not contain time in the client's queue",
        "e2e is ttft + Σ itls, which ends at the last content chunk, as in Thinkload",
        "itls are gaps between chunks, and with speculation a chunk has several tokens, so tpot is computed as (e2e − ttft)/(n − 1)",
        "output_lens come from the server's usage where it was sent, and otherwise from a tokenizer",
    ]
    if not document.get("start_times"):
        notes.append(
            "the file has no start times, so throughput, cost and energy of the run are unknown (the file says "
            f"{document.get('output_throughput')} output tokens/s)"
        )
    tool = "SGLang bench_serving" if "sglang" in str(document.get("backend")) else "vllm bench serve"
    return Foreign(tool, str(document.get("model_id", "unknown")), load, records, notes)


def _vllm_request(seq: int, row: dict[str, Any]) -> Record:
    ttft_s, itls = _number(row["ttfts"]), row["itls"] or []
    gaps_s = [gap for gap in map(_number, itls) if gap is not None]
    record = _record(seq, _number(row["start_times"]))
    if row["errors"] or not ttft_s:
        return _failed(record, "http_error", row["errors"] or "no first token")
    e2e_s = ttft_s + sum(gaps_s) if len(gaps_s) == len(itls) else None
    return _answered(record, (ttft_s, e2e_s), _number(row["input_lens"]), _number(row["output_lens"]))


Outcome = Literal["ok", "http_error", "cut"]
OUTCOMES: dict[str, Outcome] = {"successful": "ok", "errored": "http_error", "incomplete": "cut"}
"""The outcome of the requests in each list of a file of guidellm."""


def guidellm(document: dict[str, Any]) -> Foreign:
    """Convert guidellm's benchmarks.json: the requests of its last benchmark, as one file may hold several."""
    benchmarks = document["benchmarks"]
    if not isinstance(benchmarks, list) or not benchmarks:
        raise InputError("the file of guidellm has no benchmark")
    lists = benchmarks[-1].get("requests") or {}
    found = [(request, outcome) for name, outcome in OUTCOMES.items() for request in lists.get(name) or []]
    records = [_guidellm_request(seq, *one) for seq, one in enumerate(found)]
    notes = [
        "timestamps are wall-clock times (time.time), so an adjustment of the clock during the run changes them",
        "its time_per_output_token includes the time to first token, so tpot is computed from its timestamps as (last − first)/(n − 1)",
        "e2e ends at the last token where its timestamp was kept, and otherwise it is the request latency, which ends after usage and [DONE]",
    ]
    if len(benchmarks) > 1:
        notes.append(f"the file has {len(benchmarks)} benchmarks, and the last one was imported")
    args = benchmarks[-1].get("config") or benchmarks[-1].get("args") or {}
    strategy = args.get("strategy") or {}
    streams = strategy.get("streams") or strategy.get("max_concurrency")
    load = {"kind": "closed", "concurrency": streams} if streams else _open(strategy.get("rate"))
    model = next((str(request["model"]) for request, _ in found if request.get("model")), "unknown")
    return Foreign("guidellm", model, load, records, notes)


def _guidellm_request(seq: int, request: dict[str, Any], outcome: Outcome) -> Record:
    info = request.get("info") or request.get("scheduler_info") or {}
    times = request | (info.get("timings") or {})

    def known(*names: str) -> float | None:
        return next((value for name in names if (value := _number(times.get(name)))), None)

    sent_s = known("request_start", "request_start_time", "start_time")
    record = _record(seq, sent_s)
    if outcome != "ok":
        return _failed(record, outcome, request.get("error") or outcome)
    first_s = known("first_iteration", "first_token_iteration", "first_token_time")
    last_s = known("last_iteration", "last_token_iteration", "last_token_time")
    ttft_ms = known("time_to_first_token_ms")
    ttft_s = first_s - sent_s if first_s and sent_s else ttft_ms / 1e3 if ttft_ms else None
    e2e_s = last_s - sent_s if last_s and sent_s else known("request_latency")
    return _answered(record, (ttft_s, e2e_s), known("prompt_tokens"), known("output_tokens"))


def aiperf(lines: list[Any]) -> Foreign:
    """Convert AIPerf's profile_export.jsonl: one line for each request, with metrics as {value, unit}."""
    records = [_aiperf_request(seq, line) for seq, line in enumerate(lines) if isinstance(line, dict)]
    notes = [
        "request_latency ends at the last content, as e2e in Thinkload",
        "tokens are counted by AIPerf's own tokenizer unless it ran with --use-server-token-count",
        "inter_token_latency is a mean of each request, so tpot is computed as (e2e − ttft)/(n − 1)",
    ]
    return Foreign("AIPerf", "unknown", {"kind": "closed"}, records, notes)


def _aiperf_request(seq: int, line: dict[str, Any]) -> Record:
    metrics, about = line.get("metrics") or {}, line.get("metadata") or {}
    start_ns = _number(about.get("request_start_ns"))
    record = _record(seq, None if start_ns is None else start_ns / 1e9)
    ttft_s, e2e_s = (_seconds(metrics.get(name)) for name in ("time_to_first_token", "request_latency"))
    prompt, tokens = (_value(metrics.get(f"{side}_sequence_length")) for side in ("input", "output"))
    if line.get("error") or e2e_s is None:
        return _failed(record, "http_error", line.get("error") or "no latency")
    record.warmup = about.get("benchmark_phase") == "warmup"
    return _answered(record, (ttft_s, e2e_s), prompt, tokens)


UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def _value(metric: Any) -> float | None:
    return _number(metric.get("value") if isinstance(metric, dict) else metric)


def _seconds(metric: Any) -> float | None:
    value, unit = _value(metric), metric.get("unit") if isinstance(metric, dict) else "ms"
    return None if value is None else value * UNITS_S.get(str(unit), 1e-3)


def _number(value: Any) -> float | None:
    """A number, or None where the tool has none or writes NaN. Raises TypeError or ValueError for anything else."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _open(rate: Any) -> dict[str, Any]:
    """The load of an open loop. With an infinite rate all requests are sent at once."""
    try:
        known = float(rate)
    except (TypeError, ValueError):
        return {"kind": "open"}
    return {"kind": "open", "arrival": "burst"} if math.isinf(known) else {"kind": "open", "rate": known}


def _record(seq: int, sent_s: float | None) -> Record:
    """A record whose `sent_s` is still a time of the tool's clock. The budget is 0, because no tool keeps it for each request."""
    return Record(
        run_id="imported",
        seq=seq,
        problem_id=f"request-{seq}",
        budget=0,
        due_s=0.0,
        sent_s=sent_s,
        outcome="ok",
    )


def _failed(record: Record, outcome: Outcome, error: Any) -> Record:
    record.outcome, record.error = outcome, str(error)[:500]
    return record


def _answered(
    record: Record, latency_s: tuple[float | None, float | None], prompt: float | None, tokens: float | None
) -> Record:
    """Complete a record with ttft and e2e, and the numbers of tokens, as far as they are known."""
    record.ttft_s, record.e2e_s = latency_s
    record.prompt_tokens = None if prompt is None else int(prompt)
    record.completion_tokens = None if tokens is None else int(tokens)
    if record.ttft_s is not None and record.e2e_s is not None and tokens and tokens > 1:
        record.tpot_s = (record.e2e_s - record.ttft_s) / (tokens - 1)
    return record
