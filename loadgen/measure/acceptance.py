"""What speculative decoding drafted and accepted, from a server's counters before and after a run (docs/metrics.md).

The counters are vLLM's, so this works with every drafter of every vLLM. A ratio is null where its denominator did not grow or
is not reported. This module does not know how a /metrics page is read, or which drafter a server has.
"""

from typing import Any

COUNTERS = {
    "drafts": "vllm:spec_decode_num_drafts_total",
    "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
    "accepted_tokens": "vllm:spec_decode_num_accepted_tokens_total",
    "steps": "vllm:iteration_tokens_total_count",
}
OUTPUT_TOKENS = "vllm:generation_tokens_total"
FIRST_TOKENS = "vllm:time_to_first_token_seconds_count"
REQUEST_STEPS = "vllm:inter_token_latency_seconds_count"
"""Exists with or without speculation, as the two above. vLLM observes one inter-token latency per request and step."""
AT_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
MAX_POSITIONS = 64


def drafted(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """The growth of the counters of speculation between two snapshots, and the measures of acceptance.

    The result is empty where the server reports no speculation, or where the first snapshot is missing.
    """
    if not before or not all(name in after for name in COUNTERS.values()):
        return {}

    def growth(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    found = {name: growth(counter) for name, counter in COUNTERS.items()}
    output, request_steps = growth(OUTPUT_TOKENS), growth(REQUEST_STEPS)
    accepted, drafts = found["accepted_tokens"], found["drafts"]
    positions = [f"{AT_POSITION}[{n}]" for n in range(MAX_POSITIONS)]
    at_position = [growth(name) for name in positions if name in after]
    per_draft = _ratio(accepted, drafts)
    return found | {
        "acceptance_rate": _ratio(accepted, found["draft_tokens"]),
        "accepted_fraction": _ratio(accepted, output),
        "tokens_per_drafting_step": None if per_draft is None else 1 + per_draft,
        "tokens_per_step": _ratio(output - growth(FIRST_TOKENS), request_steps),
        "accepted_at_position": [_ratio(count, drafts) for count in at_position],
        "accepted_at_position_per_step": [_ratio(count, request_steps) for count in at_position],
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
