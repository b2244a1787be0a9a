"""Checks of the server for `doctor`: who it is, what it accepts, how its answers arrive, and what disturbs them.

What one small request shows is judged as a run judges its requests (see loadgen/measure/stream_faults.py).

This module does not know this machine.
"""

import email.utils
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from loadgen import network
from loadgen.checks.check import Check, DoctorContext, State, either
from loadgen.measure.stream_faults import StreamFaults
from loadgen.plan import budgets
from loadgen.target import server_metrics

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
    "chunks_and_end": (
        "good",
        "one token in each chunk; the usage counts one more, the end token without text",
    ),
    "chunks": (
        "bad",
        "the server reports no usage: chunks would be counted as tokens, which is wrong under speculation",
    ),
}
"""What a run counts with, by `token_source`."""


def server_identity(context: DoctorContext) -> Iterator[Check]:
    """Check that the server is a real one, that it serves the model, and that it reports its configuration."""
    server = context.server
    description = f"{server.model}, version {server.version or 'not reported'}"
    emulated = f"EMULATED, {server.time_scale:g} x faster than its model: {description}"
    yield either("server", not server.emulated, description, emulated)
    if server.others:
        yield Check("model", "warn", f"{server.model} is not in the server's list of models: check its spelling")
    if server.config is None:
        yield Check(
            "configuration",
            "warn",
            "the server does not report its configuration: give --config-name and --num-gpus",
        )


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
        yield Check(
            "replicas",
            "warn",
            f"{server.replicas} servers answer at this address: a run cannot use their counters, and --num-gpus must be the GPUs of all",
        )


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
        yield Check(
            "delivery",
            "good",
            f"{record.chunks} token events, of which {record.clumped_share:.0%} arrived together with another one",
        )
    none = "none: start vLLM with --enable-per-request-metrics to separate server time from network time"
    timings = bool(exchange.server_timings)
    yield either("server timings", timings, "for each request (queue, prefill, decode)", none)


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
    state: State = "good" if abs(off_s) < 2 else "warn"
    yield Check("clock", state, f"the server's is {off_s:+.0f} s from ours (latencies do not depend on it)")


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
