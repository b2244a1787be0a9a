"""Decides whether a run can be trusted: VALID, SUSPECT or INVALID, with the reasons.

INVALID means that the figures are not those of the load that was asked for. SUSPECT means that the figures may be due to the
client, the prefix cache or chance. Every limit is in `LIMITS` and is printed with the reason that it caused. Limits on the
client's own lag apply to real time, whatever the server's time scale is.

This module does not know whether a configuration is good: a slow or failing server can be measured validly.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from loadgen.measure.observations import REPLICAS, WAITING, Observations
from loadgen.measure.quantiles import LEVELS, least_sample
from loadgen.measure.run_facts import RequestTotals, RunFacts
from loadgen.measure.saturation import achieved_rate
from loadgen.option_types import synthetic
from loadgen.options import DEFAULTS
from loadgen.record import RunInfo, Verdict

RESTARTED = "the server was restarted during the run"
LIMITS = {
    "client_faults_share": 0.05,  # The run is INVALID if more requests failed by limits of the client's machine.
    "loop_lag_p99_s": 0.005,
    "loop_lag_of_tpot": 0.10,  # The limit is this share of the median TPOT where that is less than 5 ms,
    "loop_lag_least_s": 0.002,  # but at least 2 ms: uvloop's timers count whole ms, so an idle loop shows 1 ms.
    "send_lag_p99_s": 0.005,
    "cpu_cores": 0.80,
    "failed_share": 0.01,
    "failed_most_share": 0.20,  # The run is INVALID if more requests failed, unless --expect-failures says that this is measured.
    "cache_hit_share": 0.01,  # Share of the prompt tokens, where no cache hits were intended.
    "behind_of_e2e": 0.01,  # How far an emulated server may fall behind its clock, as a share of the median e2e.
    "clock_drop": 0.20,  # How far the lowest SM clock may be below the median of the run.
}


LASTING = ("client:", "the emulated server", "GPU clocks", "the prefix cache", "--cache", RESTARTED)
"""Prefixes of reasons that are kept when a run is resumed, because the records alone would not show them again."""


def before_resuming(run: RunInfo) -> dict[str, Any]:
    """Return what counts against the parts of a run that is about to be resumed, for `earlier` in `RunInfo.client`.

    `killed` is the number of parts that ended without a verdict, or without the report of every client process.
    """
    earlier = _earlier(run)
    lasting = [reason for reason in run.reasons if reason.startswith(LASTING)]
    reasons = list(dict.fromkeys([*earlier["reasons"], *lasting]))
    reported = run.client.keys() - {"earlier"}
    killed = run.verdict is None or not reported
    return {"reasons": reasons, "killed": earlier["killed"] + killed}


def _earlier(run: RunInfo) -> dict[str, Any]:
    earlier: dict[str, Any] = run.client.get("earlier", {})
    return {"reasons": [], "killed": 0} | earlier


def judge(
    run: RunInfo,
    facts: RunFacts,
    observations: Observations,
    capacity: dict[str, Any] | None = None,
    doubts: Iterable[str] = (),
) -> tuple[Verdict, list[str]]:
    """Return the verdict and every reason against VALID, with those for INVALID first.

    `capacity` is what `loadgen calibrate` measured on this machine. `doubts` are further reasons to call the run SUSPECT.
    """
    invalid = list(_invalid(run, facts, observations))
    suspect = [*_suspect(run, facts, observations, capacity), *doubts]
    verdict: Verdict = "INVALID" if invalid else "SUSPECT" if suspect else "VALID"
    return verdict, invalid + suspect


def _invalid(run: RunInfo, facts: RunFacts, observations: Observations) -> Iterator[str]:
    measured, planned = facts.measured, run.load.get("requests")
    recorded = measured.n + facts.checks.n
    if planned is not None and recorded != planned:
        why = f" ({observations.stopped})" if observations.stopped else ""
        yield f"{planned - recorded} of {planned} records are missing{why}: complete the run with --resume"
    elif observations.stopped:
        yield f"the run was stopped early: {observations.stopped}"
    if measured.n == 0:
        yield "no request was measured"
        return
    if _restarted(observations.before, observations.after) or RESTARTED in _earlier(run)["reasons"]:
        yield RESTARTED
    share = facts.client_faults / measured.n
    if share > LIMITS["client_faults_share"]:
        yield f"{share:.1%} of the requests failed because of this machine's own limits (open files, ports, memory)"
    failed = measured.failed / measured.n
    if failed > LIMITS["failed_most_share"] and not run.options.get("expect_failures"):
        yield f"{failed:.0%} of the requests failed (limit {LIMITS['failed_most_share']:.0%}): if failures are what is measured, use --expect-failures"
    if measured.outcomes["ok"] == 0:
        yield "no request succeeded: " + ", ".join(f"{k} {v}" for k, v in measured.outcomes.items())


def _restarted(before: dict[str, float], after: dict[str, float]) -> bool:
    """Tell whether the server's process was started again or one of its counters went back.

    Where several servers answer at one address, the two pages may be those of two servers: this says nothing of a restart.
    """
    if not before or not after or _replicas(before, after) > 1:
        return False
    start = "process_start_time_seconds"
    if before.get(start) != after.get(start):
        return True
    return any(after.get(name, 0.0) < value for name, value in before.items() if name.endswith("_total"))


def _replicas(before: dict[str, float], after: dict[str, float]) -> int:
    """Return how many servers answered at the address. A process that started earlier than the first one seen is another."""
    start = "process_start_time_seconds"
    earlier = start in before and start in after and after[start] < before[start]
    seen = max(before.get(REPLICAS, 1.0), after.get(REPLICAS, 1.0))
    return max(int(seen), 2 if earlier else 1)


def _suspect(
    run: RunInfo, facts: RunFacts, observations: Observations, capacity: dict[str, Any] | None
) -> Iterator[str]:
    if facts.measured.n == 0:
        return
    yield from _client(run, facts, capacity or {})
    rate = None if run.segments else achieved_rate(facts.spans, run.load)
    if rate is not None and rate.reason:
        yield rate.reason + _server_queue(observations)
    yield from _server(run, facts, observations)
    yield from facts.streams.reasons(stream_asked=run.options.get("stream", True))
    yield from _cache(run, facts, observations)
    yield from _lengths(run, facts.measured)
    percentile = run.options.get("percentile", DEFAULTS.percentile)
    ok, needed = facts.measured.outcomes["ok"], least_sample(LEVELS[percentile])
    if ok < needed:
        yield f"{ok} successful requests are too few for {percentile}, which needs {needed}: use more --problems, --samples or --repeats"
    earlier = _earlier(run)
    yield from (f"before it was resumed: {reason}" for reason in earlier["reasons"] if reason != RESTARTED)
    if earlier["killed"]:
        yield f"{earlier['killed']} earlier parts were killed: the state of the client in them is not known"


def _client(run: RunInfo, facts: RunFacts, capacity: dict[str, Any]) -> Iterator[str]:
    scale, summary, client = run.time_scale, run.summary, run.client
    lag_s = client.get("loop_lag_p99_s")
    tpot_s = (summary["tpot_s"]["p50"] or 0.0) / scale
    share_s = max(LIMITS["loop_lag_of_tpot"] * tpot_s, LIMITS["loop_lag_least_s"]) if tpot_s else 1.0
    limit_s = min(LIMITS["loop_lag_p99_s"], share_s)
    if lag_s is not None and lag_s > limit_s:
        yield f"client: event-loop lag p99 {lag_s * 1e3:.2g} ms (limit {limit_s * 1e3:.2g} ms): the load is too high for this machine"
    send_lag_s = _nearest_rank(facts.measured.values("send_lag_s"), 0.99)
    if send_lag_s is not None and send_lag_s / scale > LIMITS["send_lag_p99_s"]:
        yield f"client: send lag p99 {send_lag_s / scale * 1e3:.3g} ms (limit {LIMITS['send_lag_p99_s'] * 1e3:g} ms)"
    cores = client.get("cpu_share") or 0.0
    if cores > LIMITS["cpu_cores"]:
        yield f"client: {cores:.0%} of a core (limit {LIMITS['cpu_cores']:.0%}): use more --workers or another machine"
    rate, most = summary["throughput"].get("chunks_per_s"), capacity.get("events_per_s")
    if rate and most and rate * scale > most * (client.get("workers") or 1):
        yield f"client: {rate * scale:,.0f} events/s is beyond the {most:,.0f} events/s that calibrate measured on this machine"


def _nearest_rank(values: Sequence[float], level: float) -> float | None:
    """Return a quantile however few values there are. It is compared with a limit and not reported."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(level * len(values)))]


def _server_queue(observations: Observations) -> str:
    """Return what the server says of its own queue. A queue of one server among several says nothing of the others."""
    if observations.waiting is None or _replicas(observations.before, observations.after) > 1:
        return ""
    before = observations.before[WAITING]
    return f"; {WAITING} of the server was {before:g} before the run and {observations.waiting:g} at the last request"


def _server(run: RunInfo, facts: RunFacts, observations: Observations) -> Iterator[str]:
    measured = facts.measured
    share = measured.failed / measured.n
    if share > LIMITS["failed_share"]:
        kinds = ", ".join(f"{k} {v}" for k, v in measured.outcomes.most_common() if k != "ok")
        yield f"{share:.1%} of the requests failed ({kinds}; limit {LIMITS['failed_share']:.0%})"
    behind_s = _behind_s(observations.before, observations.after) * run.time_scale
    e2e_s = run.summary["e2e_s"]["p50"]
    if e2e_s and behind_s > LIMITS["behind_of_e2e"] * e2e_s:
        yield (
            f"the emulated server fell {behind_s:.3g} model seconds behind its clock "
            f"(limit {LIMITS['behind_of_e2e']:.0%} of the median e2e, {LIMITS['behind_of_e2e'] * e2e_s:.3g} s): lower its --speed"
        )
    replicas = _replicas(observations.before, observations.after)
    if replicas > 1:
        yield (
            f"{replicas} servers answer at this address (their processes started at different times): the server's counters, "
            "such as cache hits and speculation, are those of one of them, and --num-gpus must be the GPUs of all"
        )
    clocks = sorted(observations.clocks_mhz)
    if clocks and clocks[0] < (1 - LIMITS["clock_drop"]) * clocks[len(clocks) // 2]:
        yield f"GPU clocks were throttled: {clocks[0]:.0f} MHz at the lowest, {clocks[len(clocks) // 2]:.0f} at the median"


def _behind_s(before: dict[str, float], after: dict[str, float]) -> float:
    """Return how many real seconds an emulated server was behind its clock at most, during this run."""
    name = "thinkload_emulator_behind_max_seconds"
    most_s = after.get(name, 0.0)
    return most_s if most_s > before.get(name, 0.0) else after.get("thinkload_emulator_behind_seconds", 0.0)


def _cache(run: RunInfo, facts: RunFacts, observations: Observations) -> Iterator[str]:
    cache, share = run.options.get("cache"), _hit_share(facts, observations)
    if share is None:
        if cache in ("salt", "reset"):
            yield f"--cache {cache} can't be verified: the server has no prefix_cache_hits counter"
        return
    if cache == "keep" or share <= LIMITS["cache_hit_share"]:
        return
    hint = {
        "salt": "although every request was salted: the server ignores cache_salt",
        "reset": "although it was reset before the run: requests for the same problem (other budgets or samples) hit each other's entries; use --cache salt",
        None: "which hides the cost of prefill: use --cache salt, or --cache keep if this is intended",
    }[cache]
    yield f"the prefix cache served {share:.1%} of the prompt tokens, {hint}"


def _hit_share(facts: RunFacts, observations: Observations) -> float | None:
    """Return the share of prompt tokens that the prefix cache served, or None where the server does not count them.

    The prompt tokens of second calls (budget mode `forced`) are left out, because the cache is meant to serve them.
    """
    hits_name, queries_name = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
    before, after = observations.before, observations.after
    if hits_name not in after:
        return None
    hits = after[hits_name] - before.get(hits_name, 0.0)
    queries = after.get(queries_name, 0.0) - before.get(queries_name, 0.0)
    prompt_tokens = max(queries, float(facts.measured.prompt_tokens + facts.checks.prompt_tokens))
    return max(0.0, hits - facts.continued_tokens) / prompt_tokens if prompt_tokens else 0.0


def _lengths(run: RunInfo, measured: RequestTotals) -> Iterator[str]:
    """Whether synthetic prompts and their replies have the lengths that were asked for, where the server promises that."""
    asked = synthetic(str(run.options.get("dataset")))
    if asked is None:
        return
    mean = measured.prompt_tokens / measured.n
    differs = mean > 0 and abs(mean - asked.input.mean) > asked.input.spread
    if differs and not measured.failed and run.dataset.get("exact_tokens"):
        yield f"the prompts have the lengths of --dataset by the server's /tokenize, but {mean:,.4g} tokens on average by its usage"
    body, ended = run.options.get("extra_body", {}), measured.finish["stop"]
    if ended and body.get("ignore_eos") and not body.keys() & {"stop", "stop_token_ids"}:
        yield f"{ended} of {measured.n} replies ended by themselves: the server ignores ignore_eos, so they do not have the length of --dataset"
