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
    mean,
    or_zero,
    quantile,
    rate,
    server_series,
)

FAILED = 'outcome!="ok"'


def dashboard() -> Dashboard:
    """Build the dashboard. Its first 21 grid rows are one screen; the panels on the quality of the measurement follow below."""
    description = "Top: how far the run is and whether it goes well. Middle: whether client and server report the same latency. Bottom: whether the measurement can be trusted."
    contents = [
        *_progress(),
        *_rate_and_health(),
        *_load(),
        *_latency(),
        "Measurement quality",
        *_measurement_quality(),
        *_emulator_and_cache(),
    ]
    return build_dashboard("run", "Thinkload · Load test run", description, contents, start="now-10m")


def _progress() -> list[PanelOrRow]:
    # Of several load generators, the worst verdict is shown.
    states = {"INVALID": "red", "SUSPECT": "orange", "RUNNING": "blue", "VALID": "green"}
    verdict = " or ".join(f'max(loadgen_verdict{{verdict="{name}"}} == 1) * {n}' for n, name in enumerate(states))
    ended = client_value("loadgen_requests_total")
    failed = or_zero(f"sum({client_value(f'loadgen_requests_total{{{FAILED}}}')})", f"sum({ended})")
    planned = client_value("loadgen_requests_planned")
    return [
        stat_panel(
            "Verdict",
            "RUNNING during the run, then VALID, SUSPECT or INVALID. run.json gives the reasons; the panels to the right show problems earlier.",
            "short",
            (verdict, "verdict"),
            value_texts={str(n): state for n, state in enumerate(states.items())},
        ),
        stat_panel(
            "Progress",
            "Requests that have ended, successful or not, as a fraction of the planned requests. A run with a fixed duration has no planned number of requests.",
            "percentunit",
            (f"sum({ended}) / sum({planned} > 0) or sum({ended}) * 0 - 1", "done"),
            value_texts={"-1": ("timed", "text")},
            decimals=0,
        ),
        stat_panel(
            "Requests ended",
            "The sample size of every percentile. A p99 needs several hundred requests to be meaningful.",
            "short",
            (f"sum({ended})", "requests"),
            decimals=0,
        ),
        stat_panel(
            "Failed",
            "Should be 0. The alert ErrorRate fires above 5 %. Percentiles over the successful requests then make the server look faster than it is.",
            "percentunit",
            (f"({failed}) / clamp_min(sum({ended}), 1)", "failed"),
            thresholds=((None, "green"), (0.001, "orange"), (0.05, "red")),
            decimals=1,
        ),
    ]


def _rate_and_health() -> list[PanelOrRow]:
    lag = "max(thinkload:send_lag_seconds_p99 or thinkload:loop_lag_seconds_p99)"
    good, judged, ended = (client_value(f"loadgen_{name}requests_total") for name in ("good_", "slo_", ""))
    return [
        stat_panel(
            "Within SLO",
            "The fraction of the measured requests that met every objective of --slo. The alert SLOMissed fires below 95 %. The lines SLO in the panels below are the limits.",
            "percentunit",
            (f"sum({good}) / (sum({judged}) > 0) or sum({ended}) * 0 - 1", "good"),
            value_texts={"-1": ("no SLO", "text")},
            thresholds=((None, "red"), (0.95, "green")),
            decimals=1,
        ),
        stat_panel(
            "Output",
            "Output tokens per second, counted by the client, summed over all selected configurations.",
            "suffix: tok/s",
            (f"sum({client_rate('loadgen_completion_tokens_total')})", "tokens/s"),
            decimals=0,
        ),
        stat_panel(
            "Client lag p99",
            "Should be below 5 ms. The larger of the delay with which requests are sent and the lag of the client's event loop.",
            "s",
            (lag, "lag"),
            thresholds=((None, "green"), (0.005, "red")),
            decimals=1,
        ),
        stat_panel(
            "Alerts firing",
            "Should be none. Prometheus lists the alerts on its page Alerts, each with the recommended action.",
            "short",
            ('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),
            value_texts={"0": ("none", "green")},
            thresholds=((None, "green"), (1, "red")),
        ),
    ]


def _load() -> list[PanelOrRow]:
    due = client_rate("loadgen_requests_due_total")
    running, waiting = (server_series(f"vllm:num_requests_{state}") for state in ("running", "waiting"))
    return [
        time_series_panel(
            "Request rate: target and achieved",
            "The lines should coincide. If the achieved rate is below the target, the server cannot keep up. A closed loop has no target rate; its target is the rate of due requests.",
            "reqps",
            (f"({client_value('loadgen_rate_asked_per_second')} > 0) or {due}", "target {{config}}"),
            (due, "due {{config}}"),
            (client_rate("loadgen_requests_total"), "achieved {{config}}"),
        ),
        time_series_panel(
            "Requests in flight",
            "The client's count should equal the server's running plus waiting requests. If requests wait for long, the TTFT is mostly the time in the queue.",
            "short",
            (client_value("loadgen_requests_in_flight"), "client {{config}}"),
            (f"sum by (config) ({running})", "running {{config}}"),
            (f"sum by (config) ({waiting})", "waiting {{config}}"),
        ),
        time_series_panel(
            "Output tokens: client and server",
            "The lines should coincide. A difference means that tokens were lost on the way or that other clients use this server.",
            "suffix: tok/s",
            (client_rate("loadgen_completion_tokens_total"), "client {{config}}"),
            (rate("vllm:generation_tokens_total"), "server {{config}}"),
        ),
    ]


def _latency() -> list[PanelOrRow]:
    client = [
        ("TTFT, client", "Time from sending the request to its first token. The difference to the server's TTFT below is network and client.", "loadgen_ttft_seconds"),
        ("TPOT, client", "Time per output token after the first chunk. Constant in a steady run; it increases with batch size and context length.", "loadgen_tpot_seconds"),
        ("End to end, client", "Time from sending the request to its last token. Clusters at the token budgets are normal, because many answers end there.", "loadgen_e2e_seconds"),
    ]  # fmt: skip
    server = [
        ("TTFT, server", "Time from the arrival of the request to its first token, including the queue. Its buckets are those of the client's TTFT.", "vllm:time_to_first_token_seconds"),
        ("TPOT, server", "Use the mean: vLLM's buckets start at 10 ms, and the TPOT on an H200 is below that.", "vllm:request_time_per_output_token_seconds"),
        ("End to end, server", "The buckets are coarse and start at 0.3 s. The client's p99 is more precise.", "vllm:e2e_request_latency_seconds"),
    ]  # fmt: skip
    return [
        *(time_series_panel(title, text, "s", *_client_lines(metric)) for title, text, metric in client),
        *(time_series_panel(title, text, "s", *_server_lines(metric)) for title, text, metric in server),
    ]


def _client_lines(metric: str) -> list[tuple[str, str]]:
    objective = metric.removeprefix("loadgen_").removesuffix("_seconds")
    limit_s = client_value(f'loadgen_slo_seconds{{objective="{objective}"}}', by="config, run")
    quantiles = [(client_quantile(q, metric), f"p{q * 100:.0f} {{{{config}}}}") for q in (0.5, 0.9, 0.99)]
    mean_line = [(client_mean(metric), "mean {{config}}")] if "tpot" in metric else []
    return [*quantiles, *mean_line, (f"max({limit_s})", "SLO")]


def _server_lines(metric: str) -> list[tuple[str, str]]:
    quantiles = [(quantile(q, metric), f"p{q * 100:.0f} {{{{config}}}}") for q in (0.5, 0.9, 0.99)]
    return [*quantiles, *([(mean(metric), "mean {{config}}")] if "per_output_token" in metric else [])]


def _measurement_quality() -> list[PanelOrRow]:
    gap = "loadgen_inter_chunk_seconds"
    return [
        time_series_panel(
            "Requests ended, by outcome",
            "All should be ok. The server causes reset, cut and malformed; your timeout setting causes timeout; Ctrl-C causes cancelled.",
            "reqps",
            (client_rate("loadgen_requests_total", "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        time_series_panel(
            "Client lag, p99",
            "Should stay below the dashed line at 5 ms. Above it, the client distorts its own measurement: use more --workers or another host.",
            "s",
            (client_quantile(0.99, "loadgen_send_lag_seconds"), "send lag {{config}}"),
            (client_quantile(0.99, "loadgen_loop_lag_seconds"), "loop lag {{config}}"),
            limit=0.005,
        ),
        time_series_panel(
            "Time between chunks",
            "The p99 should be close to the p50. A p99 far above it means stalls: preemption, the prefill of another request, or the network.",
            "s",
            (client_quantile(0.5, gap), "p50 {{config}}"),
            (client_quantile(0.99, gap), "p99 {{config}}"),
        ),
    ]


def _emulator_and_cache() -> list[PanelOrRow]:
    emulator_lag = or_zero(
        f"max by (config) ({server_series('thinkload_emulator_behind_seconds')})",
        f"max by (config) ({server_series('thinkload:time_scale')})",
    )
    return [
        time_series_panel(
            "Emulator lag",
            "Always 0 for a real server. Above 0.1 s, the host is too slow for the chosen --speed and the run is SUSPECT.",
            "s",
            (emulator_lag, "{{config}}"),
            width=11,
        ),
        time_series_panel(
            "Prefix cache hit rate",
            "Should be 0 in a benchmark, because a cache hit avoids the prefill that is to be measured. Use --cache salt, or disable prefix caching.",
            "percentunit",
            (f"max by (config) ({server_series('thinkload:prefix_cache_hit_rate')})", "{{config}}"),
            width=10,
            maximum=1,
        ),
        stat_panel(
            "Time scale",
            "1 means real time. Above 1, an emulator runs faster than real time by this factor. All rates on this dashboard are per second of model time.",
            "suffix:×",
            (f"max({server_series('thinkload:time_scale')})", "time scale"),
        ).height(6),
    ]
