"""The dashboard *vLLM server*: queue, batch, memory and engine steps, and where a request spends its time in the server."""

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import PanelOrRow, build_dashboard, time_series_panel
from grafana.queries import fraction, latest, mean, or_zero, percentiles, quantile, rate, server_series

GENERATION_HANDLERS = 'handler=~"/v1/(chat/)?completions"'


def dashboard() -> Dashboard:
    """Build the dashboard."""
    contents = [*_scheduler(), *_steps_and_drafts(), *_requests(), *_capacity()]
    peak = TextBoxVariable("tflops").label("peak TFLOPS of a GPU").default_value("989")
    title = "Thinkload · vLLM server"
    return build_dashboard("server", title, contents, start="now-15m", variables=[peak])


def _scheduler() -> list[PanelOrRow]:
    return [
        time_series_panel(
            "Running and waiting requests",
            "short",
            (latest("vllm:num_requests_running"), "running {{config}}"),
            (latest("vllm:num_requests_waiting"), "waiting {{config}}"),
        ),
        time_series_panel(
            "KV cache usage",
            "percentunit",
            (latest("vllm:kv_cache_usage_perc", operation="max"), "{{config}}"),
            limit=0.95,
        ).max(1),
        time_series_panel("Preemptions", "ops", (rate("vllm:num_preemptions_total"), "{{config}}")),
    ]


def _steps_and_drafts() -> list[PanelOrRow]:
    itl = "vllm:inter_token_latency_seconds"
    generated = "vllm:generation_tokens_total"
    decoded = f"({rate(generated)} - {rate('vllm:time_to_first_token_seconds_count')})"
    accepted = or_zero(fraction("vllm:spec_decode_num_accepted_tokens_total", generated), rate(generated))
    return [
        time_series_panel("Step time", "s", (mean(itl), "{{config}}")),
        time_series_panel(
            "Tokens per request and step", "short", (f"{decoded} / ({rate(itl + '_count')} > 0)", "{{config}}")
        ),
        time_series_panel("Tokens per step", "short", (mean("vllm:iteration_tokens_total"), "{{config}}")),
        time_series_panel(
            "Prompt and output tokens",
            "suffix: tok/s",
            (rate(generated), "output {{config}}"),
            (rate("vllm:prompt_tokens_total"), "prompt {{config}}"),
        ),
        time_series_panel("Accepted drafts in the output", "percentunit", (accepted, "{{config}}")).max(1),
        time_series_panel(
            "Prefix cache hit rate",
            "percentunit",
            (fraction("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"), "{{config}}"),
        ).max(1),
    ]


def _requests() -> list[PanelOrRow]:
    phases = {"queue": "queued", "prefill": "prefill", "decode": "decode"}
    times = [(mean(f"vllm:request_{phase}_time_seconds"), f"{name} {{{{config}}}}") for phase, name in phases.items()]
    rejected = or_zero(rate("vllm:admission_rejections_total"), rate("vllm:generation_tokens_total"))
    http_requests = server_series("http_requests_total", GENERATION_HANDLERS)
    return [
        time_series_panel("Request time by phase", "s", *times),
        time_series_panel(
            "Time to first token", "s", *percentiles(quantile, "vllm:time_to_first_token_seconds", 0.5, 0.99)
        ),
        time_series_panel("Output length", "short", (mean("vllm:request_generation_tokens"), "{{config}}")),
        time_series_panel(
            "Requests by finish reason",
            "reqps",
            (rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),
            stacked=True,
        ),
        time_series_panel(
            "HTTP responses by status",
            "reqps",
            (f"sum by (status) (rate({http_requests}[$__rate_interval]))", "{{status}}"),
            stacked=True,
        ),
        time_series_panel("Rejected requests", "reqps", (rejected, "{{config}}")),
    ]


def _capacity() -> list[PanelOrRow]:
    flops = "vllm:estimated_flops_per_gpu_total"
    scraped = server_series("up", 'job=~"server|gpu"')
    return [
        time_series_panel(
            "Waiting requests by reason",
            "short",
            (latest("vllm:num_requests_waiting_by_reason", "config, reason"), "{{reason}} {{config}}"),
            stacked=True,
        ).span(6),
        time_series_panel(
            "Prompt length",
            "short",
            (mean("vllm:request_prompt_tokens"), "mean {{config}}"),
            *percentiles(quantile, "vllm:request_prompt_tokens", 0.99),
        ).span(6),
        time_series_panel(
            "Model FLOPS utilization (MFU)",
            "percentunit",
            (f"{rate(flops)} / (count by (config) ({server_series(flops)}) * $tflops * 1e12)", "{{config}}"),
        ).span(6),
        time_series_panel("Unreachable targets", "short", (f"sum by (job) ({scraped} == bool 0)", "{{job}}")).span(6),
    ]
