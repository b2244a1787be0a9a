"""Dashboard *Compare*: configurations side by side over the selected time, in which they may have run one after another."""

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import About, Column, Part, bars, board, choice, lines, rows
from grafana.queries import chosen, grown, select, while_busy, whole, whole_quantile

TTFT = "thinkload:client_ttft_seconds_bucket"
TPOT = "thinkload:client_tpot_seconds_bucket"
E2E = "thinkload:client_e2e_seconds_bucket"
TOKENS = "vllm:generation_tokens_total"
GPUS = "thinkload:gpus"
BUDGETED = ', budget=~"$budget"'

PER_GPU = "Output tokens a second for each GPU of the configuration"


def dashboard() -> Dashboard:
    """Build the whole board."""
    look_for = (
        "Which configuration is fastest, cheapest, best at speculation? Choose a time that holds all of them."
    )
    price = TextBoxVariable("price").label("$ per GPU-hour").default_value("3")
    budget = choice("budget", "Budget", "label_values(loadgen_completion_tokens_total, budget)")
    parts: list[Part] = [_table(), *_bars(), "By token budget", *_budgets(), "Over time", *_time()]
    return board("compare", "Thinkload · Compare", look_for, parts, since="now-1h", extra=[budget, price])


def _tokens(by: str) -> str:
    return f"({grown(TOKENS, by)} > 0)"


def _per_gpu(by: str) -> str:
    return f"{_tokens(by)} / {while_busy(GPUS, by)}"


def _joules(by: str) -> str:
    return f"{while_busy('thinkload:watts', by)} / {_tokens(by)}"


def _dollars(by: str) -> str:
    """Dollars per million output tokens at the price in the box."""
    return f"{while_busy(GPUS, by)} * $price / 3600 * 1e6 / {_tokens(by)}"


def _per_step(by: str) -> str:
    steps = grown("vllm:inter_token_latency_seconds_count", by)
    firsts = grown("vllm:time_to_first_token_seconds_count", by)
    return f"({grown(TOKENS, by)} - {firsts}) / ({steps} > 0)"


def _table() -> Part:
    by = "config, model"
    seconds = f"({while_busy(GPUS, by)} / {_gpus(by)})"
    columns = [
        Column("GPUs", _gpus(by), "short", 0),
        Column("tok/s", f"{_tokens(by)} / {seconds}", "short", 0),
        Column("tok/s/GPU", _per_gpu(by), "short", 0),
        Column("TTFT p50", whole_quantile(0.5, TTFT, by), "s"),
        Column("TTFT p99", whole_quantile(0.99, TTFT, by), "s"),
        Column("TPOT p50", whole_quantile(0.5, TPOT, by), "s"),
        Column("E2E p50", whole_quantile(0.5, E2E, by), "s"),
        Column("E2E p99", whole_quantile(0.99, E2E, by), "s"),
        Column("tok/step", _per_step(by), "short", 2),
        Column("J/token", _joules(by), "short", 2),
        Column("$/M tokens", _dollars(by), "currencyUSD", 2),
    ]
    about = About(
        "Side by side",
        "One row a configuration and model. Latency is the client's, of whole runs; rates, energy and cost are the server's, over "
        "the seconds in which requests ran. A faster TPOT that costs tok/s/GPU is bought with GPUs.",
    )
    return rows(about, {"config": "Configuration", "model": "Model"}, columns, h=6)


def _gpus(by: str) -> str:
    return f"max by ({by}) (max_over_time({select(GPUS)}[$__range]))"


def _bars() -> list[Part]:
    position = grown("vllm:spec_decode_num_accepted_tokens_per_pos_total", "config, position")
    drafts = grown("vllm:spec_decode_num_drafts_total")
    off = f'label_replace({grown(TOKENS)} * 0, "position", "off", "", "")'
    accepted = f"({position} / on (config) group_left () ({drafts} > 0)) or on (config) {off}"
    return [
        bars(
            About(
                "Output per GPU",
                f"{PER_GPU}. More GPUs must raise it, or they cost more than they give.",
                "suffix: tok/s",
            ),
            (_per_gpu("config"), "{{config}}"),
            w=6,
            decimals=0,
        ),
        bars(
            About(
                "Accepted, by position",
                "Falling from position to position. Flat and near 1: the text loops. Steep: fewer speculative tokens would do. "
                "off: no speculation.",
                "percentunit",
            ),
            (accepted, "{{config}} · {{position}}"),
            w=6,
            decimals=0,
        ),
        bars(
            About(
                "Energy per token",
                "All GPUs of the configuration. Below half load it rises: idle power is shared by fewer tokens.",
                "joule",
            ),
            (_joules("config"), "{{config}}"),
            w=6,
        ),
        bars(
            About(
                "Cost per million tokens",
                "GPUs × price ÷ output; the price is in the box above. Cost *of a correct answer* is in the report.",
                "currencyUSD",
            ),
            (_dollars("config"), "{{config}}"),
            w=6,
        ),
    ]


def _budgets() -> list[Part]:
    by = "budget, config"
    ended = f"({whole('thinkload:client_requests', by, BUDGETED)} > 0)"
    tokens = whole("thinkload:client_completion_tokens", by, BUDGETED)
    good = whole("thinkload:client_good_requests", by, BUDGETED)
    columns = [
        Column("Requests", ended, "short", 0),
        Column("Tokens each", f"{tokens} / {ended}", "short", 0),
        Column("TTFT p50", whole_quantile(0.5, TTFT, by, BUDGETED), "s"),
        Column("TPOT p50", whole_quantile(0.5, TPOT, by, BUDGETED), "s"),
        Column("E2E p50", whole_quantile(0.5, E2E, by, BUDGETED), "s"),
        Column("E2E p99", whole_quantile(0.99, E2E, by, BUDGETED), "s"),
        Column("Good", f"{good} / {ended}", "percentunit", 0),
    ]
    about = About(
        "Each budget, each configuration",
        "How latency grows with the budget: in proportion while answers hit it, then flat once most end by themselves. "
        "Good: of the requests, those that met every --slo; 0 without one.",
    )
    return [
        rows(about, {"budget": "Budget", "config": "Configuration"}, columns, w=16, h=9),
        bars(
            About(
                "End to end p50, by budget",
                "The distance between configurations at the budget you would deploy.",
                "s",
            ),
            (whole_quantile(0.5, E2E, by, BUDGETED), "{{budget}} · {{config}}"),
            w=8,
            h=9,
        ),
    ]


def _time() -> list[Part]:
    per_gpu = select("thinkload:output_tokens_per_second_per_gpu")
    return [
        lines(
            About(
                "Output per GPU",
                f"{PER_GPU}. Look for a level, not a peak: ramps and drains are not the configuration.",
                "suffix: tok/s",
            ),
            (f"avg by (config) ({per_gpu})", "{{config}}"),
        ),
        lines(
            About(
                "Tokens a step",
                "1 without speculation. Rising along a run: long outputs repeat themselves, and n-grams find it.",
                "short",
            ),
            (f"avg by (config) ({select('thinkload:tokens_per_step')})", "{{config}}"),
        ),
        lines(
            About(
                "Good requests",
                "Goodput: requests a second that met every --slo. The configuration that keeps it up as load rises is the one to deploy.",
                "reqps",
            ),
            (f"sum by (config) ({chosen('thinkload:goodput_per_second')})", "{{config}}"),
        ),
    ]
