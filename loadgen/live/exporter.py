"""loadgen_* metrics for Prometheus: the same Records that go to the file, live.

Rules: every metric in one list below; base units, low-cardinality labels (`outcome`, `budget`, and the run's names on
`loadgen_run_info` alone); times are model seconds, but `loop_lag`, which is this process's own. TTFT has vLLM's buckets so that
client and server quantiles compare; the others are finer: a fast GPU's steps take 2 to 9 ms, and a median read off buckets
a factor of two wide tells no two configurations apart.
Completion tokens count while they stream, not when a request ends.

Does not know: files, percentiles, verdict rules.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from operator import sub
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from loadgen.errors import UsageError
from loadgen.measure.formulas import meets
from loadgen.record import Record, RunInfo

PORT = 9464
LINGER_S = 3.5
"""A little more than three scrapes of prometheus/prometheus.yml: the first may have begun before the end."""
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
VERDICTS = ("RUNNING", "VALID", "SUSPECT", "INVALID")


class CountingRegistry(CollectorRegistry):
    """Knows how many scrapes have begun, and the last that was answered."""

    begun = 0
    answered = 0

    def collect(self) -> Iterator[Metric]:
        """One scrape's worth."""
        self.begun += 1
        scrape = self.begun
        yield from super().collect()
        self.answered = scrape


class Metrics:
    """Every metric of one run, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = r = CountingRegistry()
        b = ["budget"]
        self.info = Gauge(
            "loadgen_run_info",
            "The run that is on",
            ["run", "config", "model", "tp", "speculation", "target", "emulated"],
            registry=r,
        )
        self.cell = Gauge("loadgen_cell_info", "The cell of a sweep that is on", ["cell"], registry=r)
        self.started = Gauge(
            "loadgen_run_started_timestamp_seconds", "Unix time of the run's start", registry=r
        )
        self.ended = Gauge(
            "loadgen_run_ended_timestamp_seconds", "Unix time of the run's end, 0 before it", registry=r
        )
        self.verdict = Gauge("loadgen_verdict", "1 for what the run says of itself", ["verdict"], registry=r)
        self.planned = Gauge(
            "loadgen_requests_planned", "Requests of the plan, NaN where a duration ends the run", registry=r
        )
        self.rate_asked = Gauge(
            "loadgen_rate_asked_per_second", "Rate of the schedule, NaN in a closed loop", registry=r
        )
        self.due = Counter("loadgen_requests_due", "Requests that have become due", registry=r)
        self.in_flight = Gauge("loadgen_requests_in_flight", "Requests sent and not ended", registry=r)
        self.requests = Counter(
            "loadgen_requests", "Requests that have ended", ["outcome", "budget"], registry=r
        )
        self.completion = Counter(
            "loadgen_completion_tokens", "Tokens received, counted as they stream", b, registry=r
        )
        self.prompt = Counter(
            "loadgen_prompt_tokens", "Prompt tokens of requests that have ended", b, registry=r
        )
        self.good = Counter(
            "loadgen_good_requests", "Requests that met every objective of --slo", b, registry=r
        )
        self.ttft = Histogram(
            "loadgen_ttft_seconds", "First token - sent", b, buckets=TTFT_BUCKETS, registry=r
        )
        self.tpot = Histogram(
            "loadgen_tpot_seconds",
            "(last token - first token) / (tokens - those of the first chunk)",
            b,
            buckets=TPOT_BUCKETS,
            registry=r,
        )
        self.e2e = Histogram("loadgen_e2e_seconds", "Last token - sent", b, buckets=E2E_BUCKETS, registry=r)
        self.e2e_due = Histogram(
            "loadgen_e2e_due_seconds", "Last token - due", b, buckets=E2E_BUCKETS, registry=r
        )
        self.gaps = GapHistogram()
        r.register(self.gaps)
        self.send_lag = Histogram("loadgen_send_lag_seconds", "Sent - due", buckets=LAG_BUCKETS, registry=r)
        self.loop_lag = Histogram(
            "loadgen_loop_lag_seconds",
            "Lateness of the generator's own event loop, real time",
            buckets=LAG_BUCKETS,
            registry=r,
        )
        self.set_verdict("RUNNING")

    def begin(self, run: RunInfo, planned: int | None, rate: float | None) -> None:
        """Say which run this is."""
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
        for budget in map(
            str, run.budgets
        ):  # a counter that starts above 0 hides its first growth from rate()
            self.requests.labels(outcome="ok", budget=budget)
            for family in (
                self.completion,
                self.prompt,
                self.good,
                self.ttft,
                self.tpot,
                self.e2e,
                self.e2e_due,
            ):
                family.labels(budget=budget)
        self.started.set(run.clock["wall_s"])
        self.planned.set(float("nan") if planned is None else planned)
        self.rate_asked.set(float("nan") if rate is None else rate)

    def set_verdict(self, verdict: str) -> None:
        """1 for the current verdict, 0 for the others."""
        for name in VERDICTS:
            self.verdict.labels(verdict=name).set(float(name == verdict))

    def end(self, verdict: str) -> None:
        """The run is over."""
        self.ended.set(time.time())
        self.set_verdict(verdict)

    def observe(self, record: Record, slo: dict[str, float]) -> None:
        """Count a request that has ended. Warm-ups count as requests, not as latencies."""
        budget = str(record.budget)
        self.requests.labels(outcome=record.outcome, budget=budget).inc()
        self.prompt.labels(budget=budget).inc(record.prompt_tokens or 0)
        if record.warmup:
            return
        for value, histogram in (
            (record.ttft_s, self.ttft),
            (record.tpot_s, self.tpot),
            (record.e2e_s, self.e2e),
            (record.e2e_due_s, self.e2e_due),
        ):
            if value is not None:
                histogram.labels(budget=budget).observe(value)
        if record.send_lag_s is not None:
            self.send_lag.observe(record.send_lag_s)
        if slo and meets(record, slo):
            self.good.labels(budget=budget).inc()


class GapHistogram:
    """`loadgen_inter_chunk_seconds`: a histogram of its own, for every token passes here (0.1 µs, not 1.4)."""

    def __init__(self) -> None:
        self._counts = [0] * (len(TPOT_BUCKETS) + 1)
        self._sum_s = 0.0

    def observe(self, arrival_ns: Sequence[int], scale: float) -> None:
        """Count the gaps of one call."""
        if arrival_ns:
            gaps_ns = sorted(map(sub, arrival_ns[1:], arrival_ns))
            below = [bisect_right(gaps_ns, bound * 1e9 / scale) for bound in TPOT_BUCKETS]
            for bucket, (since, until) in enumerate(pairwise([0, *below, len(gaps_ns)])):
                self._counts[bucket] += until - since
            self._sum_s += (arrival_ns[-1] - arrival_ns[0]) * scale / 1e9

    def take(self) -> tuple[list[int], float]:
        """Counts and sum since the last time, for `add` in another process."""
        taken = self._counts, self._sum_s
        self._counts, self._sum_s = [0] * len(self._counts), 0.0
        return taken

    def add(self, counts: Sequence[int], sum_s: float) -> None:
        """What `take` gave."""
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self._sum_s += sum_s

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What prometheus_client asks for at a scrape."""
        bounds = [*(str(float(bound)) for bound in TPOT_BUCKETS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(
            "loadgen_inter_chunk_seconds", "Gap between token events", buckets, self._sum_s
        )


class Exporter:
    """Serves the metrics while it is open."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        """Raises OSError where the port is taken."""
        self._server: WSGIServer
        self._thread: threading.Thread
        self._registry = metrics.registry
        self._server, self._thread = start_http_server(port, host, metrics.registry)
        self.port = int(self._server.server_port)
        self.url = f"metrics: http://{host}:{self.port}/metrics"

    def linger(self) -> None:
        """Where somebody scrapes, wait for two scrapes that begin now: both see the last counts and the verdict.

        Two, for Prometheus forgets a target at the first scrape that fails; between two, its recording rules see the end too.
        """
        begun = self._registry.begun
        if begun:
            wait_until(lambda: self._registry.answered > begun + 1, LINGER_S)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def wait_until(done: Callable[[], bool], patience_s: float) -> None:
    """Poll until done, or patience ends; then the answer on its way has 200 ms to go out."""
    deadline_s = time.monotonic() + patience_s
    while not done() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    time.sleep(0.2)


@contextmanager
def serving(metrics: Metrics, host: str, port: int | None) -> Iterator[str]:
    """Serve while the block lasts, and until its end was scraped; yields where, or why not.

    Raises UsageError where a port that was asked for is taken.
    """
    exporter = serve(metrics, host, port)
    if isinstance(exporter, str):
        yield exporter
        return
    try:
        yield exporter.url
        exporter.linger()
    finally:
        exporter.close()


def serve(metrics: Metrics, host: str, port: int | None) -> Exporter | str:
    """An exporter, or why there is none. Raises UsageError where a port that was asked for is taken."""
    if port == -1:
        return "metrics: off"
    try:
        return Exporter(metrics, host, PORT if port is None else port)
    except OSError as error:
        reason = f"{host}:{PORT if port is None else port} ({error.strerror})"
        if port is not None:
            raise UsageError(f"--metrics-port: can't listen on {reason}: choose another or off") from None
        return f"metrics: off: can't listen on {reason}"
