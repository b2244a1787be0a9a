"""Measures how much load this machine's client can generate, against a server whose true latencies are known.

The reference server sends 200 tokens/s in each stream. The number of streams is doubled until the client's own event-loop
lag, its CPU use or the error of its TPOT exceeds the limits of the verdict. The last level that passed is the capacity, in
events (chunks) per second and process; a run beyond it is SUSPECT. Server and client share this machine, so the result is
a lower bound.

The result is stored for this machine (host name, CPUs) in the user's cache folder, and is not used on another machine.

This module does not know how much load a real server can take.
"""

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import uvloop

from loadgen.checks.reference_server import serving
from loadgen.client.client import Client
from loadgen.client.endpoint import endpoint_of
from loadgen.exchange import Exchange, Request
from loadgen.files import write_atomically
from loadgen.measure.client_health import ClientHealth
from loadgen.measure.formulas import tpot_ns
from loadgen.measure.verdict import LIMITS
from loadgen.run.capacity import machine, path
from loadgen.terminal import say

STREAMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
GAP_MS = 5
TOKENS = 100
ROUNDS = 4
"""Requests of each stream at each level, which takes 2 s."""
MAX_ATTEMPTS = 3
TPOT_ERROR = 0.01
"""Largest relative error of the median TPOT."""


@dataclass(frozen=True)
class LoadLevel:
    """The result for one number of streams."""

    streams: int
    events_per_s: float
    cpu_cores: float
    loop_lag_p99_s: float
    tpot_error: float
    failed: int
    fit: bool


def main(most: int) -> int:
    """Calibrate up to `most` streams and store the result; return 0 where at least one level passed."""
    levels: list[LoadLevel] = []
    with serving() as url:
        for streams in (s for s in STREAMS if s <= most):
            levels.append(best(f"{url}/paced-{TOKENS}-{GAP_MS}/v1", streams))
            say(line(levels[-1]))
            if not levels[-1].fit:
                break
    passed = [level for level in levels if level.fit]
    found = {
        "machine": machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "events_per_s": max((level.events_per_s for level in passed), default=0.0),
        "streams": max((level.streams for level in passed), default=0),
        "steps": [asdict(level) for level in levels],
    }
    if passed:
        path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path(), json.dumps(found, indent=1).encode())
    print(json.dumps(found | {"stored": str(path()) if passed else None}))
    return 0 if passed else 1


def line(level: LoadLevel) -> str:
    """Return the line that is printed on stderr for one level."""
    return (
        f"{level.streams:>5} streams {level.events_per_s:>8,.0f} events/s  CPU {level.cpu_cores:>4.0%}  "
        f"loop lag p99 {level.loop_lag_p99_s * 1e3:.2f} ms  TPOT off by {level.tpot_error:.2%}  "
        + ("passed" if level.fit else "failed")
    )


def best(target: str, streams: int) -> LoadLevel:
    """Return the first attempt that passes, or the last one. Other work on this machine is not a limit of the client."""
    for _ in range(MAX_ATTEMPTS):
        level = measure(target, streams)
        if level.fit:
            break
    return level


def measure(target: str, streams: int) -> LoadLevel:
    """Measure one level: every stream sends ROUNDS requests, one after another."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        exchanges, health, wall_s = runner.run(_load(target, streams))
    tpots = sorted(value for e in exchanges if (value := tpot_ns(e)) is not None)
    error = abs(tpots[len(tpots) // 2] / (GAP_MS * 1e6) - 1) if tpots else 1.0
    failed = sum(e.outcome != "ok" for e in exchanges)
    lag_s, cores = health["loop_lag_p99_s"] or 0.0, health["cpu_share"]
    return LoadLevel(
        streams=streams,
        events_per_s=round(sum(len(e.arrival_ns) for e in exchanges) / wall_s, 1),
        cpu_cores=round(cores, 3),
        loop_lag_p99_s=round(lag_s, 6),
        tpot_error=round(error, 5),
        failed=failed,
        fit=not failed and error <= TPOT_ERROR and lag_s <= LIMITS["loop_lag_p99_s"] and cores <= LIMITS["cpu_cores"],
    )


async def _load(target: str, streams: int) -> tuple[list[Exchange], dict[str, Any], float]:
    exchanges: list[Exchange] = []
    health = ClientHealth()
    body = {"model": "reference", "messages": [], "stream": True}

    async def stream(number: int, client: Client) -> None:
        await asyncio.sleep(number / streams * TOKENS * GAP_MS / 1000)  # real streams are not in step either
        for _ in range(ROUNDS):
            request = Request(number, "calibrate", 0, TOKENS, "cut", "/chat/completions", body)
            exchanges.append(await client.send(request))

    async with Client(endpoint_of(target), timeout_s=60) as client:
        health.start()
        began = time.perf_counter()
        await asyncio.gather(*(stream(number, client) for number in range(streams)))
        wall_s = time.perf_counter() - began
        report = health.stop().summary()
    return exchanges, report, wall_s
