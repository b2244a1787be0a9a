"""What may be published of a study: `python -m benchmarks.studies.publish RESULTS OUT [--strip PREFIX]`.

Keeps run.json, the records without problem or answer text, GPU telemetry and, of the /metrics snapshots, vLLM's counters, sums and
counts; drops chunk timings, histograms' buckets and logs, which are large. `--strip` takes a machine's own paths out. Grades
survive as a table: `python -m analysis report` before.
"""

import argparse
import gzip
import json
import re
import shutil
import sys
from pathlib import Path

from loadgen.record import RECORDS, RUN, find_runs

TEXT = ("text", "reasoning")
TRACED = {"kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime", "user_annotation"}
COUNTED = re.compile(r"vllm:\w+_(total|sum|count)(?=[{ ])")


def publish(folder: Path, out: Path, strip: str) -> None:
    """Copy one run, compactly."""
    out.mkdir(parents=True)
    run = json.loads((folder / RUN).read_text().replace(strip, "") if strip else (folder / RUN).read_text())
    (out / RUN).write_text(json.dumps(run, separators=(",", ":")))
    with (folder / RECORDS).open() as records, (out / RECORDS).open("w") as kept:
        for line in records:
            record = {key: value for key, value in json.loads(line).items() if key not in TEXT}
            kept.write(json.dumps(record, separators=(",", ":")) + "\n")
    for snapshot in sorted(folder.glob("server-*.prom")):
        lines = snapshot.read_text().splitlines(keepends=True)
        (out / snapshot.name).write_text("".join(line for line in lines if COUNTED.match(line)))
    if (folder / "gpu.csv").is_file():
        shutil.copy(folder / "gpu.csv", out)


def publish_trace(path: Path, out: Path) -> None:
    """Of a trace by PyTorch's profiler: what ran on the GPU and which CUDA calls were made, when and for how long."""
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    kept = [
        {name: event[name] for name in ("ph", "cat", "ts", "dur")} | {"name": event["name"][:60]}
        for event in events
        if event.get("cat") in TRACED
    ]
    with gzip.open(out, "wt") as file:
        json.dump({"traceEvents": kept}, file, separators=(",", ":"))


def main(argv: list[str]) -> int:
    """Publish every run below a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--strip", default="", metavar="PREFIX", help="a path prefix to take out of run.json")
    parser.add_argument(
        "--trace", type=Path, action="append", default=[], help="a trace by PyTorch's profiler"
    )
    args = parser.parse_args(argv)
    for number, path in enumerate(args.trace):
        publish_trace(path, args.out.parent / f"profile-rank{number}.json.gz")
    runs = find_runs(args.results)
    for folder in runs:
        publish(folder, args.out / folder.relative_to(args.results), args.strip)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(json.dumps({"runs": len(runs), "bytes": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
