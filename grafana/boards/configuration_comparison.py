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
from grafana.queries import client_series, increase, integral_while_busy, latest, run_quantile, run_total, server_series

TTFT = "thinkload:client_ttft_seconds_bucket"
TPOT = "thinkload:client_tpot_seconds_bucket"
E2E = "thinkload:client_e2e_seconds_bucket"
TOKENS = "vllm:generation_tokens_total"
GPUS = "thinkload:gpus"
BUDGET_FILTER = ', budget=~"$budget"'


def dashboard() -> Dashboard:
    """Build the dashboard."""
    price = TextBoxVariable("price").label("$ per GPU-hour").default_value("3")
    budget = label_variable("budget", "Budget", "label_values(loadgen_completion_tokens_total, budget)")
    contents = [_table(), *_bars(), "By token budget", *_budgets(), "Over time", *_over_time()]
    return build_dashboard(
        "compare", "Thinkload · Configuration comparison", contents, start="now-1h", variables=[budget, price]
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
    return table_panel("Configurations", {"config": "Configuration", "model": "Model"}, columns)


def _bars() -> list[PanelOrRow]:
    position = increase("vllm:spec_decode_num_accepted_tokens_per_pos_total", "config, position")
    steps = increase("vllm:inter_token_latency_seconds_count")
    off = f'label_replace({increase(TOKENS)} * 0, "position", "off", "", "")'
    accepted = f"({position} / on (config) group_left () ({steps} > 0)) or on (config) {off}"
    return [
        bar_gauge_panel("Output per GPU", "suffix: tok/s", (_tokens_per_gpu_second("config"), "{{config}}"))
        .span(6)
        .decimals(0),
        bar_gauge_panel("Draft acceptance by position", "percentunit", (accepted, "{{config}} · {{position}}"))
        .span(6)
        .decimals(0),
        bar_gauge_panel("Energy per token", "joule", (_joules_per_token("config"), "{{config}}")).span(6),
        bar_gauge_panel(
            "Cost per million tokens", "currencyUSD", (_dollars_per_million_tokens("config"), "{{config}}")
        ).span(6),
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
    labels = {"budget": "Budget", "config": "Configuration"}
    return [
        table_panel("Latency by budget and configuration", labels, columns).span(16).height(9),
        bar_gauge_panel(
            "End to end p50, by budget", "s", (run_quantile(0.5, E2E, by, BUDGET_FILTER), "{{budget}} · {{config}}")
        ).height(9),
    ]


def _over_time() -> list[PanelOrRow]:
    per_gpu = latest("thinkload:output_tokens_per_second_per_gpu", operation="avg")
    per_step = latest("thinkload:tokens_per_step", operation="avg")
    goodput = f"sum by (config) ({client_series('thinkload:goodput_per_second')})"
    return [
        time_series_panel("Output per GPU", "suffix: tok/s", (per_gpu, "{{config}}")).description(
            "Output tokens per second, divided by the number of GPUs of the configuration. Compare the steady levels;"
            " the start and the end of a run say nothing about the configuration."
        ),
        time_series_panel("Tokens per step", "short", (per_step, "{{config}}")),
        time_series_panel("Goodput", "reqps", (goodput, "{{config}}")),
    ]
