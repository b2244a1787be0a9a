"""Read the result of `vllm bench serve` and of SGLang's `bench_serving`, which has a list for each field.

The Rust program `vllm-rs bench serve` writes the same fields. With `--append-result` (vLLM), and always with SGLang, a file
has one result in each line. The `summary.json` of `vllm bench sweep` is a list of results, one for each run of one combination.
"""

from itertools import zip_longest
from typing import Any

from analysis.errors import InputError
from analysis.foreign import base
from analysis.foreign.base import Foreign, number
from loadgen.record import Record

SERVER_TIMINGS = {"server_queue_times": "queue_time_ms", "server_ttfts": "time_to_first_token_ms"}
"""The lists of the server's own timings, in seconds, which 0.33 added, and vLLM's names for them."""
COLUMNS = ("ttfts", "itls", "input_lens", "output_lens", "errors", "start_times", *SERVER_TIMINGS)


def read(document: dict[str, Any]) -> Foreign:
    """One benchmark."""
    sglang = "total_output_tokens_retokenized" in document
    sglang |= "sglang" in str(document.get("backend")) and "tokenizer_id" not in document
    if not document.get("ttfts"):
        detailed = "--output-details" if sglang else "--save-result --save-detailed"
        detailed = "--save-detailed in --bench-cmd" if "run_number" in document else detailed
        raise InputError(f"the file has no single requests; run the benchmark with {detailed}")
    rows = zip_longest(*(document.get(name) or [] for name in COLUMNS))
    records = [_request(seq, dict(zip(COLUMNS, row, strict=True))) for seq, row in enumerate(rows)]
    notes = base.notes("bench_serve")
    if not document.get("start_times"):
        notes.append(
            "the file has no start times, so throughput, cost and energy of the run are unknown (the file says "
            f"{document.get('output_throughput')} output tokens/s)"
        )
    tool = "SGLang bench_serving" if sglang else "vllm bench serve"
    prompts = [str(prompt) for prompt in document.get("input_texts") or document.get("prompts") or []]
    return Foreign(tool, str(document.get("model_id") or "unknown"), _load(document, notes), records, notes, prompts)


def _load(document: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    streams, even = document.get("max_concurrency"), number(document.get("burstiness", 1.0)) == 1.0
    asked = base.open_load(document.get("request_rate"), "poisson" if even else "gamma")
    if "rate" in asked and streams:
        notes.append(f"the rate was limited to {streams} requests in flight, so a slow server received less")
    return asked if "rate" in asked or not streams else base.closed_load(streams)


def _request(seq: int, row: dict[str, Any]) -> Record:
    ttft_s, itls = number(row["ttfts"]), row["itls"] or []
    gaps_s = [gap for gap in map(number, itls) if gap is not None]
    record = base.new_record(seq, number(row["start_times"]))
    if row["errors"] or not ttft_s:
        words = str(row["errors"] or "no first token")
        base.failed(record, base.outcome_of(None, words, began=bool(ttft_s)), words)
        record.prompt_tokens = None if row["input_lens"] is None else int(row["input_lens"])
        return record
    timings_ms = {name: s * 1e3 for key, name in SERVER_TIMINGS.items() if (s := number(row[key])) is not None}
    record.server_timings = timings_ms or None
    is_known = row["itls"] is not None and len(gaps_s) == len(itls)
    e2e_s = ttft_s + sum(gaps_s) if is_known else None
    return base.answered(record, (ttft_s, e2e_s), number(row["input_lens"]), number(row["output_lens"]))
