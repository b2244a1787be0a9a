"""`python -m analysis import FILE --out RUN`: the result file of another load tool as a run folder, with notes on its fields.

It reads the result files of `vllm bench serve`, guidellm and AIPerf. A field is taken only where its definition is the same
as ours or can be converted, and a note says how. What a tool does not keep stays null and is never guessed. Failed requests
are kept where the tool keeps them. Nothing is graded, because none of the three keeps the reference answer beside the text.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        foreign = read(*_parse(args.file.read_bytes()))
    except OSError as error:
        raise InputError(f"{args.file}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{args.file}: {error}") from error
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            f"{args.file}: a field has an unexpected value ({error}); give an unmodified file of the tool"
        ) from error
    _write(foreign, args)
    print(f"{foreign.tool}: imported {len(foreign.records)} requests. Notes on the fields:", file=sys.stderr)
    print(*(f"  - {note}" for note in foreign.notes), sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                "tool": foreign.tool,
                "requests": len(foreign.records),
                "run": str(args.out),
                "notes": foreign.notes,
            }
        )
    )
    return 0


def _parse(data: bytes) -> tuple[Any, list[Any]]:
    """The file as one JSON document, or as a list of JSON lines."""
    try:
        return msgspec.json.decode(data), []
    except (ValueError, RecursionError):
        pass
    try:
        return None, [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"the file is neither JSON nor JSON lines ({error})") from error


def _write(foreign: Foreign, args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True)
    for record in foreign.records:
        record.budget = args.budget
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


def read(document: Any, lines: list[Any]) -> Foreign:
    """Recognize the tool by the fields of its file. Raises InputError."""
    if lines and isinstance(lines[0], dict) and "metrics" in lines[0]:
        return aiperf(lines)
    if len(lines) > 1 and all(isinstance(line, dict) and _is_vllm_bench(line) for line in lines):
        raise InputError(
            f"{len(lines)} results in one file (--append-result); split it into a file for each line"
        )
    if isinstance(document, dict) and "benchmarks" in document:
        return guidellm(document)
    if isinstance(document, dict) and _is_vllm_bench(document):
        return vllm_bench(document)
    raise InputError(
        "the tool is not recognized; give the JSON of vllm bench serve --save-result --save-detailed, guidellm's "
        "benchmarks.json, or AIPerf's profile_export.jsonl"
    )


def _is_vllm_bench(document: dict[str, Any]) -> bool:
    """Whether this is a result of `vllm bench serve`, or of SGLang's bench_serving, which has the same fields."""
    return "ttfts" in document or "request_throughput" in document


def vllm_bench(document: dict[str, Any]) -> Foreign:
    """Convert the file of `vllm bench serve --save-result --save-detailed`, which has a list for each field."""
    if not document.get("ttfts"):
        raise InputError(
            "the file has no single requests; run vllm bench serve with --save-result --save-detailed"
        )
    columns = [
        document.get(name) or []
        for name in ("ttfts", "itls", "input_lens", "output_lens", "errors", "start_times")
    ]
    records = [_vllm_request(seq, row) for seq, row in enumerate(_together(columns))]
    concurrency, rate = document.get("max_concurrency"), document.get("request_rate")
    load = {"kind": "closed", "concurrency": concurrency} if concurrency else _open(rate)
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


def _together(columns: list[list[Any]]) -> Iterator[list[Any]]:
    for n in range(max(len(column) for column in columns)):
        yield [column[n] if n < len(column) else None for column in columns]


def _vllm_request(seq: int, row: list[Any]) -> Record:
    ttft_s, itls, prompt, tokens, error, start_s = row
    sent_s = None if start_s is None else float(start_s)
    if error or not ttft_s:
        return _record(seq, sent_s, outcome="http_error", error=str(error or "no first token")[:500])
    e2e_s = float(ttft_s) + sum(itls or [])
    return _record(seq, sent_s, ttft_s=float(ttft_s), e2e_s=e2e_s, prompt=prompt, tokens=tokens)


def guidellm(document: dict[str, Any]) -> Foreign:
    """Convert guidellm's benchmarks.json: the requests of its last benchmark, as one file may hold several."""
    benchmarks = document["benchmarks"]
    if not isinstance(benchmarks, list) or not benchmarks:
        raise InputError("the file of guidellm has no benchmark")
    chosen = benchmarks[-1]
    requests = chosen.get("requests") or {}
    done = [(request, "ok") for request in requests.get("successful") or []]
    failed = [(request, "http_error") for request in requests.get("errored") or []]
    failed += [(request, "cut") for request in requests.get("incomplete") or []]
    records = [
        _guidellm_request(seq, request, outcome) for seq, (request, outcome) in enumerate(done + failed)
    ]
    notes = [
        "timestamps are wall-clock times (time.time), so an adjustment of the clock during the run changes them",
        "its time_per_output_token includes the time to first token, so tpot is computed from its timestamps as (last − first)/(n − 1)",
        "e2e ends at the last token where its timestamp was kept, and otherwise it is the request latency, which ends after usage and [DONE]",
    ]
    if len(benchmarks) > 1:
        notes.append(f"the file has {len(benchmarks)} benchmarks, and the last one was imported")
    args = chosen.get("config") or chosen.get("args") or {}
    strategy = args.get("strategy") or {}
    streams = strategy.get("streams") or strategy.get("max_concurrency")
    load = {"kind": "closed", "concurrency": streams} if streams else _open(strategy.get("rate"))
    return Foreign("guidellm", _first_text(done, "model") or "unknown", load, _from_start(records), notes)


def _first_text(requests: list[tuple[dict[str, Any], str]], name: str) -> str:
    return next((str(request[name]) for request, _ in requests if request.get(name)), "")


def _guidellm_request(seq: int, request: dict[str, Any], outcome: str) -> Record:
    info = request.get("info") or request.get("scheduler_info") or {}
    times = info.get("timings") or request
    sent_s = float(
        times.get("request_start") or request.get("request_start_time") or request.get("start_time") or 0.0
    )
    first_s = (
        times.get("first_iteration") or times.get("first_token_iteration") or request.get("first_token_time")
    )
    last_s = (
        times.get("last_iteration") or times.get("last_token_iteration") or request.get("last_token_time")
    )
    ttft_ms, latency_s = request.get("time_to_first_token_ms"), request.get("request_latency")
    ttft_s = first_s - sent_s if first_s and sent_s else ttft_ms / 1e3 if ttft_ms else None
    e2e_s = last_s - sent_s if last_s and sent_s else latency_s
    if outcome != "ok":
        return _record(seq, sent_s, outcome=outcome, error=str(request.get("error") or outcome)[:500])
    return _record(
        seq,
        sent_s,
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        prompt=request.get("prompt_tokens"),
        tokens=request.get("output_tokens"),
    )


def aiperf(lines: list[Any]) -> Foreign:
    """Convert AIPerf's profile_export.jsonl: one line for each request, with metrics as {value, unit}."""
    records = [_aiperf_request(seq, line) for seq, line in enumerate(lines) if isinstance(line, dict)]
    notes = [
        "request_latency ends at the last content, as e2e in Thinkload",
        "tokens are counted by AIPerf's own tokenizer unless it ran with --use-server-token-count",
        "inter_token_latency is a mean of each request, so tpot is computed as (e2e − ttft)/(n − 1)",
    ]
    return Foreign("AIPerf", "unknown", {"kind": "closed"}, _from_start(records), notes)


def _aiperf_request(seq: int, line: dict[str, Any]) -> Record:
    metrics, about = line.get("metrics") or {}, line.get("metadata") or {}
    sent_s = float(about.get("request_start_ns") or 0) / 1e9
    ttft_s, e2e_s = (_seconds(metrics.get(name)) for name in ("time_to_first_token", "request_latency"))
    tokens, prompt = (
        _value(metrics.get(name)) for name in ("output_sequence_length", "input_sequence_length")
    )
    if line.get("error") or e2e_s is None:
        return _record(seq, sent_s, outcome="http_error", error=str(line.get("error") or "no latency")[:500])
    warmup = about.get("benchmark_phase") == "warmup"
    return _record(seq, sent_s, ttft_s=ttft_s, e2e_s=e2e_s, prompt=prompt, tokens=tokens, warmup=warmup)


UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def _value(metric: Any) -> float | None:
    value = metric.get("value") if isinstance(metric, dict) else metric
    return float(value) if isinstance(value, int | float) else None


def _seconds(metric: Any) -> float | None:
    value = _value(metric)
    unit = str(metric.get("unit", "ms")) if isinstance(metric, dict) else "ms"
    return None if value is None else value * UNITS_S.get(unit, 1e-3)


def _open(rate: Any) -> dict[str, Any]:
    """The load of an open loop. With an infinite rate all requests are sent at once."""
    try:
        known = float(rate)
    except (TypeError, ValueError):
        return {"kind": "open"}
    return {"kind": "open", "arrival": "burst"} if math.isinf(known) else {"kind": "open", "rate": known}


def _from_start(records: list[Record]) -> list[Record]:
    """Make timestamps relative to the first request. Changes the records."""
    start_s = min((record.sent_s for record in records if record.sent_s), default=0.0)
    for record in records:
        for name in ("due_s", "sent_s", "first_token_s", "last_token_s", "end_s"):
            stamp = getattr(record, name)
            if stamp is not None:
                setattr(record, name, max(0.0, stamp - start_s))
    return records


def _record(seq: int, sent_s: float | None, **known: Any) -> Record:
    """A record with the known fields. The budget is 0, because no tool keeps it for each request.

    Without the time when a request was sent, no other time is known, only durations.
    """
    tokens, prompt = known.get("tokens"), known.get("prompt")
    ttft_s, e2e_s = known.get("ttft_s"), known.get("e2e_s")
    record = Record(
        run_id="imported",
        seq=seq,
        problem_id=f"request-{seq}",
        budget=0,
        due_s=sent_s or 0.0,
        sent_s=sent_s,
        warmup=known.get("warmup", False),
        outcome=known.get("outcome", "ok"),
        error=known.get("error"),
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        prompt_tokens=int(prompt) if prompt is not None else None,
        completion_tokens=int(tokens) if tokens is not None else None,
    )
    if sent_s is not None and e2e_s is not None:
        record.last_token_s = record.end_s = sent_s + e2e_s
    if sent_s is not None and ttft_s is not None:
        record.first_token_s = sent_s + ttft_s
    if ttft_s is not None and e2e_s is not None and tokens and tokens > 1:
        record.tpot_s = (e2e_s - ttft_s) / (tokens - 1)
    return record
