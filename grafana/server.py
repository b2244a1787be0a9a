"""Dashboard *Server*: where a request's time goes inside the server, and what the batch and the cache do."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import About, Part, board, lines
from grafana.queries import mean, or_zero, quantile, rate, select, share


def dashboard() -> Dashboard:
    """Build the whole board."""
    look_for = "Queue, batch, memory, steps: which of them limits? Works on any vLLM from 0.26 to 0.33, real or emulated."
    parts: list[Part] = [*_scheduler(), *_steps(), *_requests(), *_ends()]
    return board("server", "Thinkload · Server", look_for, parts, since="now-15m")


def _scheduler() -> list[Part]:
    return [
        lines(
            About(
                "Running and waiting",
                "Running at max-num-seqs with a growing queue: compute is the limit. Running below it with a queue: memory is.",
            ),
            (f"sum by (config) ({select('vllm:num_requests_running')})", "running {{config}}"),
            (f"sum by (config) ({select('vllm:num_requests_waiting')})", "waiting {{config}}"),
        ),
        lines(
            About(
                "KV cache in use",
                "Below the dashed 95 %. At 100 % requests are preempted and their work is done twice.",
                "percentunit",
            ),
            (f"max by (config) ({select('vllm:kv_cache_usage_perc')})", "{{config}}"),
            max_value=1,
            limit=0.95,
        ),
        lines(
            About(
                "Preemptions",
                "0. Each one throws away a request's KV and computes it again; its gap shows in the client's p99.",
                "ops",
            ),
            (rate("vllm:num_preemptions_total"), "{{config}}"),
        ),
    ]


def _steps() -> list[Part]:
    itl = "vllm:inter_token_latency_seconds"
    first = "vllm:time_to_first_token_seconds_count"
    made = f"({rate('vllm:generation_tokens_total')} - {rate(first)})"
    return [
        lines(
            About(
                "Step time",
                "Mean time from one output of a request to its next: one engine step. Rises with batch and context; falls with TP while weights dominate.",
                "s",
            ),
            (mean(itl), "{{config}}"),
        ),
        lines(
            About(
                "Tokens a request gets from a step",
                "1 without speculation; with it, this is the speed-up before its overhead.",
                "short",
            ),
            (f"{made} / ({rate(itl + '_count')} > 0)", "{{config}}"),
        ),
        lines(
            About(
                "Tokens in a step",
                "Prompt and output tokens of one engine step, mean. Near max-num-batched-tokens: prefill crowds out decoding.",
                "short",
            ),
            (mean("vllm:iteration_tokens_total"), "{{config}}"),
        ),
        lines(
            About(
                "Tokens in and out",
                "Output is what you pay for; prompt spikes are prefills, and explain gaps between chunks.",
                "suffix: tok/s",
            ),
            (rate("vllm:generation_tokens_total"), "output {{config}}"),
            (rate("vllm:prompt_tokens_total"), "prompt {{config}}"),
        ),
        lines(
            About(
                "Drafts accepted",
                "Accepted of drafted tokens, 0 without speculation. Below about 0.3, drafting costs more than it gains on a full batch.",
                "percentunit",
            ),
            (
                or_zero(
                    share(
                        "vllm:spec_decode_num_accepted_tokens_total",
                        "vllm:spec_decode_num_draft_tokens_total",
                    ),
                    rate("vllm:generation_tokens_total"),
                ),
                "{{config}}",
            ),
            max_value=1,
        ),
        lines(
            About(
                "Prefix-cache hits",
                "Of the prompt tokens looked up, those found. Above 0 in a benchmark: prompts repeat, and prefill is not measured.",
                "percentunit",
            ),
            (share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"), "{{config}}"),
            max_value=1,
        ),
    ]


def _requests() -> list[Part]:
    stages = [("queue", "queued"), ("prefill", "prefill"), ("decode", "decode")]
    return [
        lines(
            About(
                "Where a request's time goes",
                "Mean of the requests that ended. Decode dominates reasoning; a queue that grows into the picture is overload.",
                "s",
            ),
            *(
                (mean(f"vllm:request_{stage}_time_seconds"), f"{word} {{{{config}}}}")
                for stage, word in stages
            ),
        ),
        lines(
            About(
                "Time to first token",
                "p50 near prefill time. A p99 far above p50: some requests wait for a slot.",
                "s",
            ),
            (quantile(0.5, "vllm:time_to_first_token_seconds"), "p50 {{config}}"),
            (quantile(0.99, "vllm:time_to_first_token_seconds"), "p99 {{config}}"),
        ),
        lines(
            About(
                "Output length",
                "Mean tokens of the requests that ended. At the budget: answers are cut. It moves as long answers end last.",
                "short",
            ),
            (mean("vllm:request_generation_tokens"), "{{config}}"),
        ),
    ]


def _ends() -> list[Part]:
    return [
        lines(
            About(
                "How requests end",
                "length: the budget cut it. abort: the client left. vLLM does not count clients that hang up mid-stream.",
                "reqps",
            ),
            (rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),
            stacked=True,
        ),
        lines(
            About(
                "HTTP answers",
                "2xx says little: vLLM sends 200 before it computes, and errors arrive inside the stream. The client's outcomes are the truth.",
                "reqps",
            ),
            (
                f"sum by (status) (rate({select('http_requests_total', _GENERATE)}[$__rate_interval]))",
                "{{status}}",
            ),
            stacked=True,
        ),
        lines(
            About(
                "Turned away",
                "0. Counted since 0.32 where --max-num-queued-reqs is set; older versions have no such limit.",
                "reqps",
            ),
            (
                or_zero(rate("vllm:admission_rejections_total"), rate("vllm:generation_tokens_total")),
                "{{config}}",
            ),
        ),
    ]


_GENERATE = 'handler=~"/v1/(chat/)?completions"'
