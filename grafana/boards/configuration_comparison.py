"""The dashboard *Configuration comparison*: configurations side by side over the selected time range.

The configurations may have run one after another within that range.
"""

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    Column,
    PanelOrRow,
    bar_gauge_panel,
    build_dashboard,
    label_variable,
    table_panel,
    time_series_panel,
)
from grafana.queries import (
    client_series,
    increase,
    integral_while_busy,
    run_quantile,
    run_total,
    server_series,
)

TTFT = "thinkload:client_ttft_seconds_bucket"
TPOT = "thinkload:client_tpot_seconds_bucket"
E2E = "thinkload:client_e2e_seconds_bucket"
TOKENS = "vllm:generation_tokens_total"
GPUS = "thinkload:gpus"
BUDGET_FILTER = ', budget=~"$budget"'

PER_GPU = "Output tokens per second, divided by the number of GPUs of the configuration"


def dashboard() -> Dashboard:
    """Build the dashboard."""
    description = "Which configuration is the fastest, which the cheapest, and which gains most from speculation? Select a time range that contains all of them."
    price = TextBoxVariable("price").label("$ per GPU-hour").default_value("3")
    budget = label_variable("budget", "Budget", "label_values(loadgen_completion_tokens_total, budget)")
    contents = [_table(), *_bars(), "By token budget", *_budgets(), "Over time", *_over_time()]
    return build_dashboard(
        "compare",
        "Thinkload · Configuration comparison",
        description,
        contents,
        start="now-1h",
        variables=[budget, price],
    )


def _tokens(by: str) -> str:
    return f"({increase(TOKENS, by)} > 0)"


def _tokens_per_gpu_second(by: str) -> str:
    return f"{_tokens(by)} / {integral_while_busy(GPUS, by)}"


def _joules_per_token(by: str) -> str:
    return f"{integral_while_busy('thinkload:watts', by)} / {_tokens(by)}"


def _dollars_per_million_tokens(by: str) -> str:
    """Uses the price per GPU-hour that the user entered at the top of the dashboard."""
    return f"{integral_while_busy(GPUS, by)} * $price / 3600 * 1e6 / {_tokens(by)}"


def _tokens_per_step(by: str) -> str:
    """Tokens that a request gets from an engine step. A request's first token is not counted, because it comes from the prefill."""
    steps = increase("vllm:inter_token_latency_seconds_count", by)
    first_tokens = increase("vllm:time_to_first_token_seconds_count", by)
    return f"({increase(TOKENS, by)} - {first_tokens}) / ({steps} > 0)"


def _gpus(by: str) -> str:
    return f"max by ({by}) (max_over_time({server_series(GPUS)}[$__range]))"


def _table() -> PanelOrRow:
    by = "config, model"
    busy_seconds = f"({integral_while_busy(GPUS, by)} / {_gpus(by)})"
    columns = [
        Column("GPUs", _gpus(by), "short", 0),
        Column("tok/s", f"{_tokens(by)} / {busy_seconds}", "short", 0),
        Column("tok/s/GPU", _tokens_per_gpu_second(by), "short", 0),
        Column("TTFT p50", run_quantile(0.5, TTFT, by), "s"),
        Column("TTFT p99", run_quantile(0.99, TTFT, by), "s"),
        Column("TPOT p50", run_quantile(0.5, TPOT, by), "s"),
        Column("E2E p50", run_quantile(0.5, E2E, by), "s"),
        Column("E2E p99", run_quantile(0.99, E2E, by), "s"),
        Column("tok/step", _tokens_per_step(by), "short", 2),
        Column("J/token", _joules_per_token(by), "short", 2),
        Column("$/M tokens", _dollars_per_million_tokens(by), "currencyUSD", 2),
    ]
    title = "Configurations"
    description = "One row per configuration and model. Latency is measured by the client over whole runs. Rates, energy and cost are measured on the server, over the time in which it processed requests. Compare TPOT with tok/s/GPU: more GPUs may make a configuration faster and each token more expensive."
    return table_panel(title, description, {"config": "Configuration", "model": "Model"}, columns)


def _bars() -> list[PanelOrRow]:
    position = increase("vllm:spec_decode_num_accepted_tokens_per_pos_total", "config, position")
    steps = increase("vllm:inter_token_latency_seconds_count")
    off = f'label_replace({increase(TOKENS)} * 0, "position", "off", "", "")'
    accepted = f"({position} / on (config) group_left () ({steps} > 0)) or on (config) {off}"
    return [
        bar_gauge_panel(
            "Output per GPU",
            f"{PER_GPU}. If more GPUs do not increase it, they make each token more expensive.",
            "suffix: tok/s",
            (_tokens_per_gpu_second("config"), "{{config}}"),
            width=6,
            decimals=0,
        ),
        bar_gauge_panel(
            "Draft acceptance by position",
            "Fraction of the decode steps of all requests in which the draft token at this position was accepted. It should decrease from position to position. If it stays near 1, the text repeats itself. If it decreases quickly, fewer speculative tokens suffice. off means no speculation.",
            "percentunit",
            (accepted, "{{config}} · {{position}}"),
            width=6,
            decimals=0,
        ),
        bar_gauge_panel(
            "Energy per token",
            "Energy of all GPUs of the configuration. At low load it increases, because fewer tokens share the idle power.",
            "joule",
            (_joules_per_token("config"), "{{config}}"),
            width=6,
        ),
        bar_gauge_panel(
            "Cost per million tokens",
            "GPU time × price ÷ output tokens, with the price entered at the top. The cost of a correct answer is in the report.",
            "currencyUSD",
            (_dollars_per_million_tokens("config"), "{{config}}"),
            width=6,
        ),
    ]


def _budgets() -> list[PanelOrRow]:
    by = "budget, config"
    ended = f"({run_total('thinkload:client_requests', by, BUDGET_FILTER)} > 0)"
    tokens = run_total("thinkload:client_completion_tokens", by, BUDGET_FILTER)
    good = run_total("thinkload:client_good_requests", by, BUDGET_FILTER)
    columns = [
        Column("Requests", ended, "short", 0),
        Column("Tokens each", f"{tokens} / {ended}", "short", 0),
        Column("TTFT p50", run_quantile(0.5, TTFT, by, BUDGET_FILTER), "s"),
        Column("TPOT p50", run_quantile(0.5, TPOT, by, BUDGET_FILTER), "s"),
        Column("E2E p50", run_quantile(0.5, E2E, by, BUDGET_FILTER), "s"),
        Column("E2E p99", run_quantile(0.99, E2E, by, BUDGET_FILTER), "s"),
        Column("Good", f"{good} / {ended}", "percentunit", 0),
    ]
    title = "Latency by budget and configuration"
    description = "Latency increases in proportion to the budget as long as the budget ends most answers, and stays constant once most answers end earlier. Good is the fraction of requests that met every --slo; it is 0 without --slo."
    return [
        table_panel(title, description, {"budget": "Budget", "config": "Configuration"}, columns, width=16, height=9),
        bar_gauge_panel(
            "End to end p50, by budget",
            "Compare the configurations at the budget that you intend to deploy.",
            "s",
            (run_quantile(0.5, E2E, by, BUDGET_FILTER), "{{budget}} · {{config}}"),
            width=8,
            height=9,
        ),
    ]


def _over_time() -> list[PanelOrRow]:
    per_gpu = server_series("thinkload:output_tokens_per_second_per_gpu")
    return [
        time_series_panel(
            "Output per GPU",
            f"{PER_GPU}. Compare the steady levels; the start and the end of a run say nothing about the configuration.",
            "suffix: tok/s",
            (f"avg by (config) ({per_gpu})", "{{config}}"),
        ),
        time_series_panel(
            "Tokens per step",
            "1 without speculation. With n-gram speculation it increases during a run, because long outputs repeat themselves.",
            "short",
            (f"avg by (config) ({server_series('thinkload:tokens_per_step')})", "{{config}}"),
        ),
        time_series_panel(
            "Goodput",
            "Requests per second that met every --slo. Prefer the configuration that sustains it as the load increases.",
            "reqps",
            (f"sum by (config) ({client_series('thinkload:goodput_per_second')})", "{{config}}"),
        ),
    ]
