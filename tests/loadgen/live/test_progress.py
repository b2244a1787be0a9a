"""The progress of a run as people see it: failures are always there, and the remaining time is right for every kind of load."""

import io
import time
from array import array
from typing import Any

import pytest
from rich.console import Console

from loadgen.live.progress import Progress
from loadgen.record import Record, RunInfo
from loadgen.terminal import duration_text

TTFT_S = {"ttft": 0.05}


def run(**more: Any) -> RunInfo:
    fields: dict[str, Any] = {"run_id": "r", "config": "tp2", "model": "m", "target": "http://x/v1", "started_at": ""}
    fields |= {"clock": {}, "load": {"kind": "closed", "concurrency": 1}, "budgets": [64]}
    return RunInfo(**{**fields, **more})


def record(**more: Any) -> Record:
    fields: dict[str, Any] = {"run_id": "r", "seq": 0, "problem_id": "p", "budget": 64, "due_s": 0.0, "outcome": "ok"}
    return Record(**{**fields, "ttft_s": 0.03, "tpot_s": 0.002, "e2e_s": 1.2, **more})


def shown(progress: Progress, width: int = 80) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(progress.view(width))
    return page.getvalue()


def ended(progress: Progress, count: int, **more: Any) -> None:
    for _ in range(count):
        progress.sent += 1
        progress.ended(record(**more))


def test_the_line_shows_counts_failures_and_the_scheduled_rate() -> None:
    progress = Progress(run(load={"kind": "open", "rate": 4.0}), 10, 2, "plain")
    assert "failed 0" in progress.line()
    ended(progress, 3)
    ended(progress, 1, outcome="timeout")
    progress.sent += 1
    line = progress.line()
    assert "done 6 of 10" in line
    assert "failed 1 (timeout 1)" in line
    assert "of 4/s scheduled" in line
    assert "in flight 1" in line


def test_a_percentile_needs_as_many_requests_as_in_the_summary() -> None:
    """Six values show a median, and 72 show a p95. Two values show neither."""
    progress = Progress(run(), None, 0, "plain")
    ended(progress, 2)
    assert "TTFT p50 –, p95 –" in progress.line()
    ended(progress, 4)
    assert "TTFT p50 30.0 ms, p95 –" in progress.line()
    ended(progress, 66, ttft_s=0.04)
    assert "TTFT p50 40.0 ms, p95 40.0 ms" in progress.line()


def test_budgets_are_not_pooled() -> None:
    """Ten answers of 1 s at 64 tokens and ten of 9 s at 256: no figure lies between."""
    progress = Progress(run(budgets=[64, 256]), 40, 0, "plain")
    ended(progress, 10, e2e_s=1.0)
    ended(progress, 10, e2e_s=9.0, budget=256)
    rows = {line.split()[0]: line for line in shown(progress).splitlines() if line.startswith(("64 ", "256 "))}
    assert "1.00 s" in rows["64"]
    assert "9.00 s" in rows["256"]
    assert "E2E" not in progress.line()


def test_warm_up_requests_count_neither_for_the_objectives_nor_for_percentiles() -> None:
    progress = Progress(run(slo=TTFT_S), 20, 0, "plain")
    ended(progress, 8, warmup=True, ttft_s=5.0)
    assert "(warm-up)" in progress.line()
    assert "SLO" not in progress.line()
    progress.load_begins((), None)
    ended(progress, 9)
    ended(progress, 1, outcome="reset", ttft_s=None)
    assert "SLO 90.0% [59.6%, 98.2%] of the last 10" in progress.line()
    assert "TTFT p50 30.0 ms" in progress.line()


@pytest.mark.parametrize(
    ("due_s", "duration_s", "planned", "end_s"),
    [
        ((), 120.0, None, 120.0),
        (array("d", [0.0, 30.0, 300.0]), None, 3, 300.0),
        (array("d", [0.0, 55.0]), 60.0, 2, 55.0),
    ],
    ids=["duration", "ramp", "open loop with a duration"],
)
def test_the_remaining_time_of_a_duration_and_a_ramp_does_not_depend_on_what_has_ended(
    due_s: Any, duration_s: float | None, planned: int | None, end_s: float
) -> None:
    """At a time scale of 2, the last request is due after half as many real seconds."""
    progress = Progress(run(time_scale=2.0), planned, 0, "plain")
    assert (progress.left_s(time.perf_counter()), progress.fraction(time.perf_counter())) == (None, None)
    before = time.perf_counter()
    progress.load_begins(due_s, duration_s)
    after = time.perf_counter()
    for count in (0, 1):
        ended(progress, count)
        left_s, done = progress.left_s(after + end_s / 8), progress.fraction(after + end_s / 8)
        assert left_s is not None
        assert done is not None
        assert end_s * 3 / 8 - (after - before) <= left_s + 1e-9
        assert left_s <= end_s * 3 / 8 + 1e-9
        assert done == pytest.approx(1 - left_s / (end_s / 2))
    assert (progress.left_s(after + end_s), progress.fraction(after + end_s)) == (0, 1)


def test_the_remaining_time_of_a_number_of_requests_comes_from_the_rate() -> None:
    progress = Progress(run(), 10, 0, "plain")
    progress.load_begins((), None)
    began = time.perf_counter()
    assert progress.left_s(began + 8) is None
    ended(progress, 4)
    assert progress.left_s(began + 8) == pytest.approx(12, rel=0.1)
    assert progress.fraction(began) == 0.4
    ended(progress, 6)
    assert (progress.left_s(began + 9), progress.fraction(began)) == (0, 1.0)
    assert "waiting for those in flight" in progress.line()


@pytest.mark.parametrize("width", [80, 160])
def test_the_view_fits_its_terminal_and_shows_no_markup_of_the_server(width: int) -> None:
    progress = Progress(run(model="m[red]x" * 20, budgets=[64, 65536], slo=TTFT_S), 2_000_000, 0, "auto")
    progress.load_begins((), None)
    ended(progress, 80, e2e_s=12345.6, ttft_s=999.9, tpot_s=10.1)
    ended(progress, 80, e2e_s=12345.6, budget=65536, outcome="server_error")
    page = shown(progress, width)
    assert max(map(len, page.splitlines())) <= width
    assert "m[red]x" in page
    assert "failed     80 (server_error 80)" in page


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (3.456, "3 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_a_duration_has_a_suitable_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
