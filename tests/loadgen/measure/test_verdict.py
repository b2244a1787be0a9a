"""Each reason of a verdict, with the inputs that cause it."""

from typing import Any

import pytest

from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import RequestTotals, RunFacts
from loadgen.measure.summary import goodput
from loadgen.measure.verdict import judge
from loadgen.record import Record, RunInfo

IDLE = {"loop_lag_p99_s": 0.0011, "cpu_share": 0.2, "workers": 1}


def record(seq: int, **more: Any) -> Record:
    fields: dict[str, Any] = {
        "run_id": "r", "seq": seq, "problem_id": "p", "budget": 64, "due_s": 0.0, "sent_s": seq * 0.1, "end_s": seq * 0.1 + 1,
        "ttft_s": 0.1, "tpot_s": 0.05, "e2e_s": 1.0, "e2e_due_s": 1.0, "send_lag_s": 0.0001, "prompt_tokens": 100,
        "completion_tokens": 20, "outcome": "ok", "finish_reason": "stop",
    }  # fmt: skip
    return Record(**{**fields, **more})


def inputs(records: list[Record], **more: Any) -> tuple[RunInfo, RunFacts, Observations, dict[str, Any] | None]:
    facts = RunFacts()
    for row in records:
        facts.add(row, {})
    run = RunInfo(
        run_id="r", config="tp1", model="m", target="t", started_at="", clock={},
        load={"requests": more.pop("planned", len(records))}, time_scale=more.pop("scale", 1.0),
    )  # fmt: skip
    run.summary = {**facts.measured.described(), "throughput": {"chunks_per_s": 100.0}}
    before, after = more.pop("before", {}), more.pop("after", {})
    observations = Observations([], before, after, [], more.pop("clocks", []), [], more.pop("stopped", None))
    run.client = more.pop("client", IDLE)
    capacity = more.pop("capacity", None)
    run.options = {"cache": None, "percentile": "p90"} | more
    return run, facts, observations, capacity


RECORDS = [record(i) for i in range(100)]
HITS = "vllm:prefix_cache_hits_total"
QUERIES = "vllm:prefix_cache_queries_total"
BEHIND = "thinkload_emulator_behind_max_seconds"


def test_a_run_without_any_reason_is_valid() -> None:
    assert judge(*inputs(RECORDS)) == ("VALID", [])


@pytest.mark.parametrize(
    ("more", "verdict", "says"),
    [
        ({"planned": 101}, "INVALID", "1 of 101 records are missing"),
        ({"planned": 101, "stopped": "interrupted"}, "INVALID", "missing (interrupted)"),
        ({"before": {"a_total": 5.0}, "after": {"a_total": 3.0}}, "INVALID", "restarted"),
        ({"before": {"process_start_time_seconds": 5.0}, "after": {"process_start_time_seconds": 6.0}}, "INVALID", "restarted"),
        ({"client": IDLE | {"loop_lag_p99_s": 0.0052}}, "SUSPECT", "event-loop lag p99 5.2 ms"),
        ({"client": IDLE | {"cpu_share": 0.9}}, "SUSPECT", "90% of a core"),
        ({"capacity": {"events_per_s": 50.0}}, "SUSPECT", "beyond the 50"),
        ({"capacity": {"events_per_s": 60.0}, "client": IDLE | {"workers": 2}}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}}, "SUSPECT", "served 50.0% of the prompt tokens"),
        ({"before": {HITS: 7.0}, "after": {HITS: 7.0}}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}, "cache": "keep"}, "VALID", None),
        ({"before": {HITS: 0.0}, "after": {HITS: 5000.0}, "cache": "salt"}, "SUSPECT", "ignores cache_salt"),
        ({"before": {QUERIES: 0.0}, "after": {QUERIES: 0.0}, "cache": "salt"}, "SUSPECT", "can't be verified"),
        ({"after": {BEHIND: 0.02}}, "SUSPECT", "0.02 model seconds behind its clock"),
        ({"after": {BEHIND: 0.002}, "scale": 20.0, "client": IDLE | {"loop_lag_p99_s": 0.0}}, "SUSPECT", "behind"),
        ({"clocks": [1980.0] * 9 + [1200.0]}, "SUSPECT", "throttled: 1200 MHz"),
        ({"percentile": "p99"}, "SUSPECT", "100 successful requests are too few for p99, which needs 368"),
    ],
)  # fmt: skip
def test_each_reason_is_given_where_it_applies(more: dict[str, Any], verdict: str, says: str | None) -> None:
    found, reasons = judge(*inputs(RECORDS, **more))
    assert found == verdict, reasons
    assert says is None or says in reasons[0]


def test_the_limit_on_lag_depends_on_the_tpot() -> None:
    """A lag of 2.5 ms is below the limit at 50 ms per token and above it at 10 ms."""
    fast = [record(i, tpot_s=0.010) for i in range(100)]
    lagging = IDLE | {"loop_lag_p99_s": 0.0025}
    assert judge(*inputs(RECORDS, client=lagging))[0] == "VALID"
    assert judge(*inputs(fast, client=lagging))[0] == "SUSPECT"


def test_failures_of_the_server_are_suspect_and_those_of_this_machine_are_invalid() -> None:
    server = [*RECORDS, *(record(100 + i, outcome="reset", error="connection lost") for i in range(6))]
    ours = [*RECORDS, *(record(100 + i, outcome="refused", error="client: too many open files") for i in range(6))]
    assert judge(*inputs(server))[0] == "SUSPECT"
    verdict, reasons = judge(*inputs(ours))
    assert (verdict, "this machine's own limits" in reasons[0]) == ("INVALID", True)


def test_a_fifth_of_failures_is_invalid_unless_failures_are_measured() -> None:
    failing = [*RECORDS, *(record(100 + i, outcome="reset", error="connection lost") for i in range(26))]
    verdict, reasons = judge(*inputs(failing))
    assert (verdict, "--expect-failures" in reasons[0]) == ("INVALID", True)
    measured = inputs(failing)
    measured[0].options["expect_failures"] = True
    assert judge(*measured)[0] == "SUSPECT"
    assert judge(*inputs(failing[:125]))[0] == "SUSPECT"


def test_the_limit_on_send_lag_is_real_time() -> None:
    """60 ms of model time at time scale 20 are 3 ms of real time."""
    late = [record(i, send_lag_s=0.06) for i in range(100)]
    assert "send lag p99 60" in judge(*inputs(late))[1][0]
    scaled = inputs(late, scale=20.0, client=IDLE | {"loop_lag_p99_s": 0.0})
    assert judge(*scaled) == ("VALID", [])


def test_cache_hits_of_second_calls_are_intended() -> None:
    """The prefix cache is meant to serve the prompt of a forced answer."""
    phases = [{"prompt_tokens": 100}, {"prompt_tokens": 164}]
    forced = [record(i, phases=phases) for i in range(100)]
    assert judge(*inputs(forced, before={HITS: 0.0}, after={HITS: 16000.0}))[0] == "VALID"


@pytest.mark.parametrize(("chunks", "truncated", "doubtful"), [(20, 21, True), (20, 20, False), (400, 21, False)])
def test_an_end_token_is_doubted_where_truncated_answers_count_it_too(
    chunks: int, truncated: int, doubtful: bool
) -> None:
    """A truncated answer of 20 chunks has no end token. The doubt matters where one token is more than 1 % of an answer."""
    ended = [record(i, token_source="chunks_and_end", chunks=chunks, completion_tokens=chunks + 1) for i in range(99)]
    cut = record(99, token_source="usage", chunks=20, completion_tokens=truncated, finish_reason="length")
    verdict, reasons = judge(*inputs([*ended, cut]))
    assert (verdict, len(reasons)) == (("SUSPECT", 1) if doubtful else ("VALID", 0)), reasons
    if doubtful:
        assert reasons[0].endswith("so do 1 truncated answers, which have none: TPOT may be too high by up to 5%")


def test_goodput_is_a_share_of_every_request_that_was_sent() -> None:
    """Where half of the requests fail, at most half are good, however fast the others were."""
    totals = RequestTotals()
    for row in [*RECORDS[:10], *(record(i, outcome="reset") for i in range(10))]:
        totals.add(row, {"e2e": 2.0, "tpot": 0.1})
    found = goodput(totals, {"e2e": 2.0, "tpot": 0.1}, 10.0)
    assert (found["good"], found["share"], found["requests_per_s"]) == (10, 0.5, 1.0)
    assert found["interval"][0] < 0.5 < found["interval"][1]


@pytest.mark.parametrize(
    ("fields", "count", "says"),
    [
        (
            {"counts_disagree": "completion_tokens is 4, but total_tokens − prompt_tokens is 64"},
            1,
            "contradict each other in 1 of 100 answers, for example: completion_tokens is 4, but total_tokens − prompt_tokens is 64",
        ),
        ({"token_source": "chunks"}, 1, "no number of tokens in 1 of 100 answers: each chunk of a stream is counted as one token"),
        (
            {"clumped_share": 0.9, "chunks": 20},
            6,
            "6 of 100 answers arrived in clumps (90% of all token events came together with another one; limit 5% of the answers)",
        ),
        ({"finish_reason": "banana"}, 1, "unknown finish reasons ('banana' 1)"),
        ({"streamed": False, "token_source": "usage"}, 1, "1 of 100 answers came in one JSON body although a stream was asked for"),
        ({"e2e_s": None}, 2, "2 of 100 answers brought no token (limit 1%)"),
        (
            {"budget_mode": "native", "reasoning_tokens": 97},
            1,
            "1 of 100 answers have over 32 reasoning tokens more than their budget: the server does not keep thinking_token_budget",
        ),
        ({"other_choices": True}, 1, "1 of 100 answers came with further choices that nobody asked for"),
    ],
)  # fmt: skip
def test_a_stream_that_is_not_what_it_seems_is_suspect(fields: dict[str, Any], count: int, says: str) -> None:
    odd = [record(i, **fields) for i in range(count)]
    verdict, reasons = judge(*inputs([*odd, *RECORDS[count:]]))
    assert (verdict, len(reasons)) == ("SUSPECT", 1)
    assert says in reasons[0]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"clumped_share": 0.9, "chunks": 20}, 5),
        ({"clumped_share": 0.4, "chunks": 20}, 100),
        ({"e2e_s": None}, 1),
        ({"finish_reason": "tool_calls"}, 100),
        ({"token_source": "corrected_usage", "chunks": 20}, 100),
        ({"budget_mode": "native", "reasoning_tokens": 96}, 100),
        ({"budget_mode": "prompt", "reasoning_tokens": 97}, 100),
    ],
)
def test_what_is_normal_or_rare_is_no_reason(fields: dict[str, Any], count: int) -> None:
    odd = [record(i, **fields) for i in range(count)]
    assert judge(*inputs([*odd, *RECORDS[count:]])) == ("VALID", [])


def test_idle_connections_that_the_server_closed_are_counted() -> None:
    error = "the server closed the idle connection as the request was sent: no answer"
    odd = [record(i, outcome="reset", error=error, connection_reused=True) for i in range(2)]
    assert (
        "requests that met an idle connection as the server closed it: 2" in judge(*inputs([*odd, *RECORDS[2:]]))[1][1]
    )


def test_an_answer_in_one_body_is_no_reason_where_no_stream_was_asked_for() -> None:
    given = inputs([record(i, streamed=False, token_source="usage") for i in range(100)])
    given[0].options["stream"] = False
    assert judge(*given) == ("VALID", [])
    uncounted = inputs([record(i, streamed=False, completion_tokens=None) for i in range(100)])
    uncounted[0].options["stream"] = False
    assert "no number of tokens in 100 of 100 answers" in judge(*uncounted)[1][0]
