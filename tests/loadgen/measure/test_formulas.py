"""The formulas of docs/metrics.md, with values computed by hand."""

from typing import Any

import msgspec
import pytest

from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import meets, to_record
from loadgen.record import Record

MS = 10**6
START = 7_000 * MS
REQUEST = Request(3, "p", 1, 64, "cut", "/completions", {})


def exchange(arrivals_ms: list[int], tokens: list[int], **fields: object) -> Exchange:
    """Return an exchange that was sent at 100 ms and due at 90 ms."""
    found = Exchange(sent_ns=START + 100 * MS, status=200, finish_reason="stop", token_source="continuous_usage")
    found.arrival_ns = [START + at * MS for at in arrivals_ms]
    found.tokens = tokens
    found.pieces = [("", "x")] * len(tokens)
    found.end_ns = START + 999 * MS
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def record(found: Exchange, scale: float = 1.0, **options: bool) -> Record:
    return to_record(REQUEST, found, START + 90 * MS, RunClock(START, scale), run_id="r", **options)


def test_stamps_and_latencies() -> None:
    """TTFT and e2e start at the send, or at the due time for `_due`; e2e ends at the last token, not at the end of the stream."""
    found = record(exchange([200, 210, 230], [1, 1, 1]))
    assert (found.due_s, found.sent_s, found.first_token_s, found.last_token_s, found.end_s) == (
        0.09,
        0.1,
        0.2,
        0.23,
        0.999,
    )
    assert (found.ttft_s, found.ttft_due_s, found.e2e_s, found.e2e_due_s, found.send_lag_s) == (
        0.1,
        0.11,
        0.13,
        0.14,
        0.01,
    )


def test_tpot_and_itl_with_several_tokens_per_chunk() -> None:
    """After the first token, 4 tokens arrive every 20 ms: 5 ms per token and 20 ms per chunk."""
    found = record(exchange([200, 220, 240, 260], [1, 4, 4, 4]))
    assert (found.tpot_s, found.itl_s, found.inter_chunk_s) == (0.005, 0.005, 0.02)
    assert (found.completion_tokens, found.chunks) == (13, 4)


def test_itl_is_the_median_over_tokens_not_over_chunks() -> None:
    """There are three slow chunks of one token and one fast chunk of nine tokens."""
    found = record(exchange([200, 210, 220, 230, 239], [1, 1, 1, 1, 9]))
    assert (found.itl_s, found.inter_chunk_s) == (0.001, 0.01)


def test_tpot_leaves_out_the_tokens_of_the_first_chunk() -> None:
    found = record(exchange([200, 210, 220], [10, 1, 1]))
    assert found.tpot_s == 0.01


def test_without_counts_per_chunk_the_chunks_share_the_tokens_equally() -> None:
    """17 chunks of unknown size hold 65 tokens: 1 in the first chunk and 4 in each later one."""
    arrivals = [100 + 20 * i for i in range(17)]
    found = record(exchange(arrivals, [1] * 17, usage={"completion_tokens": 65}, token_source="usage"))
    assert (found.tpot_s, found.itl_s, found.inter_chunk_s, found.completion_tokens) == (0.005, 0.005, 0.02, 65)


@pytest.mark.parametrize("source", ["chunks_and_end", "continuous_usage", "token_ids"])
def test_no_time_is_divided_by_an_end_token_that_only_the_total_counts(source: Any) -> None:
    """Three tokens come 10 ms apart, and the total counts four: each takes 10 ms, and not 20/3."""
    found = record(exchange([200, 210, 220], [1, 1, 1], usage={"completion_tokens": 4}, token_source=source))
    assert (found.tpot_s, found.itl_s, found.completion_tokens) == (0.01, 0.01, 4)


def test_a_single_token_has_no_gaps() -> None:
    """A value that can't be measured is null, not zero."""
    found = record(exchange([200], [1]))
    assert (found.ttft_s, found.tpot_s, found.itl_s, found.inter_chunk_s, found.e2e_s) == (0.1, None, None, None, 0.1)


def test_a_reply_without_tokens() -> None:
    found = record(exchange([], [], outcome="reset", token_source=None))
    assert (found.ttft_s, found.e2e_s, found.completion_tokens, found.chunks, found.sent_s) == (
        None,
        None,
        None,
        0,
        0.1,
    )


def test_a_cut_reply_keeps_the_tokens_that_arrived() -> None:
    found = record(exchange([200, 210], [1, 2], outcome="cut", token_source="chunks"))
    assert (found.completion_tokens, found.e2e_s) == (3, 0.11)


def test_times_are_model_time_and_raw_has_the_unscaled_stamps() -> None:
    found = record(exchange([200, 210, 230], [1, 1, 1]), scale=10)
    assert (found.sent_s, found.ttft_s, found.tpot_s, found.itl_s, found.send_lag_s) == (1.0, 1.0, 0.15, 0.15, 0.1)
    assert found.raw is not None
    assert (found.raw["sent_s"], found.raw["first_token_s"], found.raw["end_s"]) == (0.1, 0.2, 0.999)


def test_token_details_come_from_the_usage_object() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    found = record(exchange([200, 210, 230], [1, 1, 1], usage=usage))
    assert (found.prompt_tokens, found.reasoning_tokens, found.cached_tokens) == (5, 2, 4)
    without = record(
        exchange(
            [200], [1], usage={"completion_tokens_details": None, "prompt_tokens_details": {"cached_tokens": None}}
        )
    )
    assert (without.reasoning_tokens, without.cached_tokens) == (None, None)


@pytest.mark.parametrize(
    ("arrivals", "share", "measured"),
    [
        ([200, 210, 220, 230], 0.0, True),
        ([200, 210, 210, 230], 0.5, True),
        ([200, 210, 210, 230, 240], 0.4, True),
        ([200, 200, 200, 230, 230], 1.0, False),
        ([200, 200, 200, 200, 230], 0.8, False),
        ([200, 200], 1.0, False),
    ],
)
def test_times_between_tokens_are_not_measured_where_most_events_shared_a_read(
    arrivals: list[int], share: float, measured: bool
) -> None:
    """A joined read now and then is normal. TTFT and e2e are what the client saw, in any case."""
    found = record(exchange(arrivals, [1] * len(arrivals)))
    assert found.clumped_share == share
    for value in (found.tpot_s, found.itl_s, found.inter_chunk_s):
        assert (value is not None) == measured
    assert (found.ttft_s, found.e2e_s) == (0.1, (arrivals[-1] - 100) / 1000)


def test_tpot_is_measured_as_long_as_the_first_and_the_last_read_tell_it() -> None:
    """A busy client joins two or three events; a buffer of 4 KB joins twenty, also in a long answer."""
    pairs = record(exchange([200 + 20 * (i // 2) for i in range(1, 41)], [1] * 40))
    assert pairs.tpot_s == pytest.approx(0.4 / 39)
    assert pairs.itl_s is None
    buffered = record(exchange([200 + 200 * (i // 20) for i in range(1, 401)], [1] * 400))
    assert (buffered.tpot_s, buffered.itl_s, buffered.clumped_share) == (None, None, 0.9975)
    held = record(exchange([*[300] * 10, *range(310, 810, 10)], [1] * 60))
    assert (held.tpot_s, held.itl_s) == (None, 0.01)


def test_segments_of_one_write_are_one_clump() -> None:
    """Over a network, an answer that a proxy held back arrives in many reads, some microseconds apart."""
    held = exchange([500], [1] * 1000)
    held.arrival_ns = [START + 500 * MS + (i // 7) * 20_000 for i in range(1000)]
    held.pieces = [("", "x")] * 1000
    found = record(held)
    assert (found.clumped_share, found.tpot_s, found.itl_s) == (1.0, None, None)
    fast = exchange([500], [1] * 100)
    fast.arrival_ns = [START + 500 * MS + i * 400_000 for i in range(100)]
    assert (record(fast).clumped_share, record(fast).tpot_s) == (0.0, 0.0004)


def test_many_tokens_in_one_chunk_are_no_clump_but_a_whole_answer_is() -> None:
    assert record(exchange([200, 220], [40, 40])).clumped_share == 0.0
    assert record(exchange([200], [8])).clumped_share is None
    assert record(exchange([200], [40])).clumped_share == 1.0
    assert record(exchange([200], [40], hidden_tokens=39)).clumped_share is None


def test_hidden_tokens_divide_no_gap() -> None:
    """60 tokens were generated before the first of 5 visible ones, which came 10 ms apart."""
    found = record(
        exchange(
            [200, 210, 220, 230, 240],
            [61, 1, 1, 1, 1],
            usage={"completion_tokens": 65},
            token_source="usage",
            hidden_tokens=60,
        )
    )
    assert (found.completion_tokens, found.hidden_tokens, found.tpot_s, found.itl_s) == (65, 60, 0.01, 0.01)


def test_an_answer_in_one_body_has_only_an_e2e() -> None:
    found = record(exchange([300], [64], usage={"completion_tokens": 64}, token_source="usage", streamed=False))
    assert (found.e2e_s, found.e2e_due_s, found.completion_tokens) == (0.2, 0.21, 64)
    assert (found.ttft_s, found.ttfot_s, found.tpot_s, found.itl_s, found.clumped_share) == (None,) * 5
    assert record(exchange([300], [0], token_source=None, streamed=False)).completion_tokens is None


def test_the_time_to_connect_is_kept() -> None:
    found = record(exchange([200], [1], connect_ns=3 * MS), scale=10)
    assert (found.connect_s, found.connection_reused) == (0.03, False)
    reused = record(exchange([200], [1], reused=True))
    assert (reused.connect_s, reused.connection_reused) == (None, True)


SLO = {"ttft": 1.0, "tpot": 0.05}


@pytest.mark.parametrize(
    ("arrivals", "tokens", "met"),
    [
        ([200, 210], [1, 1], True),
        ([200, 300], [1, 1], False),
        ([200], [1], True),
        ([200], [3], False),
        ([200, 200, 200, 200], [1] * 4, False),
        ([], [], False),
    ],
)
def test_what_was_not_measured_is_not_met(arrivals: list[int], tokens: list[int], met: bool) -> None:
    """An answer of exactly one token has no time between tokens, so it meets the other objectives or none."""
    assert meets(record(exchange(arrivals, tokens)), SLO) == met


def test_an_answer_without_a_token_meets_nothing_and_a_failure_neither() -> None:
    assert not meets(record(exchange([], [], usage={"completion_tokens": 1}, token_source="usage")), {})
    assert not meets(record(exchange([200, 210], [1, 1], outcome="filtered")), {})
    assert not meets(record(exchange([200], [1], usage={"completion_tokens": 1}, streamed=False)), {"ttft": 1.0})


def test_text_is_left_out_where_it_is_not_kept() -> None:
    found = record(exchange([200], [1], pieces=[("hm", "x")]), keep_text=False)
    assert (found.text, found.reasoning) == (None, None)


@pytest.mark.parametrize(
    ("pieces", "at_s"),
    [
        (["hm", "</think>", "\n", "42"], 0.13),
        (["hm</thi", "nk>\n4", "2", "!"], 0.11),
        (["hm", "</think>", "\n", "\n"], None),
        (["no", " tag", " at", " all"], None),
        (["</think>4", "2", "", ""], 0.1),
    ],
)
def test_ttfot_is_the_time_of_the_first_answer_text_after_the_reasoning(pieces: list[str], at_s: float | None) -> None:
    found = record(exchange([200, 210, 220, 230], [1] * 4, pieces=[("", piece) for piece in pieces]))
    assert found.ttfot_s == at_s


def test_a_record_is_read_back_as_written() -> None:
    found = record(exchange([200, 210, 230], [1, 1, 1]), scale=10)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found
