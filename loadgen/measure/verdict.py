"""A run judges itself: VALID, SUSPECT or INVALID, with reasons.

Rules: every limit is in LIMITS, printed with the reason it caused; limits on the generator's own lag are real time,
whatever the server's time scale. INVALID: the figures are not of what was asked. SUSPECT: they may be the client's,
the cache's or chance.

Does not know: whether a configuration is good; a slow or failing server can be measured validly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.measure.observations import Observations
from loadgen.measure.quantiles import LEVELS, least_sample
from loadgen.measure.summary import RunFacts
from loadgen.record import RunInfo, Verdict

RESTARTED = "the server was restarted during the run"
LIMITS = {
    "client_faults_share": 0.05,  # INVALID above: requests failed by this machine's own limits
    "loop_lag_p99_s": 0.005,
    "loop_lag_of_tpot": 0.10,  # … or of the median TPOT, whichever is less
    "loop_lag_least_s": 0.002,  # but never below: uvloop's timers count whole ms, so an idle loop shows 1
    "send_lag_p99_s": 0.005,
    "cpu_cores": 0.80,
    "failed_share": 0.01,
    "cache_hit_share": 0.01,  # of prompt tokens, where no hits were meant
    "behind_of_e2e": 0.01,  # an emulator behind its clock, of the median e2e
    "clock_drop": 0.20,  # lowest SM clock below the median of the run
}


LASTING = ("client:", "the emulated server", "GPU clocks", "the prefix cache", "--cache", RESTARTED)
"""How reasons begin that the records alone would not show again after a resume."""


@dataclass(frozen=True)
class Earlier:
    """What is held against the parts of a run before its last resume."""

    reasons: tuple[str, ...] = ()
    killed: int = 0
    """Parts that ended without judging themselves."""

    @classmethod
    def of(cls, run: RunInfo) -> "Earlier":
        """From a run that is about to be resumed."""
        before = cls.stored(run)
        lasting = [reason for reason in run.reasons if reason.startswith(LASTING)]
        return cls(tuple(dict.fromkeys((*before.reasons, *lasting))), before.killed + (run.verdict is None))

    @classmethod
    def stored(cls, run: RunInfo) -> "Earlier":
        """As kept in run.json."""
        kept = run.client.get("earlier", {})
        return cls(tuple(kept.get("reasons", ())), kept.get("killed", 0))


@dataclass(frozen=True)
class VerdictInputs:
    """What is judged."""

    run: RunInfo
    facts: RunFacts
    seen: Observations
    client: dict[str, Any]
    cache_asked: str | None
    percentile: str
    capacity: dict[str, Any] | None = None
    """What `calibrate` found on this machine."""
    earlier: Earlier = Earlier()


def judge(evidence: VerdictInputs) -> tuple[Verdict, list[str]]:
    """The verdict and every reason against VALID, the worst first."""
    invalid = list(_invalid(evidence))
    suspect = list(_suspect(evidence))
    verdict: Verdict = "INVALID" if invalid else "SUSPECT" if suspect else "VALID"
    return verdict, invalid + suspect


def _invalid(e: VerdictInputs) -> Iterator[str]:
    measured = e.facts.measured
    planned = e.run.load.get("requests")
    if planned is not None and measured.n != planned:
        why = f" ({e.seen.stopped})" if e.seen.stopped else ""
        yield f"{planned - measured.n} of {planned} records are missing{why}: complete them with --resume"
    elif e.seen.stopped:
        yield f"stopped early: {e.seen.stopped}"
    if measured.n == 0:
        yield "no request was measured"
        return
    if restarted(e.seen.before, e.seen.after) or RESTARTED in e.earlier.reasons:
        yield RESTARTED
    share = e.facts.client_faults / measured.n
    if share > LIMITS["client_faults_share"]:
        yield f"{share:.1%} of the requests failed by this machine's own limits (open files, ports, memory)"
    if measured.outcomes["ok"] == 0:
        yield "no request succeeded: " + ", ".join(f"{k} {v}" for k, v in measured.outcomes.items())


def restarted(before: dict[str, float], after: dict[str, float]) -> bool:
    """The process began again, or a counter went back."""
    if not before or not after:
        return False
    start = "process_start_time_seconds"
    if before.get(start) != after.get(start):
        return True
    return any(after.get(name, 0.0) < value for name, value in before.items() if name.endswith("_total"))


def _suspect(e: VerdictInputs) -> Iterator[str]:
    if e.facts.measured.n == 0:
        return
    yield from _client(e)
    yield from _server(e)
    yield from _cache(e)
    yield from _sample(e)
    yield from (f"before it was resumed: {reason}" for reason in e.earlier.reasons if reason != RESTARTED)
    if e.earlier.killed:
        yield f"{e.earlier.killed} earlier parts were killed: how the client did in them is not known"


def _client(e: VerdictInputs) -> Iterator[str]:
    scale = e.run.time_scale
    summary = e.run.summary
    lag_s = e.client.get("loop_lag_p99_s")
    tpot_s = (summary["tpot_s"]["p50"] or 0.0) / scale
    share_s = max(LIMITS["loop_lag_of_tpot"] * tpot_s, LIMITS["loop_lag_least_s"]) if tpot_s else 1.0
    limit_s = min(LIMITS["loop_lag_p99_s"], share_s)
    if lag_s is not None and lag_s > limit_s:
        yield f"client: event-loop lag p99 {lag_s * 1e3:.2g} ms (limit {limit_s * 1e3:.2g} ms): too much for this machine"
    send_s = quantile(e.facts.measured.values["send_lag_s"], 0.99)
    if send_s is not None and send_s / scale > LIMITS["send_lag_p99_s"]:
        yield f"client: send lag p99 {send_s / scale * 1e3:.3g} ms (limit {LIMITS['send_lag_p99_s'] * 1e3:g} ms)"
    cores = e.client.get("cpu_share") or 0.0
    if cores > LIMITS["cpu_cores"]:
        yield f"client: {cores:.0%} of a core (limit {LIMITS['cpu_cores']:.0%}): more --workers, or another machine"
    rate = summary["throughput"].get("chunks_per_s")
    most = (e.capacity or {}).get("events_per_s")
    if rate and most and rate * scale > most * (e.client.get("workers") or 1):
        yield f"client: {rate * scale:,.0f} events/s is beyond the {most:,.0f} that calibrate found this machine to carry"


def quantile(values: Sequence[float], level: float) -> float | None:
    """Nearest rank, however few values: for a limit, not for a report."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(level * len(values)))]


def _server(e: VerdictInputs) -> Iterator[str]:
    measured = e.facts.measured
    share = measured.failed / measured.n
    if share > LIMITS["failed_share"]:
        kinds = ", ".join(f"{k} {v}" for k, v in measured.outcomes.most_common() if k != "ok")
        yield f"{share:.1%} of the requests failed ({kinds}; limit {LIMITS['failed_share']:.0%})"
    behind_s = behind(e.seen.before, e.seen.after) * e.run.time_scale
    e2e_s = e.run.summary["e2e_s"]["p50"]
    if e2e_s and behind_s > LIMITS["behind_of_e2e"] * e2e_s:
        yield (
            f"the emulated server fell {behind_s:.3g} model seconds behind its clock "
            f"(limit {LIMITS['behind_of_e2e']:.0%} of the median e2e, {LIMITS['behind_of_e2e'] * e2e_s:.3g} s): lower its --speed"
        )
    clocks = sorted(e.seen.clocks_mhz)
    if clocks and clocks[0] < (1 - LIMITS["clock_drop"]) * clocks[len(clocks) // 2]:
        yield f"GPU clocks were throttled: {clocks[0]:.0f} MHz at the lowest, {clocks[len(clocks) // 2]:.0f} at the median"


def behind(before: dict[str, float], after: dict[str, float]) -> float:
    """Real seconds an emulated server was behind its clock at the most, if it was so during this run."""
    name = "thinkload_emulator_behind_max_seconds"
    most = after.get(name, 0.0)
    return most if most > before.get(name, 0.0) else after.get("thinkload_emulator_behind_seconds", 0.0)


def _cache(e: VerdictInputs) -> Iterator[str]:
    share = hit_share(e)
    asked = e.cache_asked
    if share is None:
        if asked in ("salt", "reset"):
            yield f"--cache {asked} can't be asserted: the server has no prefix_cache_hits counter"
        return
    if asked == "keep" or share <= LIMITS["cache_hit_share"]:
        return
    hint = {
        "salt": "though every request was salted: the server ignores cache_salt",
        "reset": "though it was reset before the run: problems asked at several budgets or samples hit each other; use --cache salt",
        None: "and hides prefill: use --cache salt (or say --cache keep where that is meant)",
    }[asked]
    yield f"the prefix cache served {share:.1%} of the prompt tokens, {hint}"


def hit_share(e: VerdictInputs) -> float | None:
    """Share of prompt tokens served by the prefix cache, those of second calls (`forced`) left out; None where unknown."""
    name = "vllm:prefix_cache_hits_total"
    before, after = e.seen.before, e.seen.after
    if name not in after:
        return None
    hits = after[name] - before.get(name, 0.0)
    queries = after.get("vllm:prefix_cache_queries_total", 0.0) - before.get(
        "vllm:prefix_cache_queries_total", 0.0
    )
    prompt_tokens = max(queries, float(e.facts.measured.prompt_tokens))
    return max(0.0, hits - e.facts.continued_tokens) / prompt_tokens if prompt_tokens else 0.0


def _sample(e: VerdictInputs) -> Iterator[str]:
    ok, needed = e.facts.measured.outcomes["ok"], least_sample(LEVELS[e.percentile])
    if ok < needed:
        yield f"{ok} requests can't carry a {e.percentile} (that takes {needed}): more --problems, --samples or --repeats"
