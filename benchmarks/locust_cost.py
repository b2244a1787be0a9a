"""Measures what Locust costs: CPU microseconds per SSE event through `locust -f loadgen/locustfile.py` and `python -m loadgen`.

`python -m benchmarks.locust_cost [--quick]`. The server is that of the `paced` case in client_cost.py (16 streams of 34 events,
5 ms apart). The CPU seconds of each program, its sender process included, at two run lengths give a slope, so that the cost
of starting drops out. Locust runs as master and worker in one process; a worker on a machine of its own does less. The last
line is JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.client_cost import SERVERS, measure
from benchmarks.common import parser
from loadgen.checks.reference_server import serving


def main() -> int:
    """Measure both programs alternately and print the results."""
    arguments = parser(__doc__)
    arguments.add_argument("--quick", action="store_true", help="measure once instead of three times")
    rounds, lengths = (1, (100, 900)) if arguments.parse_args().quick else (3, (200, 1000))
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        url, programs = f"{server}/{SERVERS['paced']}/v1", ("command", "locust")
        found = measure("paced", url, dict.fromkeys(programs, lengths), rounds, Path(folder))
    costs = {"loadgen": found["command"], "locust": found["locust"]}
    ratio = round(costs["locust"] / costs["loadgen"], 2)
    print(json.dumps({"us_per_event": costs, "locust_to_loadgen": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
