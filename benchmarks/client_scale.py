"""Measures how much load one client can take: events per second, parallel streams, and memory over a long run.

`python -m benchmarks.client_scale [--quick]`. The command `python -m loadgen` runs against the reference server
(loadgen/checks/reference_server.py) on the same machine, so that both share its CPU. Measured are the highest number of
events per second that `--workers 2` receives from a burst server and from paced streams, 1,000 parallel streams, and the
peak resident memory of runs with 10,000 and with 200,000 requests. The last line is JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import parser
from loadgen.checks.reference_server import serving


def run(url: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run the command once; return its summary, what `run.json` says about the client, its duration and its peak memory."""
    out = folder / f"run-{len(list(folder.iterdir()))}"
    line = f"-m loadgen --target {url} --model m --dataset sample --budgets 64 --progress none --metrics-port off --no-text"
    with subprocess.Popen(
        [sys.executable, *line.split(), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        stdout = process.stdout.read() if process.stdout else ""
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = 0
    summary: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    assert set(summary["outcomes"]) == {"ok"}, summary["outcomes"]
    info = json.loads((out / "run.json").read_text())
    return {
        "summary": summary,
        "client": info["client"],
        "rss_mb": usage.ru_maxrss / 1024,
        "duration_s": info["duration_s"],
    }


def events_per_s(found: dict[str, Any], events: int) -> float:
    """Return the events of all requests divided by the duration of the run."""
    return float(found["summary"]["requests"] * events / found["duration_s"])


def main() -> int:
    """Measure and print the results."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="send a tenth of the requests")
    arguments.add_argument(
        "--only", default="burst,paced,streams,memory", help="parts, by comma [%(default)s]"
    )
    options = arguments.parse_args()
    parts = options.only.split(",")
    size = 10 if options.quick else 1
    result: dict[str, Any] = {}
    with serving() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "burst" in parts:
            load = ("--concurrency", "32", "--workers", "2", "--requests", str(20_000 // size))
            found = run(f"{server}/burst-33/v1", folder, *load)
            result["burst_events_per_s"] = round(events_per_s(found, 34))
            print(f"burst, --workers 2: {result['burst_events_per_s']:,} events/s", flush=True)
        if "paced" in parts:
            load = ("--concurrency", "256", "--workers", "2", "--requests", str(10_000 // size))
            found = run(f"{server}/paced-200-5/v1", folder, *load)
            result["paced_events_per_s"] = round(events_per_s(found, 201))
            tpot = found["summary"]["tpot_s"]["p50"]
            print(
                f"256 streams paced at 5 ms, --workers 2: {result['paced_events_per_s']:,} events/s, TPOT p50 {1000 * tpot:.2f} ms"
            )
        if "streams" in parts:
            streams = ("--concurrency", "1000", "--requests", str(20_000 // size))
            found = run(f"{server}/paced-20-100/v1", folder, *streams)
            result["streams"] = {
                "ttft_p50_ms": round(1000 * found["summary"]["ttft_s"]["p50"], 2),
                "loop_lag_p99_ms": round(1000 * found["client"]["loop_lag_p99_s"], 2),
                "cpu_share": round(found["client"]["cpu_share"], 2),
            }
            print(f"1,000 streams paced at 100 ms: {result['streams']}", flush=True)
        if "memory" in parts:
            sizes = (10_000, 200_000 // size)
            rss = [
                run(f"{server}/burst-4/v1", folder, "--concurrency", "64", "--requests", str(n))["rss_mb"]
                for n in sizes
            ]
            result["rss_mb"] = {str(n): round(mb) for n, mb in zip(sizes, rss, strict=True)}
            print(f"resident memory after requests: {result['rss_mb']} MB", flush=True)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
