"""run.json and problems.jsonl as they are before the first request.

Does not know: what came of the run (session adds that).
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadgen import options as options_module
from loadgen.files import write_atomically
from loadgen.plan.datasets import Dataset
from loadgen.plan.schedule import ClosedLoop
from loadgen.record import PROBLEMS, RunInfo
from loadgen.run import environment
from loadgen.run.prepare import Prepared, config_name


def describe(plan: Prepared) -> RunInfo:
    """Everything needed to repeat, join and judge the run that is known beforehand."""
    options, server = plan.options, plan.server
    return RunInfo(
        run_id=plan.run_id,
        config=config_name(server),
        model=server.model,
        target=options.target,
        num_gpus=server.num_gpus,
        tensor_parallel_size=server.tensor_parallel_size or 1,
        speculation=server.speculation,
        gpu=server.gpu,
        emulated=server.emulated,
        simulated=server.simulated,
        time_scale=server.time_scale,
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        clock={},
        argv=options_module.redacted(options.argv),
        options=options_module.saved(options),
        labels=options.labels,
        price_per_gpu_hour=options.price_per_gpu_hour,
        seed=options.seed,
        load=load_facts(plan),
        budgets=list(options.budgets),
        budget_mode=options.budget_mode,
        one_pass=options.one_pass,
        samples=options.samples,
        sampling=sampling_facts(plan),
        dataset=dataset_facts(plan.dataset),
        preset=server.preset,
        cache=options.cache or "keep",
        slo=options.slo,
        host=environment.host(),
        packages=environment.packages(),
        git=environment.git(),
        server=server_facts(plan),
    )


def server_facts(plan: Prepared) -> dict[str, Any]:
    """`RunInfo.server`: what the server said of itself, then what its launcher knows."""
    server = plan.server
    said = {
        "version": server.version,
        "max_model_len": server.max_model_len,
        "fingerprint": server.fingerprint,
        "pipeline_parallel_size": server.pipeline_parallel_size,
        "data_parallel_size": server.data_parallel_size,
        "replicas": server.replicas if server.replicas > 1 else None,
        "limit_field": server.limit_field if server.limit_field != "max_tokens" else None,
    }
    return {name: value for name, value in said.items() if value is not None} | plan.options.server


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """`RunInfo.dataset`."""
    return {
        "name": dataset.name,
        "path": dataset.path,
        "sha256": dataset.sha256,
        "problems": len(dataset.problems),
    }


def load_facts(plan: Prepared) -> dict[str, Any]:
    """`RunInfo.load`."""
    options = plan.options
    facts: dict[str, Any] = {"requests": plan.planned, "warmup": options.warmup, "repeats": options.repeats}
    if isinstance(plan.schedule, ClosedLoop):
        facts |= {"kind": "closed", "concurrency": plan.schedule.concurrency}
    else:
        times_s = plan.schedule.times_s
        mean = len(times_s) / times_s[-1] if len(times_s) > 1 and times_s[-1] > 0 else None
        arrival = "replay" if options.times else options.arrival
        facts |= {"kind": "open", "rate": options.rate or mean, "arrival": arrival}
    if options.ramp:
        facts["ramp"] = [list(step) for step in options.ramp]
    if options.duration_s is not None:
        facts["duration_s"] = options.duration_s
    return facts


def sampling_facts(plan: Prepared) -> dict[str, Any]:
    """`RunInfo.sampling`: what a request's body says."""
    body = next(plan.workload.requests(0, 1)).body
    chosen: dict[str, Any] = {
        name: body[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in body
    }
    return {"name": plan.options.sampling, "prompt": plan.options.prompt, **chosen}


def write_problems(folder: Path, dataset: Dataset) -> None:
    """problems.jsonl: what grading needs, without the problems' text."""
    rows = (
        msgspec.json.encode(
            {"unique_id": p.unique_id, "answer": p.answer, "subject": p.subject, "level": p.level}
        )
        for p in dataset.problems
    )
    write_atomically(folder / PROBLEMS, (row + b"\n" for row in rows))
