"""Read AIPerf's profile_export.jsonl: one line for each request, with metrics as {value, unit}.

The model and the load are in profile_export_aiperf.json beside it.
"""

from pathlib import Path
from typing import Any

from analysis.foreign import base
from analysis.foreign.base import Foreign, number
from loadgen.record import Record

UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}
SPECULATION = {
    "draft_acceptance_rate": ("spec_decode_draft_acceptance_rate", 0.01),
    "num_accepted_draft_tokens": ("spec_decode_accepted_draft_tokens", 1.0),
}
"""vLLM's name of each value, AIPerf's, and the factor between them."""


def read(documents: list[Any], path: Path) -> list[Foreign]:
    """All lines are one benchmark."""
    records = [_request(seq, line) for seq, line in enumerate(documents) if isinstance(line, dict)]
    asked, notes = base.beside(path, "profile_export_aiperf.json").get("input_config"), base.notes("aiperf")
    if asked is None:
        notes.append("profile_export_aiperf.json is not beside the file, so the model and the load are unknown")
    return [Foreign("AIPerf", _model(asked), _load(asked), records, notes)]


def _model(asked: Any) -> str:
    """The first model: a name, or since 0.13 an item with a name."""
    models = base.find(asked, ("model_names", "model_name", "models"))
    models = models.get("items") if isinstance(models, dict) else models
    model = models[0] if isinstance(models, list) and models else models
    return str((model.get("name") if isinstance(model, dict) else model) or "unknown")


def _load(asked: Any) -> dict[str, Any]:
    """The load of the measured phase; before 0.13 there was only one and no list of phases."""
    phases = base.find(asked, ("phases",))
    known = [one for one in phases if isinstance(one, dict)] if isinstance(phases, list) else []
    phase = next((one for one in known if one.get("kind") == "profiling"), asked)
    rate, streams = base.find(phase, ("request_rate", "rate")), base.find(phase, ("concurrency",))
    pattern = str(base.find(phase, ("arrival_pattern", "request_rate_mode", "type")))
    arrival = next((word for word in ("constant", "gamma") if word in pattern), "poisson")
    if number(rate):
        return base.open_load(rate, arrival)
    return base.closed_load(streams) if streams else {}


def _request(seq: int, line: dict[str, Any]) -> Record:
    metrics, about = line.get("metrics") or {}, line.get("metadata") or {}
    start_ns = number(about.get("request_start_ns"))
    record = base.new_record(seq, None if start_ns is None else start_ns / 1e9)
    record.warmup = about.get("benchmark_phase") == "warmup"
    ttft_s, e2e_s = (_seconds(metrics.get(name)) for name in ("time_to_first_token", "request_latency"))
    prompt, tokens = (_value(metrics.get(f"{side}_sequence_length")) for side in ("input", "output"))
    error = line.get("error")
    if error or e2e_s is None:
        found = error if isinstance(error, dict) else {"message": error or "no latency"}
        record.prompt_tokens = None if (prompt := _value(metrics.get("error_isl"))) is None else int(prompt)
        words = f"{found.get('type') or ''} {found.get('message') or ''}".strip()
        status = base.CANCELLED if about.get("was_cancelled") else found.get("code")
        return base.failed(record, base.outcome_of(status, words, began=ttft_s is not None), words)
    speculation = {
        name: value * factor
        for name, (theirs, factor) in SPECULATION.items()
        if (value := _value(metrics.get(theirs))) is not None
    }
    record.server_timings = {"speculative_decoding": speculation} if speculation else None
    return base.answered(record, (ttft_s, e2e_s), prompt, tokens)


def _value(metric: Any) -> float | None:
    return number(metric.get("value") if isinstance(metric, dict) else metric)


def _seconds(metric: Any) -> float | None:
    value, unit = _value(metric), metric.get("unit") if isinstance(metric, dict) else "ms"
    return None if value is None else value * UNITS_S.get(str(unit), 1e-3)
