"""Measures how fast the emulator can send, on one CPU core: `python -m benchmarks.emulator_speed`.

Three loads run against an emulated server of their own, pinned to one core:

- 16 streams of 2 ms steps, 8,000 chunks per second: how late are its writes? It runs a tenth faster than real time, because the
  step of an H200 for 16 streams takes 2.2 ms.
- 16,000 chunks per second: can it send them without merging? It runs at twice real time, because the emulated API server itself
  merges above 15,000 chunks per second.
- Far more than it can write: does it merge chunks and keep to the schedule?

The client is a plain socket loop on the other core that counts chunks and does not parse them. The lateness is the server's
own, from /metrics: the time of the write minus the time when it was due. The last line on stdout is one JSON object.
"""

import json
import math
import os
import selectors
import socket
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common import parser
from tests.fixtures.emulated import emulated

LATE = "thinkload_emulator_write_late_seconds"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The results of one load."""

    chunks_per_s: float
    tokens_per_s: float
    late_p99_ms: float
    wall_s: float
    cpu: float
    """Share of its core that the server used."""
    expected_s: float
    """Duration of the same load by the engine's clock, which is how long it would have taken without drift."""


def _request(tokens: int, number: int) -> bytes:
    body = {
        "prompt": f"Stream {number}: count what is written here. " * 4,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 1,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _read_all(url: str, streams: int, tokens: int) -> tuple[int, float]:
    """Start all streams together and read them to the end.

    Returns the number of chunks, and the seconds from the first to the last byte of text.
    """
    address = urlsplit(url)
    selector, chunks, left = selectors.DefaultSelector(), 0, streams
    for number in range(streams):
        connection = socket.create_connection((address.hostname, address.port or 80))
        connection.sendall(_request(tokens, number))
        selector.register(connection, selectors.EVENT_READ, connection)
    first_s = 0.0
    while left:
        for key, _ in selector.select():
            connection = key.data
            data = connection.recv(1 << 18)
            found = data.count(b"data: {")
            if found and not first_s:
                first_s = time.perf_counter()
            chunks += found
            if not data or b"[DONE]" in data:
                selector.unregister(connection)
                connection.close()
                left -= 1
    return chunks - streams, time.perf_counter() - first_s


def _scrape(url: str) -> dict[str, float]:
    """The samples of the server's metrics page, without labels except the bounds of buckets: `name`, or `name/bound`."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:  # noqa: S310 - the URL is our server's
        families = text_string_to_metric_families(response.read().decode())
    return {
        "/".join([sample.name, *filter(None, [sample.labels.get("le")])]): sample.value
        for family in families
        for sample in family.samples
    }


def _late_p99_s(spent: dict[str, float]) -> float:
    """Return the 99th percentile of write lateness, interpolated linearly within its bucket."""
    name = f"{LATE}_bucket/"
    counts = {float(key.removeprefix(name)): spent[key] for key in spent if key.startswith(name)}
    wanted = 0.99 * counts[math.inf]
    return float(np.interp(wanted, [0, *counts.values()], [0, *counts]))


def measure(cores: list[int], streams: int, tokens: int, *flags: str) -> LoadResult:
    """Run one load. The server inherits the first of several cores, and the client keeps the others."""
    if cores:
        os.sched_setaffinity(0, cores[:1])
    with emulated("tp1", "--text", "random", *flags) as target:
        if cores:
            os.sched_setaffinity(0, cores[1:])
        url = target.removesuffix("/v1")
        _read_all(url, min(streams, 4), 8)  # the first requests are a warm-up
        before = _scrape(url)
        chunks, wall_s = _read_all(url, streams, tokens)
        after = _scrape(url)
    spent = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return LoadResult(
        chunks_per_s=chunks / wall_s,
        tokens_per_s=streams * tokens / wall_s,
        late_p99_ms=1e3 * _late_p99_s(spent),
        wall_s=wall_s,
        cpu=spent["process_cpu_seconds_total"] / wall_s,
        expected_s=spent["vllm:request_decode_time_seconds_sum"] / streams / after["thinkload_time_scale"],
    )


def main() -> int:
    """Run the three loads and print their results."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=8.0, help="approximate duration of each load [8]")
    seconds = arguments.parse_args().seconds
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = cores if len(cores) > 1 else []
    paced = measure(cores, 16, int(seconds / 0.00206), "--speed", "1.1")
    sustained = measure(cores, 20, int(seconds / 0.00206 * 2), "--speed", "2")
    beyond = measure(cores, 64, int(seconds / 0.0025 * 6), "--speed", "6", "--max-model-len", "40000")
    for name, result in {"paced": paced, "sustained": sustained, "beyond": beyond}.items():
        print(name, *(f"{key} {value:.4g}" for key, value in asdict(result).items()), sep="  ", file=sys.stderr)
    summary = {
        "paced_chunks_per_s": round(paced.chunks_per_s),
        "paced_late_p99_ms": round(paced.late_p99_ms, 3),
        "sustained_chunks_per_s": round(sustained.chunks_per_s),
        "sustained_late_p99_ms": round(sustained.late_p99_ms, 3),
        "beyond_tokens_per_s": round(beyond.tokens_per_s),
        "beyond_chunks_per_s": round(beyond.chunks_per_s),
        "beyond_drift": round(beyond.wall_s / beyond.expected_s - 1, 4),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
