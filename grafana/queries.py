"""PromQL expressions for the dashboards. They filter by the dashboard's variables and convert rates to model time.

Rules: the window of a rate is `$__rate_interval`, because a fixed window misses short runs and `$__interval` leaves gaps. For an
idle server, a ratio is 0 or has no value; it is never NaN after a division by zero. Every metric name exists in vLLM 0.26 to 0.33, or
the expression falls back to 0. Series that `prometheus/rules/` records have the prefix `thinkload:`.

This module does not know panels or Grafana's JSON.
"""

from collections.abc import Callable

SERVER_LABELS = "config, model, tp, speculation, run"
"""The labels that identify a served configuration. The launcher's target file gives them to the server and to its GPUs."""
SERVER_FILTER = 'config=~"$config", model=~"$model", run=~"$run"'
CLIENT_FILTER = 'config=~"$config", model=~"$model", run=~"($run).*"'
"""One run of a server may include several runs of the load generator, whose names begin with the name of the server's run."""
WINDOW = "$__rate_interval"


def server_series(metric: str, matchers: str = "") -> str:
    """Select series of the server, of its GPUs, or of a recording rule over them."""
    return f"{metric}{{{SERVER_FILTER}{', ' + matchers if matchers else ''}}}"


def client_series(rule: str) -> str:
    """Select series of a recording rule over the load generator's metrics."""
    return f"{rule}{{{CLIENT_FILTER}}}"


def latest(metric: str, by: str = "config", operation: str = "sum") -> str:
    """Current value of a server's series: the sum, the maximum (`max`) … for each value of the labels `by`."""
    return f"{operation} by ({by}) ({server_series(metric)})"


def rate(metric: str, by: str = "config") -> str:
    """Rate of a server's counter, per second of model time."""
    labels = ", ".join([SERVER_LABELS, *_other_labels(by)])
    per_wall_second = f"sum by ({labels}) (rate({server_series(metric)}[{WINDOW}]))"
    return f"sum by ({by}) ({per_wall_second} / on ({SERVER_LABELS}) group_left () thinkload:time_scale)"


def _other_labels(by: str) -> list[str]:
    """Labels of `by` that do not identify a configuration."""
    return [label for label in by.split(", ") if label not in SERVER_LABELS.split(", ")]


def fraction(part: str, total: str) -> str:
    """Rate of a counter as a fraction of the rate of another; 0 while the other does not increase."""
    return f"{rate(part)} / clamp_min({rate(total)}, 1e-9)"


def quantile(q: float, histogram: str) -> str:
    """Quantile of a server's histogram, interpolated within its bucket."""
    buckets = f"rate({server_series(histogram + '_bucket')}[{WINDOW}])"
    return f"histogram_quantile({q}, sum by (config, le) ({buckets}))"


def mean(histogram: str) -> str:
    """Mean of a server's histogram. It is exact and does not depend on the buckets; no value while the count does not increase."""
    return f"{rate(histogram + '_sum')} / ({rate(histogram + '_count')} > 0)"


def client_rate(metric: str, by: str = "config") -> str:
    """Rate of a load generator's counter, per second of model time."""
    return _of_runs(f"rate({metric}[{WINDOW}])", "/", client_series("thinkload:client_run"), by)


def client_value(metric: str, by: str = "config") -> str:
    """Current value of a load generator's gauge or counter."""
    return _of_runs(metric, "*", f"({client_series('thinkload:client_run')} ^ 0)", by)


def _of_runs(value: str, operation: str, run: str, by: str) -> str:
    """Add the labels of the run to a value. The value of `thinkload:client_run` is the time scale of the server."""
    labels = ", ".join(["instance", *_other_labels(by)])
    return f"sum by ({by}) (sum by ({labels}) ({value}) {operation} on (instance) group_left ({SERVER_LABELS}) {run})"


def client_quantile(q: float, histogram: str) -> str:
    """Quantile of a load generator's histogram."""
    return f"histogram_quantile({q}, {client_rate(histogram + '_bucket', 'config, le')})"


def client_mean(histogram: str) -> str:
    """Mean of a load generator's histogram."""
    return f"{client_rate(histogram + '_sum')} / ({client_rate(histogram + '_count')} > 0)"


def percentiles(quantile: Callable[[float, str], str], histogram: str, *shares: float) -> list[tuple[str, str]]:
    """Quantiles of a histogram, by the server's or the client's function, with their legends."""
    return [(quantile(share, histogram), f"p{share * 100:.0f} {{{{config}}}}") for share in shares]


def or_zero(expr: str, like: str) -> str:
    """`expr`, or 0 where only `like` has a value. For metrics that some versions of the server do not have."""
    return f"({expr}) or ({like}) * 0"


# Values over the whole selected time range. The configurations in it may have run one after another.


def integral_while_busy(rule: str, by: str = "config") -> str:
    """Integral of a recorded series over the model time in which the server was busy: GPUs become GPU-seconds, watts joules."""
    return f"sum by ({by}) (sum_over_time(({server_series(rule)} * thinkload:busy)[$__range:1s]))"


def increase(counter: str, by: str = "config") -> str:
    """Increase of a server's counter over the selected time range."""
    return f"sum by ({by}) (increase({server_series(counter)}[$__range]))"


def run_total(rule: str, by: str = "config", matchers: str = "") -> str:
    """Total count of every run that overlaps the selected time range, including what happened outside the range."""
    return f"sum by ({by}) (max_over_time({rule}{{{CLIENT_FILTER}{matchers}}}[$__range]))"


def run_quantile(q: float, rule: str, by: str = "config", matchers: str = "") -> str:
    """Quantile over the requests of those runs."""
    return f"histogram_quantile({q}, {run_total(rule, f'{by}, le', matchers)})"
