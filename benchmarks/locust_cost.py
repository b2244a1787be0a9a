"""Measures what Locust costs: CPU microseconds per SSE event through `locust -f loadgen/locustfile.py` and `python -m loadgen`.

`python -m benchmarks.locust_cost [--quick]`. The server is that of the `paced` case in client_cost.py (16 streams of 34 events,
5 ms apart). The CPU seconds of each program, its sender process included, at two run lengths give a slope, so that the cost
of starting drops out. Locust runs as master and worker in one process; a worker on a machine of its own does less. The last
line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.client_cost import EVENTS, SERVERS, STREAMS, command, cpu_s
from loadgen.checks.reference_server import serving

LENGTHS = (200, 1000)
QUICK = (100, 900)


def locust(url: str, requests: int, folder: Path) -> list[str]:
    """Return the command line of a run through Locust."""
    line = f"-m locust -f loadgen/locustfile.py --headless --users {STREAMS} --only-summary --loglevel ERROR"
    ours = f"--target {url} --model m --dataset sample --budgets 64 --requests {requests}"
    out = folder / f"locust-{requests}-{time.monotonic_ns()}"
    return [sys.executable, *line.split(), *ours.split(), "--out", str(out)]


def main() -> int:
    """Measure both programs alternately and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="measure once instead of three times")
    options = parser.parse_args()
    short, long = QUICK if options.quick else LENGTHS
    costs: dict[str, list[float]] = {"loadgen": [], "locust": []}
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        url = f"{server}/{SERVERS['paced']}/v1"
        for _ in range(1 if options.quick else 3):
            for name, seconds in costs.items():
                lines = [
                    locust(url, n, Path(folder))
                    if name == "locust"
                    else command("command", url, n, Path(folder))
                    for n in (short, long)
                ]
                first, second = map(cpu_s, lines)
                seconds.append((second - first) / (long - short) / EVENTS * 1e6)
    found = {name: round(statistics.median(values), 2) for name, values in costs.items()}
    for name, values in costs.items():
        print(f"{name:8} {found[name]:8.2f} µs/event  {[round(cost, 1) for cost in values]}", flush=True)
    print(
        json.dumps({"us_per_event": found, "locust_to_loadgen": round(found["locust"] / found["loadgen"], 2)})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
