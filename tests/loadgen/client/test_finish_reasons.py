"""What a server's reason for the end of an answer means."""

import pytest

from loadgen.client.finish_reasons import MAX_REASON_CHARS, meaning_of


@pytest.mark.parametrize(
    ("meaning", "word", "reasons"),
    [
        ("complete", "stop", "stop STOP eos eos_token stop_sequence end_turn FinishReason.STOP"),
        ("complete", "tool_calls", "tool_calls tool_use"),
        ("complete", "function_call", "function_call"),
        (
            "truncated",
            "length",
            (
                "length max_tokens MAX_TOKENS model_length max_output_tokens context_length_exceeded token_limit "
                "model_context_window_exceeded FINISH_REASON_MAX_TOKENS limit"
            ),
        ),
        (
            "failed",
            None,
            "abort ABORTED error insufficient_system_resource cancelled engine_overloaded network_error timeout",
        ),
        ("filtered", None, "content_filter SAFETY RECITATION PROHIBITED_CONTENT guardrail_intervened refusal"),
        ("unknown", None, "repetition OTHER parse_error stopping unstopped banana"),
    ],
)
def test_each_reason_has_one_meaning(meaning: str, word: str | None, reasons: str) -> None:
    for reason in reasons.split():
        assert meaning_of(reason) == (meaning, word or reason)


@pytest.mark.parametrize("reason", ["", " ", "null", "None", "NULL"])
def test_an_empty_reason_does_not_end_an_answer(reason: str) -> None:
    assert meaning_of(reason) == ("unfinished", None)


def test_a_long_reason_is_shortened() -> None:
    assert meaning_of("x" * 10**6) == ("unknown", "x" * MAX_REASON_CHARS)
