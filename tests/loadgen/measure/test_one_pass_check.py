"""The check of derived budgets, on runs worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.measure.one_pass_check import check, lines
from loadgen.measure.run_facts import read_facts
from loadgen.measure.summary import summarize
from loadgen.record import RunInfo

Rows = list[dict[str, Any]]


def records(budget: int, start_s: float, seconds: float, first_seq: int, **fields: Any) -> Rows:
    """Six generations of two streams: every reply takes `seconds` and has as many tokens as its budget."""
    rows: Rows = []
    for number in range(12):
        sent_s = start_s + number // 2 * seconds
        times = {"due_s": sent_s, "sent_s": sent_s, "first_token_s": sent_s}
        times |= {"last_token_s": sent_s + seconds, "end_s": sent_s + seconds, "e2e_s": seconds}
        what = {"run_id": "r", "seq": first_seq + number, "problem_id": f"p{number}", "budget": budget}
        rows.append(what | times | {"completion_tokens": budget, "outcome": "ok", "text": f"t{number}"} | fields)
    return rows


def derived(main: Rows, budget: int, first_seq: int) -> Rows:
    """The records that one pass makes of these: the same beginning, in proportion to the tokens."""
    rows: Rows = []
    for row in main:
        seconds = row["e2e_s"] * budget / row["completion_tokens"]
        end_s = row["sent_s"] + seconds
        cut = {"last_token_s": end_s, "end_s": end_s, "e2e_s": seconds, "completion_tokens": budget}
        rows.append(row | cut | {"seq": first_seq + row["seq"], "budget": budget, "derived": True})
    return rows


def run_of(folder: Path, rows: Rows) -> RunInfo:
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunInfo(
        run_id="r", config="tp2", model="m", target="t", started_at="", clock={}, num_gpus=2, one_pass=True,
        budgets=[100, 400], load={"concurrency": 2},
    )  # fmt: skip
    summarize(folder, run, read_facts(folder, run))
    return run


def checked(folder: Path, real_seconds: float) -> dict[str, Any]:
    """The main requests take 4 s for 400 tokens, so that a derived reply of 100 tokens takes 1 s."""
    main = records(400, 0.0, 4.0, 0)
    rows = [*main, *derived(main, 100, 24), *records(100, 24.0, real_seconds, 12)]
    found = check(folder, run_of(folder, rows))
    assert found is not None
    return found


def test_equal_figures_hold(tmp_path: Path) -> None:
    """Two streams and two GPUs: 200 tokens per second, and 2 GPUs / 200 = 0.01 GPU-seconds per token."""
    found = checked(tmp_path, 1.0)
    row = found["checks"][0]
    assert found["holds"]
    assert (row["budget"], row["problems"], row["same_text"], row["compared"]) == (100, 12, 12, 10)
    for side in ("derived", "real"):
        assert row[side] == pytest.approx({"e2e_s_mean": 1.0, "tokens_per_s": 200, "gpu_seconds_per_token": 0.01})


@pytest.mark.parametrize(("real_seconds", "holds"), [(0.98, True), (0.95, False), (1.05, False)])
def test_more_than_three_percent_does_not_hold(real_seconds: float, holds: bool, tmp_path: Path) -> None:
    found = checked(tmp_path, real_seconds)
    assert found["holds"] is holds
    ratio = found["checks"][0]["ratio"]
    assert ratio["e2e_s_mean"] == pytest.approx(1 / real_seconds)
    assert ratio["gpu_seconds_per_token"] == pytest.approx(1 / real_seconds)
    assert ratio["tokens_per_s"] == pytest.approx(real_seconds)
    assert ("are not shown to agree" in list(lines(found))[-1]) is not holds


def test_the_drain_of_the_largest_budget_is_no_part_of_the_check(tmp_path: Path) -> None:
    """One main request that takes ten times as long drains alone, and changes no figure."""
    main = records(400, 0.0, 4.0, 0)
    slow = main[-1] | {"end_s": 60.0, "last_token_s": 60.0, "e2e_s": 40.0, "completion_tokens": 4000}
    rows = [*main[:-1], slow, *derived([*main[:-1], slow], 100, 24), *records(100, 61.0, 1.0, 12)]
    found = check(tmp_path, run_of(tmp_path, rows))
    assert found is not None
    assert found["holds"], found


def test_without_steady_windows_nothing_holds(tmp_path: Path) -> None:
    main = records(400, 0.0, 4.0, 0)[:4]
    rows = [*main, *derived(main, 100, 24), *records(100, 24.0, 1.0, 12)[:4]]
    found = check(tmp_path, run_of(tmp_path, rows))
    assert found is not None
    assert not found["holds"]
    assert "a part has no steady window" in next(lines(found))


def test_failed_requests_are_not_zero_seconds(tmp_path: Path) -> None:
    main = records(400, 0.0, 4.0, 0)
    real = records(100, 24.0, 1.0, 12)
    real[5] |= {"outcome": "reset", "e2e_s": None, "last_token_s": None, "completion_tokens": None}
    found = check(tmp_path, run_of(tmp_path, [*main, *derived(main, 100, 24), *real]))
    assert found is not None
    assert found["checks"][0]["problems"] == 11
    assert found["checks"][0]["real"]["e2e_s_mean"] == pytest.approx(1.0)


def test_what_was_not_checked_has_no_result(tmp_path: Path) -> None:
    main = records(400, 0.0, 4.0, 0)
    assert check(tmp_path, run_of(tmp_path, [*main, *derived(main, 100, 24)])) is None


def test_the_summary_counts_check_requests_apart(tmp_path: Path) -> None:
    main = records(400, 0.0, 4.0, 0)
    run = run_of(tmp_path, [*main, *derived(main, 100, 24), *records(100, 24.0, 1.0, 12)])
    assert (run.summary["requests"], run.summary["checks"], run.summary["derived"]) == (12, 12, 12)
    assert run.summary["throughput"]["duration_s"] == 24
    assert list(run.summary["budgets"]) == ["100 derived", "400"]
