"""Copy the runs of a study without the parts that are private or large, so that they can be published.

    python -m benchmarks.studies.publish RESULTS OUT [--strip PREFIX]

The copy has run.json, the records of the measured requests without texts, the GPU telemetry, vLLM's counters, sums and counts that are
not zero from the snapshots of /metrics, and the manifest of a sweep. It has no chunk timings, histogram buckets, problems and logs. Of the
server's timings of a request it has those that are not computed from the others, in nanoseconds. `--strip` removes the paths of the machine.
The grades are not copied: run `python -m analysis report` before, which writes them as a table.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from loadgen.record import RECORDS, RUN, find_runs

TEXT_FIELDS = ("text", "reasoning")
COMPUTED_TIMINGS = ("mean_itl_ms", "tokens_per_second")
COUNTERS = re.compile(r"vllm:\w+_(total|sum|count)(?=[{ ])(?!.* 0\.0$)")


def publish(folder: Path, out: Path, strip: str) -> None:
    """Copy one run without texts and large files."""
    out.mkdir(parents=True)
    copy_json(folder / RUN, out, strip)
    with (folder / RECORDS).open() as records, (out / RECORDS).open("w") as kept:
        for line in records:
            record = {key: value for key, value in json.loads(line).items() if key not in TEXT_FIELDS}
            timings = record.get("server_timings") or {}
            if timings:
                record["server_timings"] = {
                    name: _to_ns(timings[name]) for name in timings if name not in COMPUTED_TIMINGS
                }
            if not record.get("warmup"):
                kept.write(json.dumps(record, separators=(",", ":")) + "\n")
    for snapshot in sorted(folder.glob("server-*.prom")):
        lines = snapshot.read_text().splitlines(keepends=True)
        (out / snapshot.name).write_text("".join(line for line in lines if COUNTERS.match(line)))
    if (folder / "gpu.csv").is_file():
        shutil.copy(folder / "gpu.csv", out)


def _to_ns(value_ms: Any) -> Any:
    """Round milliseconds to nanoseconds: vLLM prints the digits of its floats, most of which are noise."""
    return round(value_ms, 6) if isinstance(value_ms, float) else value_ms


def copy_json(path: Path, out: Path, strip: str) -> None:
    """Copy a JSON file in few bytes. `strip` is removed wherever it occurs."""
    text = path.read_text().replace(strip, "") if strip else path.read_text()
    (out / path.name).write_text(json.dumps(json.loads(text), separators=(",", ":")))


def main(argv: list[str]) -> int:
    """Copy every run in a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--strip", default="", metavar="PREFIX", help="a path prefix to remove from run.json and sweep.json"
    )
    args = parser.parse_args(argv)
    runs = find_runs(args.results)
    for folder in runs:
        publish(folder, args.out / folder.relative_to(args.results), args.strip)
    for manifest in args.results.glob("sweep.json"):
        copy_json(manifest, args.out, args.strip)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(json.dumps({"runs": len(runs), "bytes": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
