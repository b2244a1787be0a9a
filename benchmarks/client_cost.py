"""Measures what a client costs: CPU microseconds per SSE event, for this client and for others on the same server.

`python -m benchmarks.client_cost [--quick]`. The reference server (loadgen/checks/reference_server.py) offers three cases. In
`paced` it sends 16 streams of 34 events, 5 ms apart and out of step, so that each event wakes the client separately, as with
independent requests. In `step` the streams are in step, as with the batch of one engine. In `burst` all 34 events are sent
at once, each in a segment of its own. Every client runs in a process of its own. Its CPU seconds (user and system) at two
run lengths give a slope, so that the cost of starting drops out. The last line is JSON.

`bare` is the lower bound for Python: a uvloop Protocol that reads, timestamps, and sends the next request. `ours` is the
whole path of a request: send, timestamp, parse, count, Record, records file, chunks file. `command` is
`python -m loadgen`. `locust` is `locust -f loadgen/locustfile.py`, with master and worker in one process; a worker on a
machine of its own does less.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop

from benchmarks.common import closed_loop, parser
from loadgen.checks.reference_server import serving
from loadgen.chunks import ChunkLog
from loadgen.client.response import ResponseReader
from loadgen.clock import RunClock
from loadgen.exchange import Request
from loadgen.measure.client_health import ClientHealth
from loadgen.measure.formulas import to_record

EVENTS = 34
STREAMS = 16
SERVERS = {"paced": f"apart-{EVENTS - 1}-5", "step": f"paced-{EVENTS - 1}-5", "burst": f"burst-{EVENTS - 1}"}
"""The role chunk counts as an event. The final usage and [DONE] arrive in one segment and are not counted."""
BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "How many positive whole-number divisors does 196 have? " * 4}],
    "max_tokens": 64,
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


async def ours(url: str, requests: int) -> None:
    """Send requests along the whole path of this suite."""
    clock = RunClock(time.perf_counter_ns())
    health = ClientHealth()
    health.start()
    token_count = 0

    def count_tokens(_request: Request, tokens: int) -> None:
        nonlocal token_count
        token_count += tokens

    planned = (Request(seq, "p", 0, 64, "cut", "/chat/completions", BODY) for seq in range(requests))
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ChunkLog(Path(folder) / "chunks.bin")) as chunks,
        (Path(folder) / "records.jsonl").open("wb", buffering=0) as records,
    ):

        def steps(request: Request, due_ns: int, reader: ResponseReader) -> Iterator[None]:
            exchange = reader.result()
            yield
            assert exchange.outcome == "ok", exchange.error
            chunks.append(request.seq, exchange.arrival_ns, exchange.tokens, clock)
            yield
            record = to_record(request, exchange, due_ns, clock, run_id="bench")
            records.write(msgspec.json.encode(record) + b"\n")

        await closed_loop(url, planned, streams=STREAMS, clock=clock, steps=steps, on_tokens=count_tokens)
    health.stop()
    assert token_count == requests * (EVENTS - 1), token_count


class _Bare(asyncio.Protocol):
    """Reads and timestamps, and does nothing else."""

    def __init__(self, request: bytes, remaining: list[int], done: asyncio.Future[None]) -> None:
        self._request = request
        self._remaining = remaining
        self._done = done
        self._stamps: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._stamps.append(time.perf_counter_ns())
        if data.endswith(b"0\r\n\r\n"):
            self._stamps.clear()
            self._next()

    def _next(self) -> None:
        if self._remaining[0] > 0:
            self._remaining[0] -= 1
            self._transport.write(self._request)
            return
        self._transport.close()
        self._remaining[1] -= 1
        if not self._remaining[1]:
            self._done.set_result(None)


async def bare(url: str, requests: int) -> None:
    """Send requests by a uvloop Protocol that only reads and timestamps."""
    address = urlsplit(url)
    body = json.dumps(BODY).encode()
    head = f"POST {address.path}/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    remaining = [requests, STREAMS]
    for _ in range(STREAMS):
        await loop.create_connection(
            lambda: _Bare(head.encode() + body, remaining, done), address.hostname or "", address.port or 80
        )
    await done


async def bare_aiohttp(url: str, requests: int) -> None:
    """Send requests as most tools do: aiohttp `iter_any`, split at blank lines, decode the JSON and timestamp."""
    numbers = iter(range(requests))

    async def slot(session: aiohttp.ClientSession) -> None:
        for _ in numbers:
            stamps = []
            rest = b""
            async with session.post(f"{url}/chat/completions", json=BODY) as response:
                async for piece in response.content.iter_any():
                    *events, rest = (rest + piece).split(b"\n\n")
                    for event in events:
                        if event != b"data: [DONE]":
                            json.loads(event[6:])
                            stamps.append(time.perf_counter_ns())
            assert len(stamps) >= EVENTS

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(slot(session) for _ in range(STREAMS)))


CLIENTS: dict[str, Callable[[str, int], Awaitable[None]]] = {"bare": bare, "ours": ours, "aiohttp": bare_aiohttp}


PROGRAMS = {
    "command": f"loadgen --progress none --concurrency {STREAMS}",
    "locust": f"locust -f loadgen/locustfile.py --headless --users {STREAMS} --only-summary --loglevel ERROR",
}


def command(name: str, url: str, requests: int, folder: Path) -> list[str]:
    """Return the command line of a client's process."""
    if name in CLIENTS:
        return [sys.executable, "-m", "benchmarks.client_cost", "--client", name, url, str(requests)]
    load = f"--target {url} --model m --dataset sample --budgets 64 --requests {requests}"
    out = folder / f"{name}-{requests}-{time.monotonic_ns()}"
    return [sys.executable, "-m", *PROGRAMS[name].split(), *load.split(), "--out", str(out)]


def cpu_s(line: list[str]) -> float:
    """Run a process; return the CPU seconds of it and its children, user and system."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    pid = os.posix_spawn(line[0], line, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"this command failed; run it separately to see why: {' '.join(line)}")
    return usage.ru_utime + usage.ru_stime


def slope_us(name: str, url: str, lengths: tuple[int, int], folder: Path) -> float:
    """Return the CPU µs per event from two run lengths."""
    short, long = (cpu_s(command(name, url, requests, folder)) for requests in lengths)
    return (long - short) / (lengths[1] - lengths[0]) / EVENTS * 1e6


def measure(kind: str, url: str, names: list[str], folder: Path, *, quick: bool) -> dict[str, float]:
    """Print what each client costs in one case, and return the medians."""
    rounds, lengths = 3, (400, 2400) if kind == "burst" else (100, 500)
    if quick:
        rounds, lengths = 1, (40, 200)
    # The clients alternate, so that other load on the machine affects all of them.
    costs = [{name: slope_us(name, url, lengths, folder) for name in names} for _ in range(rounds)]
    found = {}
    for name in names:
        each = [round(one[name], 1) for one in costs]
        found[name] = round(statistics.median(one[name] for one in costs), 2)
        print(f"{kind}  {name:8} {found[name]:8.2f} µs/event  {each}", flush=True)
    return found


def main() -> int:
    """Measure every client in every case and print the results."""
    arguments = parser(__doc__)
    arguments.add_argument("--client", nargs=3, metavar=("NAME", "URL", "REQUESTS"), help=argparse.SUPPRESS)
    arguments.add_argument("--quick", action="store_true", help="send a fifth of the requests, once")
    arguments.add_argument(
        "--only", default="bare,ours,command,aiohttp", help="clients, by comma [%(default)s]; there is also locust"
    )
    options = arguments.parse_args()
    if options.client:
        name, url, requests = options.client
        uvloop.run(cast("Any", CLIENTS[name](url, int(requests))))
        return 0
    names = options.only.split(",")
    found: dict[str, dict[str, float]] = {}
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        for kind, case in SERVERS.items():
            found[kind] = measure(kind, f"{server}/{case}/v1", names, Path(folder), quick=options.quick)
    result: dict[str, Any] = {"us_per_event": found}
    if "bare" in names and "ours" in names:
        result["paced_ours_to_bare"] = round(found["paced"]["ours"] / found["paced"]["bare"], 2)
        result["burst_ours"] = found["burst"]["ours"]
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
