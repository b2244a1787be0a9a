"""A run's folder before the first request: the folder itself, the description in `run.json`, and `problems.jsonl`.

This module does not know the results of the run, which `loadgen.run.close_out` adds.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadgen.errors import UsageError
from loadgen.files import write_atomically
from loadgen.options import RunOptions, redacted, saved
from loadgen.plan.datasets import Dataset
from loadgen.plan.schedule import ClosedLoop
from loadgen.record import PROBLEMS, RunInfo
from loadgen.run import environment
from loadgen.run.prepare import Prepared, config_name
from loadgen.target.server_info import ServerInfo

OF_SERVER = ("model", "num_gpus", "speculation", "gpu", "emulated", "simulated", "time_scale", "preset")
OF_OPTIONS = ("target", "labels", "price_per_gpu_hour", "seed", "budget_mode", "one_pass", "samples", "slo")
"""What a run is described by under the names that the server's description and the options have."""


def run_folder(options: RunOptions, run_id: str) -> Path:
    """The folder for the files of a run."""
    return options.resume or options.out or Path("results") / run_id


def make_folder(folder: Path) -> Path:
    """Make a run's folder, whose parents have the usual permissions. Raises UsageError where it exists or cannot be made."""
    try:
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"{folder} exists: give another --out, or continue with --resume {folder}") from None
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}: choose another folder") from None
    return folder


def describe(prepared: Prepared) -> RunInfo:
    """The description of a run that is about to start. Its `clock` is set at the start."""
    run = describe_run(prepared.options, prepared.server, prepared.dataset, prepared.run_id)
    run.load = _load(prepared)
    run.sampling = _sampling(prepared)
    return run


def describe_run(options: RunOptions, server: ServerInfo, dataset: Dataset, run_id: str) -> RunInfo:
    """What is known of a run from its options, its server and its data set, without `load`, `sampling` and `clock`."""
    of_server = {name: getattr(server, name) for name in OF_SERVER}
    of_options = {name: getattr(options, name) for name in OF_OPTIONS}
    return RunInfo(
        **of_server,
        **of_options,
        run_id=run_id,
        config=config_name(server),
        tensor_parallel_size=server.tensor_parallel_size or 1,
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        clock={},
        argv=redacted(options.argv),
        options=saved(options),
        budgets=list(options.budgets),
        dataset=_dataset(dataset),
        cache=options.cache or "keep",
        host=environment.host(),
        packages=environment.packages(),
        git=environment.git(),
        server=_server(server) | options.server,
    )


def _server(server: ServerInfo) -> dict[str, Any]:
    """What the server reports of itself, for `RunInfo.server`."""
    sizes = ("max_model_len", "pipeline_parallel_size", "data_parallel_size", "draft_tokens")
    names = ("version", "fingerprint", "acceptance", *sizes)
    said = {name: value for name in names if (value := getattr(server, name)) is not None}
    if server.replicas > 1:
        said["replicas"] = server.replicas
    if server.limit_field != "max_tokens":
        said["limit_field"] = server.limit_field
    return said


def _dataset(dataset: Dataset) -> dict[str, Any]:
    facts = {"name": dataset.name, "path": dataset.path, "sha256": dataset.sha256}
    return facts | {"problems": len(dataset.problems)} | dataset.facts


def _load(prepared: Prepared) -> dict[str, Any]:
    options = prepared.options
    load: dict[str, Any] = {"requests": prepared.planned, "warmup": options.warmup}
    load["repeats"] = options.repeats
    if isinstance(prepared.schedule, ClosedLoop):
        load |= {"kind": "closed", "concurrency": prepared.schedule.concurrency}
    else:
        times_s = prepared.schedule.times_s
        mean = len(times_s) / times_s[-1] if len(times_s) > 1 and times_s[-1] > 0 else None
        arrival = "replay" if options.times else options.arrival
        load |= {"kind": "open", "rate": options.rate or mean, "arrival": arrival}
    if options.ramp:
        load["ramp"] = [list(step) for step in options.ramp]
    if options.duration_s is not None:
        load["duration_s"] = options.duration_s
    return load


def _sampling(prepared: Prepared) -> dict[str, Any]:
    """The sampling parameters that the body of a request contains."""
    body = next(prepared.workload.requests(0, 1)).body
    names = ("temperature", "top_p", "top_k", "min_p")
    chosen = {name: body[name] for name in names if name in body}
    return {"name": prepared.options.sampling, "prompt": prepared.options.prompt, **chosen}


def write_problems(folder: Path, dataset: Dataset) -> None:
    """Write `problems.jsonl`: what grading needs, without the text of the problems."""
    rows = (
        msgspec.json.encode({"unique_id": p.unique_id, "answer": p.answer, "subject": p.subject, "level": p.level})
        for p in dataset.problems
    )
    write_atomically(folder / PROBLEMS, (row + b"\n" for row in rows))
