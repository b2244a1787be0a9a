"""PromQL as the dashboards need it: selected by the dashboard's variables, in model seconds, joined by configuration.

Rules: windows are `$__rate_interval` (a fixed one loses short runs, `$__interval` gives gaps); a ratio of an idle server is 0
or nothing, never NaN by division; names exist in vLLM 0.26 to 0.33, or the expression falls back to 0. Series recorded in
`prometheus/rules/` are named `thinkload:*`.

Does not know: panels, Grafana.
"""

BY = "config, model, tp, speculation, run"
"""What identifies a served configuration: the labels that a launcher's target file gives server and GPU."""
CHOSEN = 'config=~"$config", model=~"$model", run=~"$run"'
CHOSEN_CLIENT = 'config=~"$config", model=~"$model", run=~"($run).*"'
"""A server's run may hold several of the generator's: the sweep's name begins theirs."""
WINDOW = "$__rate_interval"


def select(metric: str, more: str = "") -> str:
    """Series of the server, its GPUs or a recording rule."""
    return f"{metric}{{{CHOSEN}{', ' + more if more else ''}}}"


def chosen(rule: str) -> str:
    """Series of a recording rule over the generator's metrics."""
    return f"{rule}{{{CHOSEN_CLIENT}}}"


def rate(metric: str, by: str = "config", more: str = "") -> str:
    """Per model second, of a server's counter."""
    per_wall_second = f"sum by ({', '.join([BY, *_beyond(by)])}) (rate({select(metric, more)}[{WINDOW}]))"
    return f"sum by ({by}) ({per_wall_second} / on ({BY}) group_left () thinkload:time_scale)"


def _beyond(by: str) -> list[str]:
    """Labels that are not a configuration's."""
    return [label for label in by.split(", ") if label not in BY.split(", ")]


def ratio(above: str, below: str, by: str = "config") -> str:
    """One counter's growth over another's; nothing where the lower one stands still."""
    return f"{rate(above, by)} / ({rate(below, by)} > 0)"


def share(above: str, below: str, by: str = "config") -> str:
    """Part of a whole; 0 where the whole stands still."""
    return f"{rate(above, by)} / clamp_min({rate(below, by)}, 1e-9)"


def quantile(q: float, histogram: str, by: str = "config") -> str:
    """Quantile of a server's histogram, interpolated within its bucket."""
    buckets = f"rate({select(histogram + '_bucket')}[{WINDOW}])"
    return f"histogram_quantile({q}, sum by ({by}, le) ({buckets}))"


def mean(histogram: str, by: str = "config") -> str:
    """Mean of a server's histogram: exact, whatever its buckets."""
    return ratio(f"{histogram}_sum", f"{histogram}_count", by)


def client(metric: str, by: str = "config", *, more: str = "") -> str:
    """Per model second, of a generator's counter. `thinkload:client_run` knows its run, and is the server's time scale."""
    own = ", ".join(["instance", *_beyond(by)])
    counter = f"rate({metric}{{{more}}}[{WINDOW}])" if more else f"rate({metric}[{WINDOW}])"
    return f"sum by ({by}) (sum by ({own}) ({counter}) / on (instance) group_left ({BY}) {chosen('thinkload:client_run')})"


def client_now(metric: str, by: str = "config") -> str:
    """A generator's gauge or cumulative count as it is."""
    own = ", ".join(["instance", *_beyond(by)])
    info = f"{chosen('thinkload:client_run')} ^ 0"
    return f"sum by ({by}) (sum by ({own}) ({metric}) * on (instance) group_left ({BY}) ({info}))"


def client_quantile(q: float, histogram: str, by: str = "config") -> str:
    """Quantile of a generator's histogram."""
    return f"histogram_quantile({q}, {client(histogram + '_bucket', f'{by}, le')})"


def client_mean(histogram: str, by: str = "config") -> str:
    """Mean of a generator's histogram."""
    return f"{client(histogram + '_sum', by)} / ({client(histogram + '_count', by)} > 0)"


def or_zero(expr: str, like: str) -> str:
    """`expr`, or 0 where `like` has a value: for metrics that some versions lack."""
    return f"({expr}) or ({like}) * 0"


# Over the whole selected time, for configurations that ran one after another ------------------------------------------


def while_busy(rule: str, by: str = "config") -> str:
    """Integral of a recorded series over the model seconds in which it was busy: GPUs → GPU-seconds, watts → joules."""
    return f"sum by ({by}) (sum_over_time(({select(rule)} * thinkload:busy)[$__range:1s]))"


def grown(counter: str, by: str = "config") -> str:
    """How far a server's counter grew in the selected time."""
    return f"sum by ({by}) (increase({select(counter)}[$__range]))"


def whole(rule: str, by: str = "config", more: str = "") -> str:
    """Count of the runs that the selected time touches, each whole."""
    return f"sum by ({by}) (max_over_time({rule}{{{CHOSEN_CLIENT}{more}}}[$__range]))"


def whole_quantile(q: float, rule: str, by: str = "config", more: str = "") -> str:
    """Quantile over those runs' requests."""
    return f"histogram_quantile({q}, {whole(rule, f'{by}, le', more)})"
