"""Reports before a run what would make its results unreliable: `python -m loadgen doctor URL`.

Each check prints one line: good, warn, bad or unknown, and what to do. A check that cannot be made is unknown and never
good. One small request is sent, and nothing is written.

This module does not judge a run that has been made (see loadgen/measure/verdict.py).
"""

import asyncio
import email.utils
import json
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from loadgen import network
from loadgen.client.client import Client
from loadgen.errors import UsageError
from loadgen.exchange import Exchange, Request
from loadgen.options import RunOptions, open_loop
from loadgen.plan import datasets
from loadgen.run import capacity
from loadgen.run.prepare import DEFAULT_CONCURRENCY
from loadgen.target import server_metrics
from loadgen.target.control_api import ControlApi, api_key
from loadgen.target.preflight import inspect
from loadgen.target.server_info import ServerInfo

OTHER_DESCRIPTORS = 64
"""File descriptors that a run needs in addition to its connections."""
BYTES_PER_TOKEN, BYTES_PER_TOKEN_WITHOUT_TEXT = 8, 3
"""Disk space of one token: 4 to 5 bytes of text and 2 to 3 of timing."""
BYTES_PER_RECORD = 1500


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: Literal["good", "warn", "bad", "unknown"]
    detail: str


@dataclass(frozen=True)
class DoctorContext:
    """What the checks look at."""

    options: RunOptions
    api: ControlApi
    server: ServerInfo
    metrics: str
    """Text of the server's /metrics; empty where it has none."""
    exchange: Exchange
    """A request for four tokens."""


def main(options: RunOptions) -> int:
    """Print the result of every check; return 1 where one is bad."""
    api = ControlApi(options)
    server = inspect(options, api)
    response = api.get(f"{api.root}/metrics")
    metrics = response.body.decode(errors="replace") if response.status == 200 else ""
    context = DoctorContext(options, api, server, metrics, asyncio.run(small_request(options, server)))
    found = [check for run_checks in CHECKS for check in run_checks(context)]
    for check in found:
        print(f"{check.state.upper():8}{check.name:18}{check.detail}", file=sys.stderr)
    worst = next((s for s in ("bad", "warn", "unknown") if any(c.state == s for c in found)), "good")
    print(json.dumps({"worst": worst, "target": options.target, "checks": [asdict(c) for c in found]}))
    return int(worst == "bad")


async def small_request(options: RunOptions, server: ServerInfo) -> Exchange:
    """Request four tokens in the way a run does."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "What is 1+1?"}],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **options.extra_body,
    }
    request = Request(0, "doctor", 0, 4, "cut", "/chat/completions", body)
    async with Client(
        options.target,
        api_key=api_key(options),
        headers=dict(options.headers),
        timeout_s=60,
        ca_file=str(options.ca_file) if options.ca_file else None,
        verify=not options.insecure,
    ) as client:
        return await client.send(request)


def server_identity(context: DoctorContext) -> Iterator[Check]:
    """Check that the server is a real one, and that it reports its configuration."""
    server = context.server
    description = f"{server.model}, version {server.version or 'not reported'}"
    if server.emulated:
        yield Check(
            "server", "warn", f"EMULATED, {server.time_scale:g} x faster than its model: {description}"
        )
    else:
        yield Check("server", "good", description)
    if server.config is None:
        yield Check(
            "configuration",
            "warn",
            "the server does not report its configuration: give --config-name and --num-gpus",
        )


def token_counts(context: DoctorContext) -> Iterator[Check]:
    """Check that tokens can be counted and that the server reports timings."""
    exchange = context.exchange
    if exchange.outcome != "ok":
        yield Check(
            "answer", "bad", f"a request for four tokens ended as {exchange.outcome}: {exchange.error}"
        )
        return
    source = exchange.token_source
    if source == "continuous_usage":
        yield Check("token counts", "good", "exact for every chunk (continuous_usage_stats)")
    elif source in ("usage", "token_ids"):
        yield Check(
            "token counts",
            "warn",
            f"from {source}: the sum is exact, but the tokens are divided evenly between the chunks",
        )
    else:
        yield Check(
            "token counts",
            "bad",
            "the server reports no usage: chunks would be counted as tokens, which is wrong under speculation",
        )
    if exchange.server_timings:
        yield Check("server timings", "good", "for each request (queue, prefill, decode)")
    else:
        yield Check(
            "server timings",
            "warn",
            "none: start vLLM with --enable-per-request-metrics to separate server time from network time",
        )


def prefix_cache(context: DoctorContext) -> Iterator[Check]:
    """Check that problems sent more than once do not hit the prefix cache."""
    infos = server_metrics.parse(context.metrics, ("vllm:cache_config_info",))
    enabled = [info.labels.get("enable_prefix_caching") == "True" for info in infos]
    cache = context.options.cache
    if not enabled:
        yield Check("prefix cache", "unknown", "the server does not report it: use --cache salt to be safe")
    elif any(enabled) and cache is None:
        yield Check(
            "prefix cache",
            "warn",
            "ON: repeats and several budgets hide the prefill time; use --cache salt or start the server without it",
        )
    else:
        yield Check("prefix cache", "good", f"on, --cache {cache}" if any(enabled) else "off")


def other_load(context: DoctorContext) -> Iterator[Check]:
    """Check that nobody else loads the server."""
    running = server_metrics.totals(context.metrics).get("vllm:num_requests_running")
    if running is None:
        yield Check("other load", "unknown", "the server has no vLLM metrics")
    elif running > 0:
        yield Check("other load", "bad", f"{running:.0f} other requests are running on the server")
    else:
        yield Check("other load", "good", "the server is idle")


def clocks(context: DoctorContext) -> Iterator[Check]:
    """Check that the wall clocks agree well enough to join results with Prometheus. Latencies do not depend on it."""
    before = time.time()
    api = context.api
    date = api.get(f"{api.root}/version").date or api.get(f"{api.target}/models").date
    if date is None:
        yield Check("clock", "unknown", "the server sends no Date header")
        return
    off_s = email.utils.parsedate_to_datetime(date).timestamp() - before
    state: Literal["good", "warn"] = "good" if abs(off_s) < 2 else "warn"
    yield Check("clock", state, f"the server's is {off_s:+.0f} s from ours (latencies do not depend on it)")


def file_descriptors(context: DoctorContext) -> Iterator[Check]:
    """Check that there is a file descriptor for every connection."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    default = 1024 if open_loop(context.options) else DEFAULT_CONCURRENCY
    needed = (context.options.concurrency or default) + OTHER_DESCRIPTORS
    if limit >= needed:
        yield Check("file descriptors", "good", f"{limit}")
    else:
        yield Check("file descriptors", "bad", f"{limit}, {needed} needed: ulimit -n {2 * needed}")


def client_machine(context: DoctorContext) -> Iterator[Check]:
    """Check that this machine is free to generate load, and is not the server's machine."""
    host = urlsplit(context.options.target).hostname or ""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if is_local(host):
        yield Check(
            "host",
            "warn",
            f"client and server share this machine's {cpus} CPUs: chunks may arrive in groups",
        )
    else:
        yield Check("host", "good", f"{host} is another machine")
    load = os.getloadavg()[0]
    state: Literal["good", "warn"] = "good" if load < cpus / 2 else "warn"
    yield Check("CPU", state, f"load average {load:.2f} on {cpus} CPUs")
    calibration = capacity.stored()
    if calibration is None:
        yield Check("calibration", "warn", "none for this machine: python -m loadgen calibrate (a minute)")
    else:
        yield Check(
            "calibration",
            "good",
            f"{calibration['events_per_s']:,.0f} events/s in each process, measured on {calibration['at'][:10]}",
        )


def is_local(host: str) -> bool:
    """Return whether a host name leads to this machine, which is so where its address can be bound."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    for address in addresses:
        family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                continue
            return True
    return False


def round_trip(context: DoctorContext) -> Iterator[Check]:
    """Measure the time to the server, and check that no proxy adds to it."""
    times_ms = []
    for _ in range(5):
        began = time.perf_counter()
        context.api.get(f"{context.api.root}/version")
        times_ms.append((time.perf_counter() - began) * 1e3)
    yield Check("round trip", "good", f"{sorted(times_ms)[2]:.1f} ms, connection included")
    if network.proxy_url(context.options.target) is not None:
        yield Check("proxy", "warn", "requests go through a proxy, and its time is part of every latency")


def disk_space(context: DoctorContext) -> Iterator[Check]:
    """Check that there is room for the results."""
    options = context.options
    try:
        problems = len(datasets.load(options.dataset, options.problems, options.seed).problems)
    except UsageError as error:
        yield Check("disk", "unknown", f"the data set cannot be read: {error}")
        return
    per_token = BYTES_PER_TOKEN if options.keep_text else BYTES_PER_TOKEN_WITHOUT_TEXT
    per_problem = sum(BYTES_PER_RECORD + per_token * budget for budget in options.budgets)
    needed = problems * options.samples * options.repeats * per_problem
    out = (options.out or Path("results")).absolute()
    folder = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    state: Literal["good", "bad"] = "good" if free > 2 * needed else "bad"
    yield Check(
        "disk", state, f"at most {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {folder}"
    )


CHECKS: tuple[Callable[[DoctorContext], Iterator[Check]], ...] = (
    server_identity,
    token_counts,
    prefix_cache,
    other_load,
    clocks,
    file_descriptors,
    client_machine,
    round_trip,
    disk_space,
)
