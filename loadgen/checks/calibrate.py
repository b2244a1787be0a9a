"""What this machine's client can carry: load a server whose truth is known, harder and harder, until the truth is lost.

The ground-truth server streams 200 tokens/s a stream; the streams are doubled until the client's own lag, CPU or the
error of its TPOT exceeds the verdict's limits. The last step that held is the capacity, in events (chunks) a second and
process; a run beyond it is SUSPECT. Server and client share this machine, so the figure is a low one.

Rules: stored by machine (host name, CPUs) in the user's cache folder; another machine's figure is not used.

Does not know: what a real server would stand.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from loadgen.exchange import Exchange, Request
from loadgen.files import write_atomically
from loadgen.run.capacity import machine, path

STREAMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
GAP_MS = 5
TOKENS = 100
ROUNDS = 4
"""Requests a stream in each step: 2 s."""
TRIES = 3
TPOT_ERROR = 0.01
"""Share of the truth by which the median TPOT may be off."""


@dataclass(frozen=True)
class LoadLevel:
    """What one number of streams gave."""

    streams: int
    events_per_s: float
    cpu_cores: float
    loop_lag_p99_s: float
    tpot_error: float
    failed: int
    fit: bool


def main(most: int) -> int:
    """Calibrate up to `most` streams and store the result; 0 where at least one step held."""
    from loadgen.checks.reference_server import serving  # noqa: PLC0415  a session only reads what was stored

    steps: list[LoadLevel] = []
    with serving() as url:
        for streams in (s for s in STREAMS if s <= most):
            steps.append(best(f"{url}/paced-{TOKENS}-{GAP_MS}/v1", streams))
            print(f"loadgen: {line(steps[-1])}", file=sys.stderr)
            if not steps[-1].fit:
                break
    held = [step for step in steps if step.fit]
    found = {
        "machine": machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "events_per_s": max((step.events_per_s for step in held), default=0.0),
        "streams": max((step.streams for step in held), default=0),
        "steps": [asdict(step) for step in steps],
    }
    if held:
        path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path(), json.dumps(found, indent=1).encode())
    print(json.dumps(found | {"stored": str(path()) if held else None}))
    return 0 if held else 1


def line(step: LoadLevel) -> str:
    """For people."""
    return (
        f"{step.streams:>5} streams {step.events_per_s:>8,.0f} events/s  CPU {step.cpu_cores:>4.0%}  "
        f"loop lag p99 {step.loop_lag_p99_s * 1e3:.2f} ms  TPOT off by {step.tpot_error:.2%}  "
        + ("holds" if step.fit else "does not hold")
    )


def best(target: str, streams: int) -> LoadLevel:
    """A step holds when one of TRIES does: what else the machine was doing is not the client's limit."""
    for _ in range(TRIES):
        step = measure(target, streams)
        if step.fit:
            break
    return step


def measure(target: str, streams: int) -> LoadLevel:
    """One step: every stream sends ROUNDS requests, one after another."""
    import uvloop  # noqa: PLC0415  as above

    from loadgen.measure.verdict import LIMITS  # noqa: PLC0415  verdict and session read what is stored here

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        exchanges, health, wall_s = runner.run(_load(target, streams))
    from loadgen.measure.formulas import tpot_ns  # noqa: PLC0415  as above

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
        fit=not failed
        and error <= TPOT_ERROR
        and lag_s <= LIMITS["loop_lag_p99_s"]
        and cores <= LIMITS["cpu_cores"],
    )


async def _load(target: str, streams: int) -> tuple[list[Exchange], dict[str, Any], float]:
    from loadgen.client.client import Client  # noqa: PLC0415  as above
    from loadgen.measure.client_health import ClientHealth  # noqa: PLC0415  as above

    exchanges: list[Exchange] = []
    health = ClientHealth()
    body = {"model": "ground-truth", "messages": [], "stream": True}

    async def stream(number: int, client: Client) -> None:
        await asyncio.sleep(number / streams * TOKENS * GAP_MS / 1000)  # spread, as real streams are
        for _ in range(ROUNDS):
            request = Request(number, "calibrate", 0, TOKENS, "cut", "/chat/completions", body)
            exchanges.append(await client.send(request))

    async with Client(target, timeout_s=60) as client:
        health.start()
        began = time.perf_counter()
        await asyncio.gather(*(stream(number, client) for number in range(streams)))
        wall_s = time.perf_counter() - began
        report = health.stop().summary()
    return exchanges, report, wall_s
