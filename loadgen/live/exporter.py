"""Exports the `loadgen_*` metrics to Prometheus while a run is running. Most of them come from the Records of the run.

Rules: all metrics are in one list below. They use base units and labels of low cardinality: `outcome` and `budget`, and the
names of the run only on `loadgen_run_info`. Times are model seconds, except for `loop_lag`, which is real time of this
process. TTFT has the buckets of vLLM, so quantiles of client and server can be compared. The other histograms have finer
buckets: a step of a fast GPU takes 2 to 9 ms, and a median from buckets whose bounds differ by a factor of two cannot
distinguish two configurations. Completion tokens are counted when they arrive, not at the end of a request.

This module does not know files, percentiles or the rules of the verdict.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from operator import sub

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from loadgen.errors import UsageError
from loadgen.interrupts import INTERRUPTS
from loadgen.measure.formulas import meets
from loadgen.network import bracketed
from loadgen.record import Record, RunInfo

PORT = 9464
LINGER_S = 3.5
"""A little more than three scrape intervals of prometheus/prometheus.yml, because the first scrape may have begun before
the end of the run."""
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
TPOT_BUCKETS = (
    0.0005, 0.00075, 0.001, 0.00125, 0.0015, 0.00175, 0.002, 0.00225, 0.0025, 0.00275, 0.003, 0.0035, 0.004, 0.0045,
    0.005, 0.0055, 0.006, 0.0065, 0.007, 0.0075, 0.008, 0.0085, 0.009, 0.0095, 0.01, 0.011, 0.012, 0.014, 0.016, 0.018,
    0.02, 0.0225, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 5,
)  # fmt: skip
E2E_BUCKETS = (
    0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22.5, 25,
    27.5, 30, 35, 40, 45, 50, 60, 75, 90, 120, 150, 180, 240, 360, 480, 960, 1920, 7680,
)  # fmt: skip
LAG_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
HISTOGRAMS = {
    "ttft": ("First token - sent", TTFT_BUCKETS),
    "tpot": ("(last token - first token) / (tokens - tokens of the first chunk)", TPOT_BUCKETS),
    "e2e": ("Last token - sent", E2E_BUCKETS),
    "e2e_due": ("Last token - due", E2E_BUCKETS),
}
"""The latencies of a record that have a histogram, with its help text and its buckets."""
BUDGET = ["budget"]
VERDICTS = ("RUNNING", "VALID", "SUSPECT", "INVALID")


class CountingRegistry(CollectorRegistry):
    """A registry that counts how many scrapes have begun, and the last one that was answered."""

    begun = 0
    answered = 0

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client for each scrape."""
        self.begun += 1
        scrape = self.begun
        yield from super().collect()
        self.answered = scrape


class Metrics:
    """All metrics of one run, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CountingRegistry()
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        names = ("run", "config", "model", "tp", "speculation", "target", "emulated")
        self.info = gauge("loadgen_run_info", "The current run", names)
        self.cell = gauge("loadgen_cell_info", "The current cell of a sweep", ["cell"])
        self.started = gauge("loadgen_run_started_timestamp_seconds", "Unix time of the run's start")
        self.ended = gauge("loadgen_run_ended_timestamp_seconds", "Unix time of the run's end, or 0")
        self.verdict = gauge("loadgen_verdict", "1 for the current verdict of the run", ["verdict"])
        self.planned = gauge("loadgen_requests_planned", "Planned requests, NaN with a duration")
        self.slo = gauge("loadgen_slo_seconds", "Limit of an objective of --slo", ["objective"])
        self.rate_asked = gauge("loadgen_rate_asked_per_second", "Scheduled rate, NaN in a closed loop")

        self.due = counter("loadgen_requests_due", "Requests that have become due")
        self.in_flight = gauge("loadgen_requests_in_flight", "Requests sent and not ended")
        self.requests = counter("loadgen_requests", "Requests that have ended", ["outcome", "budget"])
        self.completion = counter("loadgen_completion_tokens", "Tokens that have arrived", BUDGET)
        self.prompt = counter("loadgen_prompt_tokens", "Prompt tokens of ended requests", BUDGET)
        text = "Measured requests of a run with --slo that have ended"
        self.slo_requests = counter("loadgen_slo_requests", text, BUDGET)
        self.good = counter("loadgen_good_requests", "Requests that met every --slo", BUDGET)

        self.latencies = {
            name: histogram(f"loadgen_{name}_seconds", text, BUDGET, buckets=buckets)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self.gaps = GapHistogram()
        self.registry.register(self.gaps)
        self.send_lag = histogram("loadgen_send_lag_seconds", "Sent - due", buckets=LAG_BUCKETS)
        text = "Delay of the generator's event loop, real time"
        self.loop_lag = histogram("loadgen_loop_lag_seconds", text, buckets=LAG_BUCKETS)
        self.set_verdict("RUNNING")

    def begin(self, run: RunInfo, planned: int | None, rate: float | None) -> None:
        """Set the metrics that describe the run; `rate` is in requests per second of the schedule."""
        self.info.labels(
            run=run.run_id,
            config=run.config,
            model=run.model,
            tp=str(run.tensor_parallel_size),
            speculation=run.speculation or "none",
            target=run.target,
            emulated=str(run.emulated).lower(),
        ).set(1)
        self.cell.labels(cell=run.run_id).set(1)
        by_budget = [self.completion, self.prompt, self.good, *self.latencies.values()]
        by_budget += [self.slo_requests] if run.slo else []
        for budget in map(str, run.budgets):
            # rate() does not see the first increase of a counter without a 0.
            self.requests.labels(outcome="ok", budget=budget)
            for metric in by_budget:
                metric.labels(budget=budget)
        for name, limit_s in run.slo.items():
            self.slo.labels(objective=name).set(limit_s)
        self.started.set(run.clock["wall_s"])
        self.planned.set(float("nan") if planned is None else planned)
        self.rate_asked.set(float("nan") if rate is None else rate)

    def set_verdict(self, verdict: str) -> None:
        """Set the metric to 1 for the current verdict, and to 0 for the others."""
        for name in VERDICTS:
            self.verdict.labels(verdict=name).set(float(name == verdict))

    def end(self, verdict: str) -> None:
        """Set the end of the run and its verdict."""
        self.ended.set(time.time())
        self.set_verdict(verdict)

    def observe(self, record: Record, slo: dict[str, float]) -> None:
        """Count a request that has ended. The latencies of warm-up requests are not counted."""
        budget = str(record.budget)
        self.requests.labels(outcome=record.outcome, budget=budget).inc()
        self.prompt.labels(budget=budget).inc(record.prompt_tokens or 0)
        if record.warmup:
            return
        for name, histogram in self.latencies.items():
            if (value := getattr(record, f"{name}_s")) is not None:
                histogram.labels(budget=budget).observe(value)
        if record.send_lag_s is not None:
            self.send_lag.observe(record.send_lag_s)
        if slo:
            self.slo_requests.labels(budget=budget).inc()
            self.good.labels(budget=budget).inc(meets(record, slo))


class GapHistogram:
    """`loadgen_inter_chunk_seconds`. Every token is counted here, in 0.1 µs; the library's histogram takes 1.4 µs."""

    def __init__(self) -> None:
        self._counts = [0] * (len(TPOT_BUCKETS) + 1)
        self._sum_s = 0.0

    def observe(self, arrival_ns: Sequence[int], scale: float) -> None:
        """Count the gaps between the arrivals (ns) of one call; `scale` model seconds pass in a real one."""
        if arrival_ns:
            gaps_ns = sorted(map(sub, arrival_ns[1:], arrival_ns))
            below = [bisect_right(gaps_ns, bound * 1e9 / scale) for bound in TPOT_BUCKETS]
            for bucket, (since, until) in enumerate(pairwise([0, *below, len(gaps_ns)])):
                self._counts[bucket] += until - since
            self._sum_s += (arrival_ns[-1] - arrival_ns[0]) * scale / 1e9

    def take(self) -> tuple[list[int], float]:
        """Return the counts and the sum since the last call, for `add` in another process."""
        taken = self._counts, self._sum_s
        self._counts, self._sum_s = [0] * len(self._counts), 0.0
        return taken

    def add(self, counts: Sequence[int], sum_s: float) -> None:
        """Add what `take` has returned."""
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self._sum_s += sum_s

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Called by prometheus_client for each scrape."""
        bounds = [*(str(float(bound)) for bound in TPOT_BUCKETS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily("loadgen_inter_chunk_seconds", "Gap between token events", buckets, self._sum_s)


@contextmanager
def serving(metrics: Metrics, host: str, port: int | None) -> Iterator[str]:
    """Serve until the block has ended and its end was scraped. Yields a message that says where, or why not; -1 means off.

    Raises UsageError where the port was given by the user and is in use.
    """
    where, served = "metrics: off", None
    if port != -1:
        wanted = PORT if port is None else port
        try:
            served = start_http_server(wanted, host, metrics.registry)
            where = f"metrics: http://{bracketed(host)}:{served[0].server_port}/metrics"
        except (OSError, UnicodeError) as error:  # a UnicodeError is about the name of the host
            reason = f"{host}:{wanted} ({getattr(error, 'strerror', error)})"
            if port is not None:
                raise UsageError(f"--metrics-port: cannot listen on {reason}: choose another port, or off") from None
            where = f"metrics: off: cannot listen on {reason}"
    try:
        yield where
        if INTERRUPTS.count < 2:
            linger(metrics.registry)
    finally:
        if served is not None:
            server, thread = served
            server.shutdown()
            server.server_close()
            thread.join()


def linger(registry: CountingRegistry) -> None:
    """If the metrics were scraped before, wait for two more scrapes, which contain the last counts and the verdict.

    Prometheus marks all series of a target as stale at the first scrape that fails. With two scrapes, its recording rules are
    evaluated between them and include the end of the run. The last response is sent in the 200 ms after it was made.
    """
    begun, deadline_s = registry.begun, time.monotonic() + LINGER_S
    if begun:
        while registry.answered <= begun + 1 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.2)
