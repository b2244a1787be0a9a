"""`python -m analysis import FILE --out RUN`: another tool's result as a run folder, with notes on its fields."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from analysis.errors import InputError
from analysis.importing import Foreign, read
from loadgen.record import RECORDS, RunInfo, write_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `import`."""
    parser.add_argument(
        "file", type=Path, help="vllm bench serve JSON, guidellm benchmarks.json, AIPerf profile_export.jsonl"
    )
    parser.add_argument("--out", type=Path, required=True, help="new run folder")
    parser.add_argument(
        "--config-name", default="imported", help="configuration the server had (default: %(default)s)"
    )
    parser.add_argument("--model", help="model id (default: what the file says)")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="GPUs of the server, for costs (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=int, default=0, help="token limit of the requests, where there was one"
    )
    parser.epilog = "example: python -m analysis import benchmarks.json --out results/theirs --config-name tp2 --num-gpus 2"


def main(args: argparse.Namespace) -> int:
    """Write the run folder and say what the fields mean."""
    if args.out.exists():
        raise InputError(f"--out {args.out}: exists; name a new folder")
    try:
        foreign = read(*_parse(args.file.read_bytes()))
    except OSError as error:
        raise InputError(f"{args.file}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{args.file}: {error}") from error
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{args.file}: a field is not what the tool writes ({error}); was it edited?"
        ) from error
    _write(foreign, args)
    print(f"{foreign.tool}: {len(foreign.records)} requests. What its fields mean here:", file=sys.stderr)
    print(*(f"  - {note}" for note in foreign.notes), sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                "tool": foreign.tool,
                "requests": len(foreign.records),
                "run": str(args.out),
                "notes": foreign.notes,
            }
        )
    )
    return 0


def _parse(data: bytes) -> tuple[Any, list[Any]]:
    """The file as one document, or as lines."""
    try:
        return msgspec.json.decode(data), []
    except msgspec.DecodeError:
        pass
    try:
        return None, [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
    except msgspec.DecodeError as error:
        raise InputError(f"neither JSON nor JSON lines ({error})") from error


def _write(foreign: Foreign, args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True)
    for record in foreign.records:
        record.budget = args.budget
    encoder = msgspec.json.Encoder()
    (args.out / RECORDS).write_bytes(b"".join(encoder.encode(record) + b"\n" for record in foreign.records))
    run = RunInfo(
        run_id=args.out.name,
        config=args.config_name,
        model=args.model or foreign.model,
        target="unknown",
        num_gpus=args.num_gpus,
        tensor_parallel_size=args.num_gpus,
        started_at="1970-01-01T00:00:00Z",
        clock={"wall_s": 0.0, "perf_s": 0.0},
        load=foreign.load,
        budgets=[args.budget],
        dataset={"name": f"imported from {foreign.tool}", "path": args.file.name},
        reasons=[f"imported from {foreign.tool}: {note}" for note in foreign.notes],
    )
    write_run(args.out, run)
