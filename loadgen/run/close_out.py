"""Closes a run: computes its summary, energy and verdict from the files in its folder, and writes the final `run.json`.

Every kind of run ends here: a run of this process, a run that `gather` puts together, and a simulated cell of a sweep.

This module does not know how figures are computed (`loadgen.measure.summary`) or what makes a run doubtful
(`loadgen.measure.verdict`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadgen.measure import one_pass_check, requirements
from loadgen.measure.acceptance import drafted
from loadgen.measure.error_texts import frequent_errors
from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import RunFacts, read_facts
from loadgen.measure.summary import summarize
from loadgen.measure.verdict import judge
from loadgen.record import RunInfo, write_run
from loadgen.target.gpu_log import energy_between


def close_out(
    folder: Path,
    run: RunInfo,
    observations: Observations,
    *,
    judged: bool = True,
    capacity: dict[str, Any] | None = None,
    doubts: Iterable[str] = (),
) -> None:
    """Complete `run` and write it to the folder; `run.client` is complete already.

    `capacity` and `doubts` are for the verdict (`judge`). A run that is not `judged` is VALID: no client and no server took
    part in a simulation, so nothing could disturb it. Raises OSError.
    """
    facts = read_facts(folder, run)
    run.gpus = observations.gpus or run.gpus
    summarize(folder, run, facts)
    if not run.segments and (drafts := drafted(observations.before, observations.after)):
        run.summary["speculation"] = drafts
    if run.one_pass and (check := one_pass_check.check(folder, run)) is not None:
        run.summary["one_pass_check"] = check
    if facts.measured.failed:
        run.summary["errors"] = frequent_errors(folder)
    run.energy = _energy(run, observations, facts)
    run.requirements = [requirements.check(text, run) for text in run.options.get("requirements", ())]
    run.verdict = "VALID"
    if judged:
        run.verdict, run.reasons = judge(run, facts, observations, capacity, doubts)
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
