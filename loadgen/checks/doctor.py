"""Reports before a run what would make its results unreliable: `python -m loadgen doctor URL`.

Each check prints one line: good, warn, bad or unknown, and what to do. A check that cannot be made is unknown and never
good. Two small requests are sent, and nothing is written. Every line is free of secrets and of control characters, because
a server chooses some of its words.

This module does not judge a run that has been made (see loadgen/measure/verdict.py).
"""

import asyncio
import dataclasses
import json
import sys
import time

from loadgen.checks.doctor_checks import CHECKS, DoctorContext
from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import to_record
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.workload import STREAM, small_body
from loadgen.run.sender import client_of
from loadgen.target.control_api import ControlApi
from loadgen.target.preflight import inspect
from loadgen.target.probe import identify

TOKENS = 32
"""Of the small answer: enough to see whether its chunks arrive one by one."""
DETAIL_CHARACTERS = 400


def main(options: RunOptions) -> int:
    """Print the result of every check; return 1 where one is bad."""
    api = ControlApi(options)
    server = identify(options, inspect(options, api), api)
    metrics = api.get(f"{api.root}/metrics").text()
    stream = STREAM if options.stream else {"stream": False}
    body = stream | small_body(options, server.model, server.limit_field, "Count from 1 to 30.", TOKENS)
    request = Request(0, "doctor", 0, TOKENS, "cut", budgets.path(options), body)
    clock = RunClock(time.perf_counter_ns(), server.time_scale)
    exchange = asyncio.run(_send(options, request))
    record = to_record(
        request, exchange, exchange.sent_ns, clock, run_id="doctor", emulated=server.emulated, keep_text=False
    )
    context = DoctorContext(options, api, server, metrics, exchange, record)
    found = [
        dataclasses.replace(check, detail=api.quote(check.detail, DETAIL_CHARACTERS))
        for run_checks in CHECKS
        for check in run_checks(context)
    ]
    for check in found:
        print(f"{check.state.upper():8}{check.name:18}{check.detail}", file=sys.stderr)
    worst = next((s for s in ("bad", "warn", "unknown") if any(c.state == s for c in found)), "good")
    checks = [dataclasses.asdict(check) for check in found]
    print(json.dumps({"worst": worst, "target": options.target, "checks": checks}))
    return int(worst == "bad")


async def _send(options: RunOptions, request: Request) -> Exchange:
    """Send the request as a run does."""
    async with client_of(options, timeout_s=60) as client:
        return await client.send(request)
