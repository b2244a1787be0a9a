"""The measures of acceptance from two pages of counters, worked by hand."""

import pytest

from loadgen.measure.acceptance import drafted
from loadgen.target.server_metrics import totals


def page(steps: int, drafts: int, at: tuple[int, ...], output: int, first: int) -> str:
    """A /metrics page of two engines that did the same; each request decodes alone, so its steps are the engine's."""
    counters = {
        "iteration_tokens_total_count": steps,
        "spec_decode_num_drafts_total": drafts,
        "spec_decode_num_draft_tokens_total": 5 * drafts,
        "spec_decode_num_accepted_tokens_total": sum(at),
        "generation_tokens_total": output,
        "time_to_first_token_seconds_count": first,
        "inter_token_latency_seconds_count": steps - first,
    }
    lines = [f'vllm:{name}{{engine="{engine}"}} {value}' for name, value in counters.items() for engine in "01"]
    per_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f'{per_position}{{engine="{e}",position="{n}"}} {count}' for n, count in enumerate(at) for e in "01"]
    return "\n".join(lines)


BEFORE = totals(page(10, 5, (5, 5, 0), 20, 2))
# One engine more: 104 steps, of which 4 are prefills; 40 had a draft of five tokens; 30 + 20 + 10 tokens were accepted.
AFTER = totals(page(114, 45, (35, 25, 10), 184, 6))


def test_the_measures_are_those_of_the_definitions() -> None:
    found = drafted(BEFORE, AFTER)
    assert (found["drafts"], found["draft_tokens"], found["accepted_tokens"]) == (80, 400, 120)
    assert found["acceptance_rate"] == pytest.approx(60 / 200)
    assert found["accepted_fraction"] == pytest.approx(60 / 164)
    assert found["tokens_per_drafting_step"] == pytest.approx(1 + 60 / 40)
    assert found["tokens_per_step"] == pytest.approx(160 / 100)
    assert found["accepted_at_position"] == pytest.approx([30 / 40, 20 / 40, 10 / 40])
    assert found["accepted_at_position_per_step"] == pytest.approx([0.3, 0.2, 0.1])


def test_without_drafts_the_ratios_of_drafts_are_null() -> None:
    found = drafted(BEFORE, totals(page(114, 5, (5, 5, 0), 124, 6)))
    assert (found["drafts"], found["accepted_fraction"], found["tokens_per_step"]) == (0, 0, 1)
    assert found["acceptance_rate"] is found["tokens_per_drafting_step"] is None
    assert found["accepted_at_position"] == [None] * 3


def test_a_server_without_speculation_or_without_a_first_page_reports_nothing() -> None:
    assert drafted({}, AFTER) == {}
    assert drafted(BEFORE, {"vllm:generation_tokens_total": 9.0}) == {}
