"""The checks of `doctor`: of the server (who it is, what it accepts, how its answers arrive) and of this machine.

What one small request shows is judged as a run judges its requests (see loadgen/measure/stream_faults.py). A check yields one
result or several, or none where it has nothing to say.

This module does not know in which order the checks are made or how they are shown.
"""

import email.utils
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from loadgen import network
from loadgen.errors import UsageError
from loadgen.exchange import Exchange
from loadgen.measure.stream_faults import StreamFaults
from loadgen.options import RunOptions, open_loop
from loadgen.plan import budgets, datasets
from loadgen.record import Record
from loadgen.run import capacity, environment
from loadgen.run.prepare import DEFAULT_CONCURRENCY
from loadgen.target import server_metrics
from loadgen.target.control_api import ControlApi
from loadgen.target.server_info import ServerInfo

OTHER_DESCRIPTORS = 64
"""File descriptors that a run needs in addition to its connections."""
BYTES_PER_TOKEN, BYTES_PER_TOKEN_WITHOUT_TEXT = 8, 3
"""Disk space of one token: 4 to 5 bytes of text and 2 to 3 of timing."""
BYTES_PER_RECORD = 1500

State = Literal["good", "warn", "bad", "unknown"]

COUNTS: dict[str | None, tuple[State, str]] = {
    "continuous_usage": ("good", "exact for every chunk (continuous_usage_stats)"),
    "chunk_usage": ("good", "exact for every chunk (the usage of each chunk counts that chunk)"),
    "token_ids": ("good", "exact for every chunk (token ids)"),
    "usage": (
        "warn",
        "from the usage at the end: the sum is exact, but the tokens are divided evenly between the chunks",
    ),
    "corrected_usage": (
        "warn",
        "from the usage at the end, corrected by the server's other counts (such as reasoning that it leaves out)",
    ),
    "chunks_and_end": ("good", "one token in each chunk; the usage counts one more, the end token without text"),
    "chunks": (
        "bad",
        "the server reports no usage: chunks would be counted as tokens, which is wrong under speculation",
    ),
}
"""What a run counts with, by `token_source`."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: State
    detail: str


def either(name: str, is_good: bool, good: str, otherwise: str, state: State = "warn") -> Check:
    """Return a check that is good, or else in `state` with the text `otherwise`."""
    return Check(name, "good", good) if is_good else Check(name, state, otherwise)


@dataclass(frozen=True)
class DoctorContext:
    """What the checks look at."""

    options: RunOptions
    api: ControlApi
    server: ServerInfo
    metrics: str
    """Text of the server's /metrics; empty where it has none."""
    exchange: Exchange
    """One small request, sent in the way a run sends its requests."""
    record: Record
    """What a run would record of it."""


def server_identity(context: DoctorContext) -> Iterator[Check]:
    """Check that the server is a real one, that it serves the model, and that it reports its configuration."""
    server = context.server
    description = f"{server.model}, version {server.version or 'not reported'}"
    emulated = f"EMULATED, {server.time_scale:g} x faster than its model: {description}"
    yield either("server", not server.emulated, description, emulated)
    if server.others:
        yield Check("model", "warn", f"{server.model} is not in the server's list of models: check its spelling")
    if server.config is None:
        hint = "give --config-name and --num-gpus"
        yield Check("configuration", "warn", f"the server does not report its configuration: {hint}")


def gpus(context: DoctorContext) -> Iterator[Check]:
    """Check that the number of GPUs is known, and that one server answers."""
    server = context.server
    sizes = {
        "tensor": server.tensor_parallel_size,
        "pipeline": server.pipeline_parallel_size,
        "data": max(server.data_parallel_size or 1, server.engines),
    }
    parallel = ", ".join(f"{kind} parallel {size}" for kind, size in sizes.items() if size)
    unknown = "number not known, so a run has no cost: give --num-gpus"
    yield either("GPUs", server.num_gpus is not None, f"{server.num_gpus} ({parallel})", unknown)
    if server.replicas > 1:
        consequence = "a run cannot use their counters, and --num-gpus must be the GPUs of all"
        yield Check("replicas", "warn", f"{server.replicas} servers answer at this address: {consequence}")


def requests(context: DoctorContext) -> Iterator[Check]:
    """Say what a run sends that differs from the usual."""
    options, server = context.options, context.server
    query = urlsplit(options.target).query
    if query:
        yield Check("query", "good", f"?{query} is kept on every request")
    if options.path.startswith("/"):
        kind = "a prompt" if budgets.uses_completions(options) else "messages"
        yield Check("path", "good", f"{options.path} below the target, with {kind}")
    if server.limit_field != "max_tokens":
        yield Check("limit", "good", f"the server refuses max_tokens: {server.limit_field} is sent")


def answer(context: DoctorContext) -> Iterator[Check]:
    """Check how a small answer is counted, how it arrives, and how it ends."""
    exchange, record = context.exchange, context.record
    if exchange.outcome != "ok":
        hint = " (if the server offers no stream: --no-stream)" if exchange.outcome == "malformed" else ""
        yield Check("answer", "bad", f"a small request ended as {exchange.outcome}: {exchange.error}{hint}")
        return
    faults = StreamFaults()
    faults.add(record)
    if not faults.disagree and not faults.uncounted:
        state, detail = COUNTS.get(record.token_source, ("unknown", f"from {record.token_source}"))
        yield Check("token counts", state, detail)
    for reason in faults.reasons(stream_asked=context.options.stream):
        yield Check("answer", "bad", reason)
    if not record.streamed:
        yield Check("delivery", "warn", "the answer came in one JSON body: only its e2e can be measured")
    elif record.clumped_share is None:
        yield Check("delivery", "unknown", "the answer was too short to tell whether chunks are held back")
    elif not faults.clumped:
        together = f"{record.clumped_share:.0%} arrived together with another one"
        yield Check("delivery", "good", f"{record.chunks} token events, of which {together}")
    none = "none: start vLLM with --enable-per-request-metrics to separate server time from network time"
    yield either("server timings", bool(exchange.server_timings), "for each request (queue, prefill, decode)", none)


def prefix_cache(context: DoctorContext) -> Iterator[Check]:
    """Check that problems sent more than once do not hit the prefix cache."""
    infos = server_metrics.parse(context.metrics, ("vllm:cache_config_info",))
    enabled = [info.labels.get("enable_prefix_caching") == "True" for info in infos]
    cache = context.options.cache
    if not enabled:
        yield Check("prefix cache", "unknown", "the server does not report it: use --cache salt to be safe")
        return
    hint = "repeats and several budgets hide the prefill time; use --cache salt or start the server without it"
    known = f"on, --cache {cache}" if any(enabled) else "off"
    yield either("prefix cache", not any(enabled) or cache is not None, known, f"ON: {hint}")


def other_load(context: DoctorContext) -> Iterator[Check]:
    """Check that nobody else loads the server."""
    samples = list(server_metrics.parse(context.metrics, (server_metrics.RUNNING,)))
    running = sum(sample.value for sample in samples)
    if not samples:
        yield Check("other load", "unknown", "the server has no vLLM metrics")
    else:
        busy = f"{running:.0f} other requests are running on the server"
        yield either("other load", running <= 0, "the server is idle", busy, "bad")


def clocks(context: DoctorContext) -> Iterator[Check]:
    """Check that the wall clocks agree well enough to join results with Prometheus. Latencies do not depend on it."""
    before = time.time()
    api = context.api
    date = api.get(f"{api.root}/version").date or api.get(f"{api.target}/models").date
    if date is None:
        yield Check("clock", "unknown", "the server sends no Date header")
        return
    try:
        off_s = email.utils.parsedate_to_datetime(date).timestamp() - before
    except (ValueError, TypeError, OverflowError):
        yield Check("clock", "unknown", f"the server's Date header is no date: {date}")
        return
    difference = f"the server's is {off_s:+.0f} s from ours (latencies do not depend on it)"
    yield Check("clock", "good" if abs(off_s) < 2 else "warn", difference)


def file_descriptors(context: DoctorContext) -> Iterator[Check]:
    """Check that there is a file descriptor for every connection."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    default = 1024 if open_loop(context.options) else DEFAULT_CONCURRENCY
    needed = (context.options.concurrency or default) + OTHER_DESCRIPTORS
    hint = f"{limit}, {needed} needed: ulimit -n {2 * needed}"
    yield either("file descriptors", limit >= needed, f"{limit}", hint, "bad")


def client_machine(context: DoctorContext) -> Iterator[Check]:
    """Check that this machine is free to generate load, and is not the server's machine."""
    host = urlsplit(context.options.target).hostname or ""
    cpus, load = environment.host()["cpus"], os.getloadavg()[0]
    shared = f"client and server share this machine's {cpus} CPUs: chunks may arrive in groups"
    yield either("host", not is_local(host), f"{host} is another machine", shared)
    yield Check("CPU", "good" if load < cpus / 2 else "warn", f"load average {load:.2f} on {cpus} CPUs")
    calibration = capacity.stored()
    if calibration is None:
        yield Check("calibration", "warn", "none for this machine: python -m loadgen calibrate (a minute)")
    else:
        events_per_s, day = calibration["events_per_s"], calibration["at"][:10]
        yield Check("calibration", "good", f"{events_per_s:,.0f} events/s in each process, measured on {day}")


def is_local(host: str) -> bool:
    """Return whether a host name leads to this machine, which is so where its address can be bound."""
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


def round_trip(context: DoctorContext) -> Iterator[Check]:
    """Measure the time to the server, and check that no proxy adds to it."""
    times_ms = []
    for _ in range(5):
        began = time.perf_counter()
        response = context.api.get(f"{context.api.root}/version")
        if response.status is None:
            yield Check("round trip", "unknown", f"{context.api.root}/version: {response.error}")
            break
        times_ms.append((time.perf_counter() - began) * 1e3)
    else:
        yield Check("round trip", "good", f"{sorted(times_ms)[2]:.1f} ms, connection included")
    if network.proxy_url(context.options.target) is not None:
        yield Check("proxy", "warn", "requests go through a proxy, and its time is part of every latency")


def disk_space(context: DoctorContext) -> Iterator[Check]:
    """Check that there is room for the results."""
    options = context.options
    try:
        problems = len(datasets.load(options).problems)
    except UsageError as error:
        yield Check("disk", "unknown", f"the data set cannot be read: {error}")
        return
    per_token = BYTES_PER_TOKEN if options.keep_text else BYTES_PER_TOKEN_WITHOUT_TEXT
    per_problem = sum(BYTES_PER_RECORD + per_token * budget for budget in options.budgets)
    needed = problems * options.samples * options.repeats * per_problem
    out = (options.out or Path("results")).absolute()
    folder = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    sizes = f"at most {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {folder}"
    yield Check("disk", "good" if free > 2 * needed else "bad", sizes)


CHECKS = (
    server_identity,
    gpus,
    requests,
    answer,
    prefix_cache,
    other_load,
    clocks,
    file_descriptors,
    client_machine,
    round_trip,
    disk_space,
)
"""In the order in which they are shown."""
