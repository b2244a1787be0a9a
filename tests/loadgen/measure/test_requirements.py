"""Requirements on a run: how they are written, and what they say of runs worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.chunks import CHUNKS, encode_frame
from loadgen.errors import UsageError
from loadgen.measure import requirements
from loadgen.measure.run_facts import read_facts
from loadgen.measure.summary import summarize
from loadgen.option_types import LATENCIES, STATISTICS, Requirement, failures, parse_requirement, requirement, slo
from loadgen.record import RunInfo


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("ttft.p95<200ms", Requirement("ttft", "p95", "<", 0.2)),
        (" e2e_due.mean <= 2m ", Requirement("e2e_due", "mean", "<=", 120.0)),
        ("e2e.max>3", Requirement("e2e", "max", ">", 3.0)),
        ("failed<1%", Requirement("failed", "", "<", 0.01)),
        ("goodput>=0.95", Requirement("goodput", "", ">=", 0.95)),
        ("requests_per_s>=4/s", Requirement("requests_per_s", "", ">=", 4.0)),
        ("tokens_per_s>500", Requirement("tokens_per_s", "", ">", 500.0)),
    ],
)
def test_a_requirement_is_read(text: str, right: Requirement) -> None:
    assert parse_requirement(text) == right


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accuracy>0.8", "'accuracy' is not known: write ttft|tpot|"),
        ("ttft.p75<1s", ".mean|.p50|.p90|.p95|.p99|.max"),
        ("ttft<1s", "'ttft' is not known"),
        ("failed.p95<1%", "is not known"),
        ("ttft.p95=200ms", "write METRIC, then <"),
        ("ttft.p95<<200ms", "write METRIC, then <"),
        ("ttft.p95<", "write METRIC, then <"),
        ("ttft.p95<200", "means 200 seconds: write 200ms or 200s"),
        ("tpot.p50<20", "means 20 seconds"),
        ("failed<5", "is above 100 %"),
        ("failed<101%", "is above 100 %"),
        ("goodput>=x", "is not a number"),
        ("requests_per_s>nan", "is not a number"),
    ],
)
def test_a_requirement_that_cannot_be_checked_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        requirement(text)
    assert says in str(refused.value)


@given(st.text() | st.from_regex(r"(ttft|failed|e2e)(\.p\d\d|\.max)?[<>=]{1,2}[\d.e%ms/-]{0,8}", fullmatch=True))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_requirement(text)
    except UsageError:
        return
    assert found.comparison in requirements.COMPARE
    assert 0 <= found.limit < float("inf")


@pytest.mark.parametrize(
    ("text", "right"),
    [("ttft=200ms,e2e=60", {"ttft": 0.2, "e2e": 60}), ("ttft=200s", {"ttft": 200}), ("tpot=0.02", {"tpot": 0.02})],
)
def test_objectives_are_read_in_seconds(text: str, right: dict[str, float]) -> None:
    assert slo(text) == right


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft=200", "ttft 200 means 200 seconds: write 200ms or 200s"),
        ("ttft=0.5,tpot=20", "write 20ms or 20s"),
        ("e2e=30000", "write 30000ms or 30000s"),
        ("ttft=1s,ttft=2s", "ttft is given twice"),
    ],
)
def test_a_unit_is_asked_for_where_milliseconds_may_be_meant(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        slo(text)


@pytest.mark.parametrize("text", ["0", "0%", "101%", "x", "5.5", "-1", ""])
def test_a_limit_of_failures_is_a_number_or_a_share(text: str) -> None:
    assert (failures("20"), failures("50%")) == ("20", "50%")
    with pytest.raises(UsageError):
        failures(text)


def run_of(tmp_path: Path, latencies_s: list[float | None], slo: dict[str, float] | None = None) -> RunInfo:
    """A run whose requests, sent one second apart, had this TTFT and 10 tokens 10 ms apart; None is a failure."""
    lines, frames = [], []
    for seq, ttft_s in enumerate(latencies_s):
        row: dict[str, Any] = {"run_id": "r", "seq": seq, "problem_id": "p", "budget": 64, "due_s": seq, "sent_s": seq}
        row |= {"end_s": seq + 1.0, "outcome": "reset"}
        if ttft_s is not None:
            row |= {"outcome": "ok", "ttft_s": ttft_s, "ttft_due_s": ttft_s, "e2e_s": 1.0, "completion_tokens": 10}
            row |= {"token_source": "continuous_usage", "chunks": 10}
            frames.append(encode_frame(seq, [10_000 * index for index in range(10)], [1] * 10))
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "records.jsonl").write_text("".join(lines))
    (tmp_path / CHUNKS).write_bytes(b"".join(frames))
    run = RunInfo(run_id="r", config="c", model="m", target="t", started_at="", clock={}, slo=slo or {})
    summarize(tmp_path, run, read_facts(tmp_path, run))
    return run


def checked(run: RunInfo, text: str) -> tuple[float | None, bool, str | None]:
    row = requirements.check(text, run)
    assert row["text"] == text
    return row["value"], row["met"], row["why"]


def test_the_values_of_a_run_worked_out_by_hand(tmp_path: Path) -> None:
    """100 requests with TTFTs of 1 to 100 ms. Two failures among 102 would be 1.96 %."""
    run = run_of(tmp_path, [ms / 1000 for ms in range(1, 101)], {"ttft": 0.0905})
    assert checked(run, "ttft.p95<95.5ms") == (0.095, True, None)
    assert checked(run, "ttft.p95<95ms") == (0.095, False, "measured: 95.0 ms")
    assert checked(run, "ttft.p95<=95ms") == (0.095, True, None)
    assert checked(run, "ttft.max<=100ms") == (0.1, True, None)
    assert checked(run, "ttft.mean>50ms") == (0.0505, True, None)
    assert checked(run, "failed<=0") == (0.0, True, None)
    assert checked(run, "goodput>=0.9") == (0.9, True, None)
    assert checked(run, "goodput>90%") == (0.9, False, "measured: 90.00%")
    assert checked(run, "requests_per_s>=1") == (1.0, True, None)
    assert checked(run, "tokens_per_s>=10") == (10.0, True, None)
    assert checked(run, "itl.p99<11ms") == (0.01, True, None)
    assert checked(run, "itl.max<=10ms") == (0.01, True, None)


def test_failures_are_infinitely_slow(tmp_path: Path) -> None:
    """6 of 100 requests failed: p90 is among the others, and p95 is not."""
    run = run_of(tmp_path, [*[0.01] * 94, *[None] * 6])
    assert checked(run, "ttft.p90<11ms") == (0.01, True, None)
    for text in (
        "ttft.p95<1h",
        "ttft.max<1h",
        "ttft.mean<1h",
        "ttft.p95>1ms",
        "itl.p95<1h",
        "itl.mean<1h",
        "itl.max<1h",
    ):
        value, met, why = checked(run, text)
        assert (value, met) == (None, False), text
        assert why is not None
        assert why.startswith("infinite"), text
    assert checked(run, "itl.p90<11ms") == (0.01, True, None)
    assert checked(run, "failed<6%") == (0.06, False, "measured: 6.00%")


def test_a_sample_that_is_too_small_decides_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, [0.01] * 40)
    assert checked(run, "ttft.p90<1s")[1]
    assert checked(run, "ttft.p95<1s") == (None, False, "not decided: p95 needs 72 requests, and there are 40")
    assert checked(run_of(tmp_path, [0.01] * 3), "itl.p50<1s") == (
        None, False, "not decided: p50 needs more requests, and there are 3",
    )  # fmt: skip


@pytest.mark.parametrize("latencies_s", [[], [None] * 400], ids=["no request", "only failures"])
@pytest.mark.parametrize("comparison", ["<", ">"])
def test_missing_data_never_passes(tmp_path: Path, latencies_s: list[float | None], comparison: str) -> None:
    run = run_of(tmp_path, latencies_s)
    texts = [f"{metric}.{name}{comparison}5s" for metric in LATENCIES for name in STATISTICS]
    texts += [f"requests_per_s{comparison}5", f"tokens_per_s{comparison}5", f"goodput{comparison}0.5"]
    rows = [requirements.check(text, run) for text in texts]
    assert [row for row in rows if row["met"] or row["value"] is not None] == []


def test_a_requirement_that_was_damaged_in_run_json_does_not_hold(tmp_path: Path) -> None:
    value, met, why = checked(run_of(tmp_path, [0.01]), "ttft<")
    assert (value, met) == (None, False)
    assert why is not None
    assert "write METRIC" in why
