"""The steady window of runs worked out by hand, and what the summary computes in it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.measure.console_table import facts_rows
from loadgen.measure.run_facts import read_facts
from loadgen.measure.steady_window import Span, enough_requests, steady_window, tokens_within, why_no_window
from loadgen.measure.summary import summarize
from loadgen.record import RunInfo


def closed_loop(streams: int, generations: int, seconds: float = 1.0, start_s: float = 0.0) -> list[Span]:
    """Requests of equal length: every stream sends its next request when the last one has ended."""
    times = [start_s + index * seconds for index in range(generations)]
    return [(at_s, at_s + seconds, True) for at_s in times for _ in range(streams)]


def test_equal_requests_have_a_window_of_whole_generations() -> None:
    """Five generations of one second: the first is left out, and the last is sent at 4 s."""
    assert steady_window(closed_loop(4, 5), {"concurrency": 4}) == (1.0, 4.0)


@pytest.mark.parametrize("generations", [1, 2, 3])
def test_fewer_than_two_further_generations_are_no_window(generations: int) -> None:
    """Of three generations, only the second ends before the last send."""
    spans = closed_loop(32, generations)
    assert steady_window(spans, {"concurrency": 32}) is None
    assert "send about 320 requests" in why_no_window(spans, {"concurrency": 32})


def test_the_window_begins_when_the_slowest_of_the_first_requests_has_ended() -> None:
    slow: list[Span] = [(0.0, 7.0, True)]
    fast: list[Span] = [(float(second), second + 1.0, True) for second in range(20)]
    assert steady_window([*fast, *slow], {"concurrency": 2}) == (7.0, 19.0)


def test_an_open_loop_is_steady_once_its_first_requests_have_ended() -> None:
    """Ten requests per second take 2 s each: those sent before 2 s have all ended at 3.9 s."""
    spans = [(i / 10, i / 10 + 2, True) for i in range(100)]
    assert steady_window(spans, {"kind": "open", "rate": 10}) == pytest.approx((3.9, 9.9))


def test_requests_that_fail_at_once_do_not_end_the_first_generation() -> None:
    refused: list[Span] = [(0.001, 0.002, False)]
    assert steady_window([*closed_loop(4, 5), *refused], {"concurrency": 4}) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("spans", "load", "says"),
    [
        ([], {"concurrency": 1}, "no request succeeded"),
        ([(0.0, 1.0, False)] * 9, {"concurrency": 1}, "no request succeeded"),
        ([(0.0, 1.0, True)] * 100, {"kind": "open", "arrival": "burst"}, "100 requests are too few"),
        (closed_loop(1, 50), {"kind": "open", "ramp": [[1, 10]]}, "the rate changes"),
    ],
)
def test_what_is_never_steady(spans: list[Span], load: dict[str, Any], says: str) -> None:
    assert steady_window(spans, load) is None
    assert says in why_no_window(spans, load)


def test_a_resumed_run_has_the_longest_window_of_its_parts() -> None:
    parts = closed_loop(2, 5) + closed_loop(2, 9, start_s=5.0)
    assert steady_window(parts, {"concurrency": 2}, [5.0]) == (6.0, 13.0)


def test_ten_requests_per_stream_are_asked_for() -> None:
    assert [enough_requests(streams) for streams in (1, 8, 32, 2.5)] == [10, 80, 320, 25]


@given(
    st.floats(0, 100), st.floats(0, 100), st.integers(1, 10_000), st.lists(st.floats(-1, 201), min_size=1, max_size=5)
)
def test_windows_side_by_side_hold_every_token_once(
    first_s: float, length_s: float, tokens: int, cuts: list[float]
) -> None:
    bounds = sorted({-2.0, *cuts, 202.0})
    parts = [tokens_within(first_s, first_s + length_s, tokens, window) for window in itertools.pairwise(bounds)]
    assert sum(parts) == pytest.approx(tokens)


def test_tokens_are_spread_between_the_first_and_the_last() -> None:
    assert tokens_within(2.0, 6.0, 100, (3.0, 5.0)) == 50
    assert tokens_within(None, None, 100, (3.0, 5.0)) == 0
    assert tokens_within(2.0, 6.0, None, (3.0, 5.0)) == 0


def folder_of(tmp_path: Path, spans: list[Span], **fields: Any) -> Path:
    """A run's records: every request produces 100 tokens, evenly from its send to its end."""
    lines = [
        {"run_id": "r", "seq": seq, "problem_id": f"p{seq}", "budget": 128, "due_s": sent_s, "sent_s": sent_s}
        | {"end_s": end_s, "outcome": "ok" if ok else "reset"}
        | ({"first_token_s": sent_s, "last_token_s": end_s, "e2e_s": end_s - sent_s} if ok else {})
        | ({"completion_tokens": 100} if ok else {})
        | fields
        for seq, (sent_s, end_s, ok) in enumerate(spans)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def summarized(folder: Path, **fields: Any) -> RunInfo:
    described: dict[str, Any] = {"config": "tp2", "model": "m", "target": "t", "num_gpus": 2} | fields
    run = RunInfo(run_id="r", started_at="", clock={}, **described)
    summarize(folder, run, read_facts(folder, run))
    return run


def test_the_summary_gives_the_steady_figures_beside_those_of_the_whole_run(tmp_path: Path) -> None:
    """Four streams for five seconds, and one slow request that keeps the server for ten more."""
    spans: list[Span] = [*closed_loop(4, 5), (4.0, 15.0, True)]
    run = summarized(folder_of(tmp_path, spans), load={"concurrency": 4, "kind": "closed"})
    steady, whole = run.summary["steady"], run.summary["throughput"]
    assert (steady["window_s"], steady["share"], steady["requests"]) == ([1.0, 4.0], 0.2, 17)
    assert steady["completion_tokens_per_s"] == 400
    assert steady["gpu_seconds_per_token"] == pytest.approx(2 * 3 / 1200)
    assert whole["gpu_seconds_per_token_wall"] == pytest.approx(2 * 15 / 2100)
    shown = {label: text for label, text, _ in facts_rows(run, verbose=False)}
    assert shown["steady"] == "1 to 4 s, 20% of the run: 400 tokens/s, 5 GPU-seconds per 1,000 tokens"
    assert "140 tokens/s, 14.3 GPU-seconds per 1,000 tokens" in shown["whole run"]


def test_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    run = summarized(folder_of(tmp_path, closed_loop(32, 2)), load={"concurrency": 32})
    assert run.window_s is None
    assert "64 requests are too few with 32 in flight" in run.summary["steady"]["why"]
    assert ("steady", run.summary["steady"]["why"], "") in list(facts_rows(run, verbose=False))


def test_what_was_not_measured_is_null_and_not_zero(tmp_path: Path) -> None:
    run = summarized(folder_of(tmp_path, [(0.0, 2.0, False)] * 8), load={"concurrency": 8})
    whole = run.summary["throughput"]
    assert whole["completion_tokens_per_s"] is None
    assert whole["gpu_seconds_per_token_paper"] is None
    assert run.summary["budgets"]["128"]["completion_tokens_mean"] is None


def test_failures_are_in_neither_side_of_the_papers_cost(tmp_path: Path) -> None:
    """Failed requests with 100 tokens each, and no complete latency, do not make a token cheaper."""
    folder = folder_of(tmp_path, closed_loop(1, 10))
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for line in lines[5:]:
        line["outcome"] = "reset"
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = summarized(folder, load={"concurrency": 1})
    assert run.summary["throughput"]["gpu_seconds_per_token_paper"] == pytest.approx(2 * 5 / 500)


def test_with_failures_counts_every_request(tmp_path: Path) -> None:
    """Two of ten requests failed, and one succeeded without a token: it has no latency."""
    folder = folder_of(tmp_path, [*closed_loop(1, 7), (7.0, 8.0, False), (8.0, 9.0, False)])
    empty = {
        "run_id": "r",
        "seq": 9,
        "problem_id": "p",
        "budget": 128,
        "due_s": 9,
        "sent_s": 9,
        "end_s": 10,
        "outcome": "ok",
    }
    with (folder / "records.jsonl").open("a") as file:
        file.write(json.dumps(empty) + "\n")
    run = summarized(folder, load={"concurrency": 1})
    assert run.summary["with_failures"]["e2e_s"]["n"] == 10
    assert run.summary["e2e_s"]["n"] == 7
