"""A run judges itself: each reason by the evidence that causes it."""

from typing import Any

import pytest

from loadgen.measure.observations import Observations
from loadgen.measure.summary import RunFacts, Sums, goodput
from loadgen.measure.verdict import VerdictInputs, judge
from loadgen.record import Record, RunInfo

QUIET = {"loop_lag_p99_s": 0.0011, "cpu_share": 0.2, "workers": 1}


def record(seq: int, **more: Any) -> Record:
    fields: dict[str, Any] = {
        "run_id": "r", "seq": seq, "problem_id": "p", "budget": 64, "due_s": 0.0, "sent_s": seq * 0.1, "end_s": seq * 0.1 + 1,
        "ttft_s": 0.1, "tpot_s": 0.05, "e2e_s": 1.0, "e2e_due_s": 1.0, "send_lag_s": 0.0001, "prompt_tokens": 100,
        "completion_tokens": 20, "outcome": "ok", "finish_reason": "stop",
    }  # fmt: skip
    return Record(**{**fields, **more})


def evidence(records: list[Record], **more: Any) -> VerdictInputs:
    facts = RunFacts()
    for row in records:
        facts.add(row, {})
    run = RunInfo(
        run_id="r", config="tp1", model="m", target="t", started_at="", clock={},
        load={"requests": more.pop("planned", len(records))}, time_scale=more.pop("scale", 1.0),
    )  # fmt: skip
    run.summary = {**facts.measured.described(), "throughput": {"chunks_per_s": 100.0}}
    before, after = more.pop("before", {}), more.pop("after", {})
    seen = Observations([], before, after, [], more.pop("clocks", []), [], more.pop("stopped", None))
    fields = {"client": QUIET, "cache_asked": None, "percentile": "p90"} | more
    return VerdictInputs(run, facts, seen, **fields)


RECORDS = [record(i) for i in range(100)]
HITS = "vllm:prefix_cache_hits_total"
QUERIES = "vllm:prefix_cache_queries_total"
BEHIND = "thinkload_emulator_behind_max_seconds"


def test_a_quiet_run_is_valid() -> None:
    assert judge(evidence(RECORDS)) == ("VALID", [])


@pytest.mark.parametrize(
    ("more", "verdict", "says"),
    [
        ({"planned": 101}, "INVALID", "1 of 101 records are missing"),
        ({"planned": 101, "stopped": "interrupted"}, "INVALID", "missing (interrupted)"),
        ({"before": {"a_total": 5.0}, "after": {"a_total": 3.0}}, "INVALID", "restarted"),
        ({"before": {"process_start_time_seconds": 5.0}, "after": {"process_start_time_seconds": 6.0}}, "INVALID", "restarted"),
        ({"client": QUIET | {"loop_lag_p99_s": 0.0052}}, "SUSPECT", "event-loop lag p99 5.2 ms"),
        ({"client": QUIET | {"cpu_share": 0.9}}, "SUSPECT", "90% of a core"),
        ({"capacity": {"events_per_s": 50.0}}, "SUSPECT", "beyond the 50"),
        ({"capacity": {"events_per_s": 60.0}, "client": QUIET | {"workers": 2}}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}}, "SUSPECT", "served 50.0% of the prompt tokens"),
        ({"before": {HITS: 7.0}, "after": {HITS: 7.0}}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}, "cache_asked": "keep"}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}, "cache_asked": "salt"}, "SUSPECT", "ignores cache_salt"),
        ({"before": {QUERIES: 0.0}, "after": {QUERIES: 0.0}, "cache_asked": "salt"}, "SUSPECT", "can't be asserted"),
        ({"after": {BEHIND: 0.02}}, "SUSPECT", "0.02 model seconds behind its clock"),
        ({"after": {BEHIND: 0.002}, "scale": 20.0, "client": QUIET | {"loop_lag_p99_s": 0.0}}, "SUSPECT", "behind"),
        ({"clocks": [1980.0] * 9 + [1200.0]}, "SUSPECT", "throttled: 1200 MHz"),
        ({"percentile": "p99"}, "SUSPECT", "100 requests can't carry a p99 (that takes 368)"),
    ],
)  # fmt: skip
def test_each_reason_has_its_evidence(more: dict[str, Any], verdict: str, says: str | None) -> None:
    found, reasons = judge(evidence(RECORDS, **more))
    assert found == verdict, reasons
    assert says is None or says in reasons[0]


def test_lag_is_held_against_the_tokens_pace() -> None:
    """2.5 ms is nothing at 50 ms a token, too much at 10."""
    fast = [record(i, tpot_s=0.010) for i in range(100)]
    lagging = QUIET | {"loop_lag_p99_s": 0.0025}
    assert judge(evidence(RECORDS, client=lagging))[0] == "VALID"
    assert judge(evidence(fast, client=lagging))[0] == "SUSPECT"


def test_failures_of_the_server_are_suspect_and_of_this_machine_invalid() -> None:
    server = [*RECORDS, *(record(100 + i, outcome="reset", error="connection lost") for i in range(6))]
    ours = [
        *RECORDS,
        *(record(100 + i, outcome="refused", error="client: too many open files") for i in range(6)),
    ]
    assert judge(evidence(server))[0] == "SUSPECT"
    verdict, reasons = judge(evidence(ours))
    assert (verdict, "this machine's own limits" in reasons[0]) == ("INVALID", True)


def test_send_lag_is_real_time_on_a_fast_server() -> None:
    """60 model ms at speed 20 are 3 real ms."""
    late = [record(i, send_lag_s=0.06) for i in range(100)]
    assert "send lag p99 60" in judge(evidence(late))[1][0]
    scaled = evidence(late, scale=20.0, client=QUIET | {"loop_lag_p99_s": 0.0})
    assert judge(scaled) == ("VALID", [])


def test_hits_of_second_calls_are_meant() -> None:
    """A forced answer's prompt is served by the cache on purpose."""
    phases = [{"prompt_tokens": 100}, {"prompt_tokens": 164}]
    forced = [record(i, phases=phases) for i in range(100)]
    assert judge(evidence(forced, before={HITS: 0.0}, after={HITS: 16000.0}))[0] == "VALID"


def test_goodput_counts_every_request_that_was_sent() -> None:
    """Half fail: at most half are good, however fast the others were."""
    sums = Sums()
    for row in [*RECORDS[:10], *(record(i, outcome="reset") for i in range(10))]:
        sums.add(row, {"e2e": 2.0, "tpot": 0.1})
    found = goodput(sums, {"e2e": 2.0, "tpot": 0.1}, 10.0)
    assert (found["good"], found["share"], found["requests_per_s"]) == (10, 0.5, 1.0)
    assert found["interval"][0] < 0.5 < found["interval"][1]
