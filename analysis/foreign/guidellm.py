"""Read guidellm's benchmarks.json, which has several benchmarks where a sweep or several rates were asked for."""

from typing import Any

from analysis.errors import InputError
from analysis.foreign import base
from analysis.foreign.base import Foreign, Outcome, number
from loadgen.record import Record

OUTCOMES: dict[str, Outcome] = {"successful": "ok", "errored": "http_error", "incomplete": "cancelled"}
"""The outcome of the requests in each list; guidellm cancels what is not complete when a benchmark ends."""


def read(document: dict[str, Any]) -> list[Foreign]:
    """Each benchmark of the file that has requests."""
    benchmarks = document["benchmarks"]
    found = [_benchmark(one, document) for one in benchmarks] if isinstance(benchmarks, list) else []
    found = [one for one in found if one.records]
    if not found:
        raise InputError("the file of guidellm has no benchmark with requests")
    return found


def _benchmark(benchmark: dict[str, Any], document: dict[str, Any]) -> Foreign:
    lists = benchmark.get("requests") or {}
    found = [(request, outcome) for name, outcome in OUTCOMES.items() for request in lists.get(name) or []]
    records = [_request(seq, *one) for seq, one in enumerate(found)]
    asked = next((str(request["model"]) for request, _ in found if request.get("model")), None)
    about = {name: value for name, value in benchmark.items() if name != "requests"}
    model = asked or base.find(about, ("backend_model", "model")) or base.find(document, ("backend_model", "model"))
    prompts = [str(request.get("prompt") or request.get("request_args") or "") for request, _ in found]
    known = prompts if all(prompts) else []
    return Foreign("guidellm", str(model or "unknown"), _load(benchmark), records, base.notes("guidellm"), known)


def _load(benchmark: dict[str, Any]) -> dict[str, Any]:
    args = benchmark.get("config") or benchmark.get("args") or {}
    strategy = args.get("strategy") or {}
    kind = str(strategy.get("type_") or strategy.get("type"))
    if strategy.get("rate"):
        return base.open_load(strategy["rate"], "poisson" if "poisson" in kind else "constant")
    if kind == "throughput":
        return base.open_load("inf")
    streams = 1 if kind == "synchronous" else strategy.get("streams") or strategy.get("max_concurrency")
    return base.closed_load(streams) if streams else base.open_load(None)


def _request(seq: int, request: dict[str, Any], outcome: Outcome) -> Record:
    info = request.get("info") or request.get("scheduler_info") or {}
    times = request | (info.get("timings") or {})

    def known(*names: str) -> float | None:
        return next((value for name in names if (value := number(times.get(name)))), None)

    sent_s = known("request_start", "request_start_time", "start_time")
    record = base.new_record(seq, sent_s)
    if outcome != "ok":
        words = str(request.get("error") or info.get("error") or outcome)
        return base.failed(record, base.outcome_of(None, words) if outcome == "http_error" else outcome, words)
    first_s = known("first_iteration", "first_token_iteration", "first_token_time")
    last_s = known("last_iteration", "last_token_iteration", "last_token_time")
    ttft_ms = known("time_to_first_token_ms")
    ttft_s = first_s - sent_s if first_s and sent_s else ttft_ms / 1e3 if ttft_ms else None
    e2e_s = last_s - sent_s if last_s and sent_s else known("request_latency")
    return base.answered(record, (ttft_s, e2e_s), known("prompt_tokens"), known("output_tokens"))
