"""The dashboard *vLLM server*: queue, batch, memory and engine steps, and where a request spends its time in the server."""

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import PanelOrRow, build_dashboard, time_series_panel
from grafana.queries import fraction, mean, or_zero, quantile, rate, server_series

GENERATION_HANDLERS = 'handler=~"/v1/(chat/)?completions"'


def dashboard() -> Dashboard:
    """Build the dashboard."""
    description = "Does the queue, the batch, the memory or the step time limit the server? Works with vLLM 0.26 to 0.33, real or emulated."
    contents = [*_scheduler(), *_steps(), *_drafts_and_cache(), *_requests(), *_responses(), *_capacity()]
    peak = TextBoxVariable("tflops").label("peak TFLOPS of a GPU").default_value("989")
    title = "Thinkload · vLLM server"
    return build_dashboard("server", title, description, contents, start="now-15m", variables=[peak])


def _scheduler() -> list[PanelOrRow]:
    return [
        time_series_panel(
            "Running and waiting requests",
            "If the queue grows while running is at max-num-seqs, compute is the limit. If it grows while running is below that, memory is the limit.",
            "short",
            (f"sum by (config) ({server_series('vllm:num_requests_running')})", "running {{config}}"),
            (f"sum by (config) ({server_series('vllm:num_requests_waiting')})", "waiting {{config}}"),
        ),
        time_series_panel(
            "KV cache usage",
            "Should stay below the dashed line at 95 %. At 100 %, requests are preempted and part of their work is done twice.",
            "percentunit",
            (f"max by (config) ({server_series('vllm:kv_cache_usage_perc')})", "{{config}}"),
            maximum=1,
            limit=0.95,
        ),
        time_series_panel(
            "Preemptions",
            "Should be 0. A preempted request loses its KV cache and computes it again; the client's p99 of the time between chunks shows the delay.",
            "ops",
            (rate("vllm:num_preemptions_total"), "{{config}}"),
        ),
    ]


def _steps() -> list[PanelOrRow]:
    itl = "vllm:inter_token_latency_seconds"
    first_tokens = rate("vllm:time_to_first_token_seconds_count")
    decoded = f"({rate('vllm:generation_tokens_total')} - {first_tokens})"
    return [
        time_series_panel(
            "Step time",
            "Mean time between two outputs of a request, which is one engine step. It increases with batch size and context length. Tensor parallelism reduces it as long as reading the weights dominates.",
            "s",
            (mean(itl), "{{config}}"),
        ),
        time_series_panel(
            "Tokens per request and step",
            "1 without speculation. With speculation, this is the speedup before its overhead.",
            "short",
            (f"{decoded} / ({rate(itl + '_count')} > 0)", "{{config}}"),
        ),
        time_series_panel(
            "Tokens per step",
            "Mean number of prompt and output tokens in one engine step. Near max-num-batched-tokens, prefill delays decoding.",
            "short",
            (mean("vllm:iteration_tokens_total"), "{{config}}"),
        ),
        time_series_panel(
            "Prompt and output tokens",
            "Peaks of prompt tokens are prefills. They explain delays between the chunks of other requests.",
            "suffix: tok/s",
            (rate("vllm:generation_tokens_total"), "output {{config}}"),
            (rate("vllm:prompt_tokens_total"), "prompt {{config}}"),
        ),
    ]


def _drafts_and_cache() -> list[PanelOrRow]:
    generated = "vllm:generation_tokens_total"
    accepted = or_zero(fraction("vllm:spec_decode_num_accepted_tokens_total", generated), rate(generated))
    return [
        time_series_panel(
            "Accepted drafts in the output",
            "Accepted draft tokens divided by output tokens; 0 without speculation. A fraction f means 1 / (1 - f) tokens a step: 43 % is 1.75. On vLLM 0.26 with n-gram, 43 % paid up to about 14 streams of a 7B model and not at 128.",
            "percentunit",
            (accepted, "{{config}}"),
            maximum=1,
        ),
        time_series_panel(
            "Prefix cache hit rate",
            "Fraction of the prompt tokens that were found in the cache. Above 0 in a benchmark, prompts repeat and the prefill is not measured.",
            "percentunit",
            (fraction("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"), "{{config}}"),
            maximum=1,
        ),
    ]


def _requests() -> list[PanelOrRow]:
    phases = {"queue": "queued", "prefill": "prefill", "decode": "decode"}
    times = [(mean(f"vllm:request_{phase}_time_seconds"), f"{name} {{{{config}}}}") for phase, name in phases.items()]
    return [
        time_series_panel(
            "Request time by phase",
            "Mean over the requests that ended. Decode dominates for reasoning models. A growing queue time means overload.",
            "s",
            *times,
        ),
        time_series_panel(
            "Time to first token",
            "The p50 should be near the prefill time. A p99 far above the p50 means that some requests wait in the queue.",
            "s",
            (quantile(0.5, "vllm:time_to_first_token_seconds"), "p50 {{config}}"),
            (quantile(0.99, "vllm:time_to_first_token_seconds"), "p99 {{config}}"),
        ),
        time_series_panel(
            "Output length",
            "Mean number of tokens of the requests that ended. Near the budget, most answers are cut. It increases during a run, because long answers end last.",
            "short",
            (mean("vllm:request_generation_tokens"), "{{config}}"),
        ),
    ]


def _responses() -> list[PanelOrRow]:
    rejected = or_zero(rate("vllm:admission_rejections_total"), rate("vllm:generation_tokens_total"))
    http_requests = server_series("http_requests_total", GENERATION_HANDLERS)
    return [
        time_series_panel(
            "Requests by finish reason",
            "length means that the budget cut the answer, abort that the client disconnected. vLLM does not count clients that disconnect in the middle of a stream.",
            "reqps",
            (rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),
            stacked=True,
        ),
        time_series_panel(
            "HTTP responses by status",
            "vLLM sends status 200 before it computes, and later errors arrive inside the stream. Use the client's outcomes to count failures.",
            "reqps",
            (f"sum by (status) (rate({http_requests}[$__rate_interval]))", "{{status}}"),
            stacked=True,
        ),
        time_series_panel(
            "Rejected requests",
            "Should be 0. Counted since vLLM 0.32, if --max-num-queued-reqs is set. Older versions have no such limit.",
            "reqps",
            (rejected, "{{config}}"),
        ),
    ]


def _capacity() -> list[PanelOrRow]:
    flops, waiting = (
        "vllm:estimated_flops_per_gpu_total",
        server_series("vllm:num_requests_waiting_by_reason"),
    )
    scraped = server_series("up", 'job=~"server|gpu"')
    return [
        time_series_panel(
            "Waiting requests by reason",
            "capacity means that the batch or the KV cache has no room. deferred means a passing constraint, such as the transfer of a KV cache.",
            "short",
            (f"sum by (config, reason) ({waiting})", "{{reason}} {{config}}"),
            width=6,
            stacked=True,
        ),
        time_series_panel(
            "Prompt length",
            "Tokens of the prompts of the requests that ended. A change explains a change of the prefill time and of the time to first token.",
            "short",
            (mean("vllm:request_prompt_tokens"), "mean {{config}}"),
            (quantile(0.99, "vllm:request_prompt_tokens"), "p99 {{config}}"),
            width=6,
        ),
        time_series_panel(
            "Model FLOPS utilization (MFU)",
            "Estimated operations of a GPU as a fraction of the peak that is entered at the top (989 TFLOPS: bfloat16 on H100 and H200). Low in decode, where the memory limits. 0 without --enable-mfu-metrics.",
            "percentunit",
            (f"{rate(flops)} / (count by (config) ({server_series(flops)}) * $tflops * 1e12)", "{{config}}"),
            width=6,
        ),
        time_series_panel(
            "Unreachable targets",
            "Servers and GPU exporters that do not answer Prometheus. Should be 0. While it is above 0, the other panels have gaps.",
            "short",
            (f"sum by (job) ({scraped} == bool 0)", "{{job}}"),
            width=6,
        ),
    ]
