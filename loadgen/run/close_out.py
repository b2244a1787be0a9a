"""Closes a run: computes its summary, energy and verdict from the files in its folder, and writes the final `run.json`.

Every kind of run ends here: a run of this process, a run that `gather` puts together, and a simulated cell of a sweep.

This module does not know how figures are computed (`loadgen.measure.summary`) or what makes a run doubtful
(`loadgen.measure.verdict`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.measure import one_pass_check, requirements
from loadgen.measure.error_texts import frequent_errors
from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import RunFacts, read_facts
from loadgen.measure.summary import summarize
from loadgen.measure.verdict import EarlierParts, VerdictInputs, judge
from loadgen.record import RunInfo, write_run
from loadgen.target.gpu_log import energy_between


@dataclass(frozen=True)
class VerdictOptions:
    """What the verdict depends on besides the records and the observations."""

    cache: str | None
    """The option `--cache`."""
    percentile: str
    capacity: dict[str, Any] | None = None
    """The result of `calibrate` for the machine that sent the requests."""
    doubts: Sequence[str] = ()
    """Further reasons, each of which makes the run SUSPECT."""


def close_out(
    folder: Path,
    run: RunInfo,
    observations: Observations,
    options: VerdictOptions | None,
    more_summary: Mapping[str, Any] | None = None,
) -> None:
    """Complete `run` and write it to the folder; `run.client` is complete already.

    `more_summary` is added to the summary. Without `options` the run is VALID: no client and no server took part in a
    simulation, so nothing could disturb it. Raises OSError.
    """
    facts = read_facts(folder, run)
    run.gpus = observations.gpus or run.gpus
    summarize(folder, run, facts)
    run.summary |= more_summary or {}
    if run.one_pass and (check := one_pass_check.check(folder, run)) is not None:
        run.summary["one_pass_check"] = check
    if facts.measured.failed:
        run.summary["errors"] = frequent_errors(folder)
    run.energy = _energy(run, observations, facts)
    run.requirements = [requirements.check(text, run) for text in run.options.get("requirements", ())]
    run.verdict = "VALID"
    if options is not None:
        _judge(run, observations, facts, options)
    write_run(folder, run)


def _energy(run: RunInfo, observations: Observations, facts: RunFacts) -> dict[str, Any]:
    """`RunInfo.energy` over the measured requests. In a resumed run, the counters also cover the time between its parts."""
    if run.segments:
        return {}
    if not facts.spans:
        return run.energy
    samples = observations.energy
    found = energy_between(samples, *facts.whole_s)
    if found is None:
        return run.energy
    steady = energy_between(samples, *run.window_s) if run.window_s is not None else None
    source = "emulated" if run.emulated else "dcgm"
    return {**found, "source": source, **({"steady": steady} if steady is not None else {})}


def _judge(run: RunInfo, observations: Observations, facts: RunFacts, options: VerdictOptions) -> None:
    cache, percentile, capacity = options.cache, options.percentile, options.capacity
    earlier = EarlierParts.saved(run)
    inputs = VerdictInputs(run, facts, observations, run.client, cache, percentile, capacity, earlier)
    run.verdict, run.reasons = judge(inputs)
    if options.doubts and run.verdict == "VALID":
        run.verdict = "SUSPECT"
    run.reasons += options.doubts
