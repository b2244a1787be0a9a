"""Read per_request_lifecycle_metrics.json of inference-perf, a list of requests with the time of each output token."""

import json
from typing import Any

from analysis.foreign import base
from analysis.foreign.base import Foreign, number
from loadgen.record import Record


def recognizes(first: Any) -> bool:
    """Whether a document is a list of requests of inference-perf."""
    one = first[0] if isinstance(first, list) and first else None
    return isinstance(one, dict) and {"start_time", "end_time", "info"} <= set(one)


def read(documents: list[Any]) -> list[Foreign]:
    """The whole list is one benchmark; stages of several loads are not told apart."""
    requests = sorted(documents[0], key=lambda request: float(request["start_time"]))
    records = [_request(seq, request) for seq, request in enumerate(requests)]
    prompts = [str(request.get("request") or "") for request in requests]
    known = prompts if all(prompts) else []
    return [Foreign("inference-perf", _model(prompts), {"kind": "open"}, records, base.notes("inference_perf"), known)]


def _model(prompts: list[str]) -> str:
    """The model in the first request's body."""
    try:
        body = json.loads(prompts[0])
        return str(body["model"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return "unknown"


def _request(seq: int, request: dict[str, Any]) -> Record:
    info = request.get("info") or {}
    sent_s, end_s = (number(request[name]) for name in ("start_time", "end_time"))
    answer = info.get("response_metrics") or info
    record = base.new_record(seq, sent_s)
    times = [number(time) for time in answer.get("output_token_times") or answer.get("chunk_times") or []]
    if error := request.get("error"):
        found = error if isinstance(error, dict) else {"error_msg": error}
        words = f"{found.get('error_type') or ''} {found.get('error_msg') or ''}".strip()
        return base.failed(record, base.outcome_of(found.get("status_code"), words, began=bool(times)), words)
    text = (info.get("request_metrics") or {}).get("text") or info
    usage = (answer.get("server_usage") or {}).get("completion_tokens")
    tokens = number(answer.get("output_tokens") if usage is None else usage)
    first_s, last_s = (times[0], times[-1]) if times else (None, end_s)
    ttft_s = first_s - sent_s if first_s is not None and sent_s is not None else None
    e2e_s = last_s - sent_s if last_s is not None and sent_s is not None else None
    return base.answered(record, (ttft_s, e2e_s), number(text.get("input_tokens")), tokens)
