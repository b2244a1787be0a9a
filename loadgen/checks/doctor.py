"""What will spoil a run, told before it: `python -m loadgen doctor URL`.

Rules: each check is one line, good, warn or bad, with what to do; one tiny request is sent, nothing is written. A check
that can't be made says so instead of passing.

Does not know: what a run will find once it is on (verdict).
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
from urllib.request import getproxies, proxy_bypass

from loadgen.client.client import Client
from loadgen.errors import UsageError
from loadgen.exchange import Exchange, Request
from loadgen.options import RunOptions, open_loop
from loadgen.plan import datasets
from loadgen.run import capacity as capacity_module
from loadgen.run.prepare import DEFAULT_CONCURRENCY
from loadgen.target import control_api as asking
from loadgen.target import server_metrics
from loadgen.target.control_api import ControlApi
from loadgen.target.preflight import inspect
from loadgen.target.server_info import ServerInfo

FILES_BESIDE = 64
"""Descriptors a run needs besides its connections."""
BYTES_A_TOKEN = 8
"""Disk a token takes: 4 to 5 of text, 2 to 3 of timing."""
BYTES_A_RECORD = 1500


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: Literal["good", "warn", "bad", "unknown"]
    detail: str


@dataclass(frozen=True)
class DoctorContext:
    """What is examined."""

    options: RunOptions
    ask: ControlApi
    server: ServerInfo
    metrics: str
    """The server's /metrics, or empty."""
    reply: Exchange
    """A four-token answer."""


def main(options: RunOptions) -> int:
    """Print the findings; 1 where one is bad."""
    ask = ControlApi(options)
    server = inspect(options, ask)
    answer = ask.get(f"{ask.root}/metrics")
    text = answer.body.decode(errors="replace") if answer.status == 200 else ""
    patient = DoctorContext(options, ask, server, text, asyncio.run(tiny(options, server)))
    found = [check for examine in CHECKS for check in examine(patient)]
    for check in found:
        print(f"{check.state.upper():8}{check.name:18}{check.detail}", file=sys.stderr)
    worst = next((s for s in ("bad", "warn", "unknown") if any(c.state == s for c in found)), "good")
    print(json.dumps({"worst": worst, "target": options.target, "checks": [asdict(c) for c in found]}))
    return int(worst == "bad")


async def tiny(options: RunOptions, server: ServerInfo) -> Exchange:
    """Ask for four tokens, as a run would."""
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
        api_key=asking.api_key(options),
        headers=dict(options.headers),
        timeout_s=60,
        ca_file=str(options.ca_file) if options.ca_file else None,
        verify=not options.insecure,
    ) as client:
        return await client.send(request)


def identity(p: DoctorContext) -> Iterator[Check]:
    """Who answers."""
    server = p.server
    what = f"{server.model}, version {server.version or 'not told'}"
    if server.emulated:
        yield Check("server", "warn", f"EMULATED, {server.time_scale:g} x faster than its model: {what}")
    else:
        yield Check("server", "good", what)
    if server.config is None:
        yield Check(
            "configuration", "warn", "the server does not say how it is configured: --config-name, --num-gpus"
        )


def counting(p: DoctorContext) -> Iterator[Check]:
    """Tokens can be counted."""
    if p.reply.outcome != "ok":
        yield Check("answer", "bad", f"a four-token request ended as {p.reply.outcome}: {p.reply.error}")
        return
    source = p.reply.token_source
    if source == "continuous_usage":
        yield Check("token counts", "good", "exact for every chunk (continuous_usage_stats)")
    elif source in ("usage", "token_ids"):
        yield Check(
            "token counts",
            "warn",
            f"from {source}: exact in sum, chunks with several tokens are shared out evenly",
        )
    else:
        yield Check(
            "token counts", "bad", "no usage: tokens would be counted as chunks, wrong under speculation"
        )
    timed = "per request (queue, prefill, decode)" if p.reply.server_timings else None
    yield Check(
        "server timings",
        "good" if timed else "warn",
        timed or "none a request: start vLLM with --enable-per-request-metrics to split server from network",
    )


def caching(p: DoctorContext) -> Iterator[Check]:
    """Replayed problems hit the prefix cache."""
    infos = [s.labels for s in server_metrics.parse(p.metrics) if s.name == "vllm:cache_config_info"]
    on = [i.get("enable_prefix_caching") == "True" for i in infos]
    if not on:
        yield Check("prefix cache", "unknown", "the server does not tell; use --cache salt to be safe")
    elif any(on) and p.options.cache is None:
        yield Check(
            "prefix cache",
            "warn",
            "ON: repeats and several budgets hide prefill; use --cache salt or start without it",
        )
    else:
        yield Check("prefix cache", "good", "off" if not any(on) else f"on, --cache {p.options.cache}")


def others(p: DoctorContext) -> Iterator[Check]:
    """Nobody else loads the server."""
    running = server_metrics.totals(p.metrics).get("vllm:num_requests_running")
    if running is None:
        yield Check("other load", "unknown", "the server has no vLLM metrics")
    elif running > 0:
        yield Check("other load", "bad", f"{running:.0f} requests are running already: not a quiet server")
    else:
        yield Check("other load", "good", "the server is idle")


def clocks(p: DoctorContext) -> Iterator[Check]:
    """Wall clocks agree well enough to join with Prometheus; intervals use the monotonic clock anyway."""
    before = time.time()
    date = p.ask.get(f"{p.ask.root}/version").date or p.ask.get(f"{p.ask.target}/models").date
    if date is None:
        yield Check("clock", "unknown", "the server sends no Date")
        return
    off_s = email.utils.parsedate_to_datetime(date).timestamp() - before
    state: Literal["good", "warn"] = "good" if abs(off_s) < 2 else "warn"
    yield Check("clock", state, f"the server's is {off_s:+.0f} s from ours (latencies do not depend on it)")


def files(p: DoctorContext) -> Iterator[Check]:
    """Descriptors for every connection."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    open_ended = open_loop(p.options)
    needed = (p.options.concurrency or (1024 if open_ended else DEFAULT_CONCURRENCY)) + FILES_BESIDE
    ok = limit >= needed
    yield Check(
        "file descriptors",
        "good" if ok else "bad",
        f"{limit}" + ("" if ok else f", {needed} needed: ulimit -n {2 * needed}"),
    )


def machine_of(p: DoctorContext) -> Iterator[Check]:
    """Client and server do not fight for one CPU."""
    host = urlsplit(p.options.target).hostname or ""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if is_local(host):
        yield Check(
            "host",
            "warn",
            f"client and server share this machine's {cpus} CPUs: chunks may arrive in bunches",
        )
    else:
        yield Check("host", "good", f"{host} is another machine")
    load = os.getloadavg()[0]
    state: Literal["good", "warn"] = "good" if load < cpus / 2 else "warn"
    yield Check("CPU", state, f"load average {load:.2f} on {cpus} CPUs")
    capacity = capacity_module.stored()
    if capacity is None:
        yield Check("calibration", "warn", "none for this machine: python -m loadgen calibrate (a minute)")
    else:
        yield Check(
            "calibration",
            "good",
            f"{capacity['events_per_s']:,.0f} events/s a process, found {capacity['at'][:10]}",
        )


def is_local(host: str) -> bool:
    """True where a name leads to this machine: its address can be bound."""
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


def network(p: DoctorContext) -> Iterator[Check]:
    """How far the server is."""
    times_ms = []
    for _ in range(5):
        began = time.perf_counter()
        p.ask.get(f"{p.ask.root}/version")
        times_ms.append((time.perf_counter() - began) * 1e3)
    yield Check("round trip", "good", f"{sorted(times_ms)[2]:.1f} ms, connection included")
    parts = urlsplit(p.options.target)
    if getproxies().get(parts.scheme) and not proxy_bypass(parts.hostname or ""):
        yield Check(
            "proxy", "warn", f"requests go through {parts.scheme}_proxy: its time is in every latency"
        )


def disk(p: DoctorContext) -> Iterator[Check]:
    """Room for the results."""
    options = p.options
    try:
        problems = len(datasets.load(options.dataset, options.problems, options.seed).problems)
    except UsageError as error:
        yield Check("disk", "unknown", f"the data set can't be read: {error}")
        return
    passes = options.samples * options.repeats
    tokens = BYTES_A_TOKEN if options.keep_text else 3
    needed = sum(problems * passes * (BYTES_A_RECORD + tokens * budget) for budget in options.budgets)
    folder = next(
        f
        for f in (
            (options.out or Path("results")).absolute(),
            *(options.out or Path("results")).absolute().parents,
        )
        if f.exists()
    )
    free = shutil.disk_usage(folder).free
    state: Literal["good", "bad"] = "good" if free > 2 * needed else "bad"
    yield Check(
        "disk", state, f"at most {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {folder}"
    )


CHECKS: tuple[Callable[[DoctorContext], Iterator[Check]], ...] = (
    identity,
    counting,
    caching,
    others,
    clocks,
    files,
    machine_of,
    network,
    disk,
)
