"""`python -m analysis import FILE --out RUN`: the result file of another load tool as a run folder, with notes on its fields.

It reads the result files of vllm bench serve, SGLang's bench_serving, guidellm, AIPerf, evalscope perf and inference-perf. A
file with several benchmarks becomes a folder with a run for each. Failed requests are kept where the tool keeps them. Nothing is
graded, because none of the tools keeps the reference answer beside the text. Runs of different workloads have different data
sets, so they are never pooled.

This module does not know the fields of a tool (analysis/foreign does).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from analysis.errors import InputError
from analysis.foreign import aiperf, bench_serve, evalscope, guidellm, inference_perf
from analysis.foreign.base import MARK, MOST_BYTES, Foreign
from loadgen.record import RECORDS, RunInfo, write_run

FILES = (
    "vllm bench serve --save-result --save-detailed (JSON, or the summary.json of vllm bench sweep), SGLang bench_serving "
    "--output-details (JSON lines), guidellm (benchmarks.json), AIPerf (profile_export.jsonl), evalscope perf "
    "(benchmark_data.db) or inference-perf (per_request_lifecycle_metrics.json)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `import`."""
    parser.add_argument("file", type=Path, help=f"result of {FILES}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, or of several runs, to create")
    parser.add_argument(
        "--config-name", default="imported", help="name of the serving configuration (default: %(default)s)"
    )
    parser.add_argument("--model", help="model id (default: the one in the file)")
    parser.add_argument("--num-gpus", type=int, help="GPUs of the server (default: unknown, so there is no cost)")
    parser.add_argument("--budget", type=int, default=0, help="token limit of the requests, or 0 where there was none")
    parser.add_argument("--emulated", action="store_true", help="the server was an emulated one")
    parser.epilog = (
        "example: python -m analysis import benchmarks.json --out results/theirs --config-name tp2 --num-gpus 2"
    )


def main(args: argparse.Namespace) -> int:
    """Write the run folder and print notes on the fields of the tool."""
    if args.out.exists():
        raise InputError(f"--out {args.out}: the folder exists already; give a new one")
    try:
        found = read(args.file)
    except OSError as error:
        raise InputError(f"{args.file}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{args.file}: {error}") from error
    except (AttributeError, TypeError, LookupError, ValueError, OverflowError) as error:
        hint = "give an unmodified file of the tool"
        raise InputError(f"{args.file}: a field has an unexpected value ({error}); {hint}") from error
    folders = [args.out] if len(found) == 1 else [args.out / f"{n:02}" for n in range(1, len(found) + 1)]
    for foreign, folder in zip(found, folders, strict=True):
        _write(foreign, folder, args)
    tool, requests = found[0].tool, sum(len(foreign.records) for foreign in found)
    notes = list(dict.fromkeys(note for foreign in found for note in foreign.notes))
    runs = f" in {len(found)} runs" if len(found) > 1 else ""
    print(f"{tool}: imported {requests} request{'s' * (requests != 1)}{runs}. Notes on the fields:", file=sys.stderr)
    print(*(f"  - {note}" for note in notes), sep="\n", file=sys.stderr)
    result = {"tool": tool, "requests": requests, "run": str(args.out), "runs": len(found)}
    print(json.dumps(result | {"notes": notes}))
    return 0


def read(path: Path) -> list[Foreign]:
    """Recognize the tool by the fields of its file, and read every benchmark. Raises InputError.

    The file is that of an emulated server where it contains the mark of its fingerprint, whatever the tool.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"the file is larger than {MOST_BYTES >> 30} GiB; give a part of it")
    found = _read(data, path)
    for foreign in found:
        foreign.emulated = MARK.encode() in data
    return found


def _read(data: bytes, path: Path) -> list[Foreign]:
    if data.startswith(evalscope.MAGIC):
        return evalscope.read(path)
    documents = _parse(data)
    first = documents[0] if documents else None
    if inference_perf.recognizes(first):
        return inference_perf.read(documents)
    if isinstance(first, list) and first and len(documents) == 1:  # the summary of a `vllm bench sweep`
        documents, first = first, first[0]
    if isinstance(first, dict) and "metrics" in first:
        return aiperf.read(documents, path)
    if isinstance(first, dict) and "benchmarks" in first:
        return guidellm.read(first)
    if isinstance(first, dict) and first.keys() & {"ttfts", "request_throughput"}:
        return [bench_serve.read(document) for document in documents]
    raise InputError(f"the tool is not recognized; give the result of {FILES}")


def _parse(data: bytes) -> list[Any]:
    """The documents of a JSON file or of a file of JSON lines. Python's decoder accepts NaN, which the tools write."""
    try:
        return [json.loads(data)]
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"the file is neither JSON nor JSON lines ({error})") from error


def _write(foreign: Foreign, folder: Path, args: argparse.Namespace) -> None:
    """Write a run. The stamps of a record are made from its durations, relative to the first request."""
    folder.mkdir(parents=True)
    start_s = min((r.sent_s for r in foreign.records if r.sent_s is not None), default=0.0)
    for record in foreign.records:
        record.budget, record.emulated = args.budget, foreign.emulated or args.emulated
        if record.sent_s is not None:  # otherwise no stamp is known
            record.due_s = record.sent_s = record.sent_s - start_s
            record.first_token_s = None if record.ttft_s is None else record.sent_s + record.ttft_s
            record.last_token_s = record.end_s = None if record.e2e_s is None else record.sent_s + record.e2e_s
    encoder = msgspec.json.Encoder()
    (folder / RECORDS).write_bytes(b"".join(encoder.encode(record) + b"\n" for record in foreign.records))
    run = RunInfo(
        run_id=folder.name,
        config=args.config_name,
        model=args.model or foreign.model,
        target="unknown",
        num_gpus=args.num_gpus,
        tensor_parallel_size=args.num_gpus or 1,
        emulated=foreign.emulated or args.emulated,
        started_at="1970-01-01T00:00:00Z",
        clock={"wall_s": 0.0, "perf_s": 0.0},
        load=foreign.load,
        budgets=[args.budget],
        dataset={"name": f"imported {foreign.workload()}", "path": args.file.name},
        reasons=[f"imported from {foreign.tool}: {note}" for note in foreign.notes],
    )
    write_run(folder, run)
