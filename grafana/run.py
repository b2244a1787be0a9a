"""Dashboard *Run*: is it going well, and can I trust it? The client's quantiles stand right above the server's."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import About, Part, board, lines, number
from grafana.queries import (
    client,
    client_mean,
    client_now,
    client_quantile,
    mean,
    or_zero,
    quantile,
    rate,
    select,
)

FAILED = 'outcome!="ok"'


def dashboard() -> Dashboard:
    """Build the whole board: 21 rows are one screen, the doubts are below."""
    look_for = "Is the run going well (top), do client and server tell the same story (middle), can it be trusted (bottom)?"
    parts: list[Part] = [*_state(), *_going(), *_latency(), "Can I trust it?", *_doubts()]
    return board("run", "Thinkload · Run", look_for, parts, since="now-10m")


def _state() -> list[Part]:
    # Of several generators' verdicts the worst.
    states = {"INVALID": "red", "SUSPECT": "orange", "RUNNING": "blue", "VALID": "green"}
    verdict = " or ".join(
        f'max(loadgen_verdict{{verdict="{name}"}} == 1) * {n}' for n, name in enumerate(states)
    )
    words = {str(n): state for n, state in enumerate(states.items())}
    done = client_now("loadgen_requests_total")
    failed = or_zero(f"sum({client_now(f'loadgen_requests_total{{{FAILED}}}')})", f"sum({done})")
    planned = client_now("loadgen_requests_planned")
    lag = "max(thinkload:send_lag_seconds_p99 or thinkload:loop_lag_seconds_p99)"
    return [
        number(
            About(
                "Verdict",
                "RUNNING, then VALID. SUSPECT and INVALID have their reasons in run.json; the numbers on the right show them coming.",
            ),
            (verdict, "verdict"),
            words=words,
        ),
        number(
            About(
                "Done",
                "Of the requests planned, those that have ended, well or not. A run of a given duration plans none.",
                "percentunit",
            ),
            (f"sum({done}) / sum({planned} > 0) or sum({done}) * 0 - 1", "done"),
            words={"-1": ("timed", "text")},
            decimals=0,
        ),
        number(
            About(
                "Requests ended", "The n behind every percentile: p99 needs some hundreds to mean anything."
            ),
            (f"sum({done})", "requests"),
            decimals=0,
        ),
        number(
            About(
                "Failed",
                "0. Above 5 % ErrorRate fires; a percentile over the successes alone then flatters the server.",
                "percentunit",
            ),
            (f"({failed}) / clamp_min(sum({done}), 1)", "failed"),
            steps=((None, "green"), (0.001, "orange"), (0.05, "red")),
            decimals=1,
        ),
        number(
            About(
                "Output",
                "Tokens a second, as the client counts them, over all configurations shown.",
                "suffix: tok/s",
            ),
            (f"sum({client('loadgen_completion_tokens_total')})", "tokens/s"),
            decimals=0,
        ),
        number(
            About(
                "Client lag p99",
                "Below 5 ms. The larger of how late requests were sent and how late the client's own loop ran.",
                "s",
            ),
            (lag, "lag"),
            steps=((None, "green"), (0.005, "red")),
            decimals=1,
        ),
        number(
            About("Alerts firing", "None. The list is in Prometheus under Alerts, each with what to do."),
            ('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),
            words={"0": ("none", "green")},
            steps=((None, "green"), (1, "red")),
        ),
        number(
            About(
                "Model time",
                "1: real time. Above 1 an emulator runs that much faster; every rate here is per *model* second.",
                "suffix:×",
            ),
            (f"max({select('thinkload:time_scale')})", "time scale"),
        ),
    ]


def _going() -> list[Part]:
    due = client("loadgen_requests_due_total")
    running, waiting = select("vllm:num_requests_running"), select("vllm:num_requests_waiting")
    return [
        lines(
            About(
                "Requests: asked and achieved",
                "The lines on each other. Achieved below asked: the server can't keep up. A closed loop asks for what is due.",
                "reqps",
            ),
            (f"({client_now('loadgen_rate_asked_per_second')} > 0) or {due}", "asked {{config}}"),
            (due, "due {{config}}"),
            (client("loadgen_requests_total"), "achieved {{config}}"),
        ),
        lines(
            About(
                "In flight",
                "The client's count is the server's running plus waiting. Waiting above 0 for long: TTFT measures the queue.",
            ),
            (client_now("loadgen_requests_in_flight"), "client {{config}}"),
            (f"sum by (config) ({running})", "running {{config}}"),
            (f"sum by (config) ({waiting})", "waiting {{config}}"),
        ),
        lines(
            About(
                "Output tokens: client and server",
                "The lines on each other. A gap means tokens lost on the way, or other clients on this server.",
                "suffix: tok/s",
            ),
            (client("loadgen_completion_tokens_total"), "client {{config}}"),
            (rate("vllm:generation_tokens_total"), "server {{config}}"),
        ),
    ]


def _latency() -> list[Part]:
    ours = [
        (
            "TTFT, client",
            "First token after sending. Compare with the server's below: the difference is network and client.",
            "loadgen_ttft_seconds",
        ),
        (
            "TPOT, client",
            "Time a token after the first chunk. Flat in a steady run; rising with the batch and the context.",
            "loadgen_tpot_seconds",
        ),
        (
            "End to end, client",
            "Sent to last token. Bands at the token budgets are normal: answers end there.",
            "loadgen_e2e_seconds",
        ),
    ]
    theirs = [
        (
            "TTFT, server",
            "Arrival to first token, queueing included. Same buckets as the client's, so the two compare.",
            "vllm:time_to_first_token_seconds",
        ),
        (
            "TPOT, server",
            "Trust the mean: vLLM's buckets start at 10 ms, and an H200 is below that.",
            "vllm:request_time_per_output_token_seconds",
        ),
        (
            "End to end, server",
            "Coarse buckets from 0.3 s: the client's p99 is the finer one.",
            "vllm:e2e_request_latency_seconds",
        ),
    ]
    return [
        *(lines(About(title, text, "s"), *_client_lines(name)) for title, text, name in ours),
        *(lines(About(title, text, "s"), *_server_lines(name)) for title, text, name in theirs),
    ]


def _client_lines(name: str) -> list[tuple[str, str]]:
    quantiles = [(client_quantile(q, name), f"p{q * 100:.0f} {{{{config}}}}") for q in (0.5, 0.9, 0.99)]
    return [*quantiles, *([(client_mean(name), "mean {{config}}")] if "tpot" in name else [])]


def _server_lines(name: str) -> list[tuple[str, str]]:
    quantiles = [(quantile(q, name), f"p{q * 100:.0f} {{{{config}}}}") for q in (0.5, 0.9, 0.99)]
    return [*quantiles, *([(mean(name), "mean {{config}}")] if "per_output_token" in name else [])]


def _doubts() -> list[Part]:
    gap = "loadgen_inter_chunk_seconds"
    behind = or_zero(
        f"max by (config) ({select('thinkload_emulator_behind_seconds')})",
        f"max by (config) ({select('thinkload:time_scale')})",
    )
    return [
        lines(
            About(
                "Requests ended, by outcome",
                "Only ok. reset, cut and malformed are the server's, timeout is yours, cancelled is Ctrl-C.",
                "reqps",
            ),
            (client("loadgen_requests_total", "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            About(
                "How late the client is, p99",
                "Below the dashed 5 ms. Above it the client measures itself: more --workers, or another host.",
                "s",
            ),
            (client_quantile(0.99, "loadgen_send_lag_seconds"), "send lag {{config}}"),
            (client_quantile(0.99, "loadgen_loop_lag_seconds"), "loop lag {{config}}"),
            limit=0.005,
        ),
        lines(
            About(
                "Gap between chunks",
                "p99 near p50. A p99 far above it is a stall: preemption, a prefill in between, or the network.",
                "s",
            ),
            (client_quantile(0.5, gap), "p50 {{config}}"),
            (client_quantile(0.99, gap), "p99 {{config}}"),
        ),
        lines(
            About(
                "Emulator behind its clock",
                "0, and always 0 for a real server. Above 0.1 s the host is too slow for --speed, and the run is SUSPECT.",
                "s",
            ),
            (behind, "{{config}}"),
            w=12,
        ),
        lines(
            About(
                "Prompt cache hits",
                "0 for a benchmark: a hit hides prefill. Use --cache salt, or turn prefix caching off.",
                "percentunit",
            ),
            (f"max by (config) ({select('thinkload:prefix_cache_hit_rate')})", "{{config}}"),
            w=12,
            max_value=1,
        ),
    ]
