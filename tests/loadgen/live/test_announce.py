"""What is said at the end of a run: the exit code, the JUnit file, and the block for people, from runs worked out by hand."""

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from loadgen.live.announce import exit_code, write_junit
from loadgen.measure.console_table import final_block
from loadgen.record import RunInfo


def requirement(*, met: bool, text: str = "ttft.p95<200ms") -> dict[str, Any]:
    return {"text": text, "value": 0.15 if met else 0.25, "met": met, "why": None if met else "measured: 250 ms"}


def latency(n: int = 400, p99: float | None = 1.5, **interval: list[float]) -> dict[str, Any]:
    return {"p50": 0.0123, "p90": 0.2, "p95": 0.9, "p99": p99, "mean": 0.1, "n": n, "interval": interval}


def run(*, ok: int = 400, failed: int = 0, **more: Any) -> RunInfo:
    outcomes = {"ok": ok} | ({"server_error": failed} if failed else {})
    budgets = {
        key: {name: latency(n, 1.5 if n >= 368 else None) for name in ("ttft_s", "tpot_s", "e2e_s")}
        for key, n in (("1024", 400), ("4096 derived", 300))
    }
    summary: dict[str, Any] = {
        "requests": ok + failed,
        "planned": ok + failed,
        "outcomes": outcomes,
        "budgets": budgets,
        "throughput": {"duration_s": 64.0, "requests_per_s": 6.25, "completion_tokens_per_s": 21324.6, "gpu_seconds_per_token_wall": 0.00055},
        "steady": {"window_s": [10.0, 60.0], "share": 0.78, "completion_tokens_per_s": 22000.0, "gpu_seconds_per_token": 0.0005},
        "goodput": {"slo": {"ttft": 0.2, "e2e": 30.0}, "share": 0.955, "interval": (0.93, 0.972)},
        "send_lag_s": latency(800),
    }  # fmt: skip
    if failed:
        text = "no slot: \x1b[31m" + "queue is full " * 10
        summary["errors"] = [{"count": failed, "outcome": "server_error", "text": text}]
    fields: dict[str, Any] = {"run_id": "r", "config": "tp2", "model": "m[red]", "target": "t", "started_at": "now"}
    fields |= {"clock": {}, "verdict": "VALID", "summary": summary, "load": {"kind": "closed", "concurrency": 8}}
    return RunInfo(**{**fields, **more})


@pytest.mark.parametrize(
    ("found", "strict", "code"),
    [
        (run(), True, 0),
        (run(requirements=[requirement(met=True)]), True, 0),
        (run(requirements=[requirement(met=True), requirement(met=False)]), False, 1),
        (run(ok=200, failed=200, verdict="SUSPECT"), False, 0),
        (run(verdict="SUSPECT"), False, 0),
        (run(verdict="SUSPECT"), True, 3),
        (run(verdict="SUSPECT", requirements=[requirement(met=False)]), True, 1),
        (run(verdict="INVALID"), False, 4),
        (run(verdict="INVALID", requirements=[requirement(met=False)]), True, 4),
        (run(verdict=None, summary={}), True, 0),
    ],
)
def test_the_table_of_exit_codes(found: RunInfo, strict: bool, code: int) -> None:
    assert exit_code(found, strict=strict) == code


@given(st.text(), st.text(), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junit_can_be_parsed_whatever_the_texts_are(tmp_path: Path, reason: str, name: str, run_id: str) -> None:
    row = requirement(met=False, text=name) | {"why": reason}
    found = run(run_id=run_id, verdict="INVALID", reasons=[reason], requirements=[row])
    write_junit(tmp_path / "junit.xml", found, strict=False)
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert [len(case.findall("failure")) for case in suite.findall("testcase")] == [1, 1]
    assert all(ord(character) >= 32 or character == "\n" for character in "".join(suite.itertext()))


def test_junit_fails_for_a_suspect_run_with_strict_only(tmp_path: Path) -> None:
    found = run(verdict="SUSPECT", reasons=["the client was late"])
    for strict in (False, True):
        write_junit(tmp_path / "junit.xml", found, strict=strict)
        suite = ET.parse(tmp_path / "junit.xml").getroot()
        assert suite.get("failures") == str(int(strict))
        assert "the client was late" in "".join(suite.itertext())


def block(found: RunInfo, width: int, *, verbose: bool = False) -> str:
    page = io.StringIO()
    console = Console(file=page, width=width)
    console.print(final_block(found, Path("results") / "r", width, verbose=verbose))
    return page.getvalue()


BLOCK = """\
VALID      tp2 · m[red]
requests   800 in 64 s, 8 in flight; 400 failed (50.0%: server_error 400)
errors     400 × server_error: no slot: \\x1b[31mqueue is full queue is full
           queue is full queue is full queue is full queue is full queue is full
           queue is full queue is full queue is full
whole run  6.25 requests/s, 21,325 tokens/s, 0.55 GPU-seconds per 1,000 tokens,
           $0.458 per million tokens
steady     10 to 60 s, 78% of the run: 22,000 tokens/s, 0.5 GPU-seconds per
           1,000 tokens, $0.417 per million tokens
SLO        95.5% [93.0%, 97.2%] of the requests within ttft 200 ms, e2e 30.0 s
required   met      ttft.p95<200ms: 150 ms
           NOT MET  ttft.p95<200ms: 250 ms
results    results/r

latency         budget    n      p50     p95     p99
TTFT             1,024  400  12.3 ms  900 ms  1.50 s
TTFT     4,096 derived  300  12.3 ms  900 ms       –
TPOT             1,024  400  12.3 ms  900 ms  1.50 s
TPOT     4,096 derived  300  12.3 ms  900 ms       –
E2E              1,024  400  12.3 ms  900 ms  1.50 s
E2E      4,096 derived  300  12.3 ms  900 ms       –
– too few requests on this line: it takes 368 for p99
Latencies are those of the successful requests.
"""


def test_the_block_of_a_run_worked_out_by_hand() -> None:
    required = [requirement(met=True), requirement(met=False)]
    shown = block(run(failed=400, price_per_gpu_hour=3.0, requirements=required), 80)
    assert "\n".join(line.rstrip() for line in shown.splitlines()) + "\n" == BLOCK


def test_lag_and_raw_gaps_are_shown_if_asked_for_and_intervals_on_a_wide_terminal() -> None:
    found = run(client={"loop_lag_p99_s": 0.00123, "cpu_share": 0.25})
    found.summary["budgets"] = {"1024": {name: latency() for name in ("ttft_s", "tpot_s", "e2e_s")}}
    found.summary |= {name: latency(p50=[0.01, 0.0156]) for name in ("ttft_s", "inter_chunk_s")}
    for width in (80, 129):
        assert "send lag" not in block(found, width)
        assert "interval" not in block(found, width)
    wide = block(found, 130, verbose=True)
    assert max(map(len, wide.splitlines())) <= 130
    assert "[10.0 ms, 15.6 ms]" in wide
    for text in ("raw gaps", "send lag", "loop lag p99 1.23 ms, 25% of a core"):
        assert text in wide
