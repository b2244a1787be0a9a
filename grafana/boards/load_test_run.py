"""The dashboard *Load test run*: the progress of a run, its latency as client and server measure it, and the quality of the measurement.

The client's quantiles stand directly above the server's, so that readers can compare them.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import PanelOrRow, build_dashboard, stat_panel, time_series_panel
from grafana.queries import (
    client_mean,
    client_quantile,
    client_rate,
    client_value,
    latest,
    mean,
    or_zero,
    percentiles,
    quantile,
    rate,
    server_series,
)


def dashboard() -> Dashboard:
    """Build the dashboard. Its first 21 grid rows are one screen; the panels on the quality of the measurement follow below."""
    contents = [
        *_progress(),
        *_rate_and_health(),
        *_load(),
        *_latency(),
        "Measurement quality",
        *_measurement_quality(),
    ]
    return build_dashboard("run", "Thinkload · Load test run", contents, start="now-10m")


def _progress() -> list[PanelOrRow]:
    # Of several load generators, the worst verdict is shown.
    states = {"INVALID": "red", "SUSPECT": "orange", "RUNNING": "blue", "VALID": "green"}
    verdict = " or ".join(f'max(loadgen_verdict{{verdict="{name}"}} == 1) * {n}' for n, name in enumerate(states))
    ended = client_value("loadgen_requests_total")
    not_ok = client_value('loadgen_requests_total{outcome!="ok"}')
    failed = or_zero(f"sum({not_ok})", f"sum({ended})")
    planned = client_value("loadgen_requests_planned")
    return [
        stat_panel(
            "Verdict",
            "short",
            (verdict, "verdict"),
            value_texts={str(n): state for n, state in enumerate(states.items())},
        ),
        stat_panel(
            "Progress",
            "percentunit",
            (f"sum({ended}) / sum({planned} > 0) or sum({ended}) * 0 - 1", "done"),
            value_texts={"-1": ("timed", "text")},
        ).decimals(0),
        stat_panel("Requests ended", "short", (f"sum({ended})", "requests")).decimals(0),
        stat_panel(
            "Failed",
            "percentunit",
            (f"({failed}) / clamp_min(sum({ended}), 1)", "failed"),
            thresholds=((None, "green"), (0.001, "orange"), (0.05, "red")),
        ).decimals(1),
    ]


def _rate_and_health() -> list[PanelOrRow]:
    lag = "max(thinkload:send_lag_seconds_p99 or thinkload:loop_lag_seconds_p99)"
    good, judged, ended = (client_value(f"loadgen_{name}requests_total") for name in ("good_", "slo_", ""))
    return [
        stat_panel(
            "Within SLO",
            "percentunit",
            (f"sum({good}) / (sum({judged}) > 0) or sum({ended}) * 0 - 1", "good"),
            value_texts={"-1": ("no SLO", "text")},
            thresholds=((None, "red"), (0.95, "green")),
        ).decimals(1),
        stat_panel(
            "Output", "suffix: tok/s", (f"sum({client_rate('loadgen_completion_tokens_total')})", "tokens/s")
        ).decimals(0),
        stat_panel("Client lag p99", "s", (lag, "lag"), thresholds=((None, "green"), (0.005, "red"))).decimals(1),
        stat_panel(
            "Alerts firing",
            "short",
            ('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),
            value_texts={"0": ("none", "green")},
            thresholds=((None, "green"), (1, "red")),
        ),
    ]


def _load() -> list[PanelOrRow]:
    due = client_rate("loadgen_requests_due_total")
    return [
        time_series_panel(
            "Request rate: target and achieved",
            "reqps",
            (f"({client_value('loadgen_rate_asked_per_second')} > 0) or {due}", "target {{config}}"),
            (due, "due {{config}}"),
            (client_rate("loadgen_requests_total"), "achieved {{config}}"),
        ),
        time_series_panel(
            "Requests in flight",
            "short",
            (client_value("loadgen_requests_in_flight"), "client {{config}}"),
            (latest("vllm:num_requests_running"), "running {{config}}"),
            (latest("vllm:num_requests_waiting"), "waiting {{config}}"),
        ),
        time_series_panel(
            "Output tokens: client and server",
            "suffix: tok/s",
            (client_rate("loadgen_completion_tokens_total"), "client {{config}}"),
            (rate("vllm:generation_tokens_total"), "server {{config}}"),
        ),
    ]


def _latency() -> list[PanelOrRow]:
    client = {"TTFT": "ttft", "TPOT": "tpot", "End to end": "e2e"}
    server = {
        "TTFT": "time_to_first_token",
        "TPOT": "request_time_per_output_token",
        "End to end": "e2e_request_latency",
    }
    return [
        *(time_series_panel(f"{title}, client", "s", *_client_lines(name)) for title, name in client.items()),
        *(time_series_panel(f"{title}, server", "s", *_server_lines(name)) for title, name in server.items()),
    ]


def _client_lines(name: str) -> list[tuple[str, str]]:
    histogram = f"loadgen_{name}_seconds"
    limit_s = client_value(f'loadgen_slo_seconds{{objective="{name}"}}', by="config, run")
    mean_line = [(client_mean(histogram), "mean {{config}}")] if name == "tpot" else []
    return [*percentiles(client_quantile, histogram, 0.5, 0.9, 0.99), *mean_line, (f"max({limit_s})", "SLO")]


def _server_lines(name: str) -> list[tuple[str, str]]:
    histogram = f"vllm:{name}_seconds"
    mean_line = [(mean(histogram), "mean {{config}}")] if "per_output_token" in name else []
    return [*percentiles(quantile, histogram, 0.5, 0.9, 0.99), *mean_line]


def _measurement_quality() -> list[PanelOrRow]:
    emulator_lag = or_zero(
        latest("thinkload_emulator_behind_seconds", operation="max"), latest("thinkload:time_scale", operation="max")
    )
    hit_rate = latest("thinkload:prefix_cache_hit_rate", operation="max")
    gaps = percentiles(client_quantile, "loadgen_inter_chunk_seconds", 0.5, 0.99)
    return [
        time_series_panel(
            "Requests ended, by outcome",
            "reqps",
            (client_rate("loadgen_requests_total", "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        time_series_panel(
            "Client lag, p99",
            "s",
            (client_quantile(0.99, "loadgen_send_lag_seconds"), "send lag {{config}}"),
            (client_quantile(0.99, "loadgen_loop_lag_seconds"), "loop lag {{config}}"),
            limit=0.005,
        ),
        time_series_panel("Time between chunks", "s", *gaps),
        time_series_panel("Emulator lag", "s", (emulator_lag, "{{config}}")).span(11),
        time_series_panel("Prefix cache hit rate", "percentunit", (hit_rate, "{{config}}")).span(10).max(1),
        stat_panel("Time scale", "suffix:×", (f"max({server_series('thinkload:time_scale')})", "time scale")).height(6),
    ]
