"""Dashboard *Compare*: configurations side by side over the selected time, in which they may have run one after another."""

from grafana_foundation_sdk.builders.dashboard import TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import About, Column, Part, bars, board, choice, lines, rows
from grafana.queries import CHOSEN, busy, chosen, select, whole_quantile, whole_sum

TTFT = "thinkload:client_ttft_seconds_bucket:rate5s"
TPOT = "thinkload:client_tpot_seconds_bucket:rate5s"
E2E = "thinkload:client_e2e_seconds_bucket:rate5s"
TOKENS = "thinkload:output_tokens_per_second"

PER_GPU = "Output tokens a second for each GPU of the configuration, while there was load. More GPUs must raise it to pay off"


def dashboard() -> Dashboard:
    """Build the whole board."""
    look_for = (
        "Which configuration is fastest, cheapest, best at speculation? Choose a time that holds all of them."
    )
    price = TextBoxVariable("price").label("$ per GPU-hour").default_value("3")
    budget = choice("budget", "Budget", "label_values(loadgen_completion_tokens_total, budget)")
    parts: list[Part] = [_table(), *_bars(), "By token budget", *_budgets(), "Over time", *_time()]
    return board("compare", "Thinkload · Compare", look_for, parts, since="now-1h", extra=[budget, price])


def _dollars(by: str) -> str:
    """Dollars per million output tokens at the price in the box."""
    return f"{busy('thinkload:gpus', by)} / {busy(TOKENS, by)} * $price / 3600 * 1e6"


def _joules(by: str) -> str:
    return f"{busy('thinkload:watts', by)} / {busy(TOKENS, by)}"


def _tokens(by: str) -> str:
    return f"avg by ({by}) (avg_over_time(({select(TOKENS)} > 0)[$__range:1s]))"


def _table() -> Part:
    by = "config, model"
    columns = [
        Column("GPUs", busy("thinkload:gpus", by), "short", 0),
        Column("tok/s", _tokens(by), "short", 0),
        Column("tok/s/GPU", busy("thinkload:output_tokens_per_second_per_gpu", by), "short", 0),
        Column("TTFT p50", whole_quantile(0.5, TTFT, by), "s"),
        Column("TTFT p99", whole_quantile(0.99, TTFT, by), "s"),
        Column("TPOT p50", whole_quantile(0.5, TPOT, by), "s"),
        Column("E2E p50", whole_quantile(0.5, E2E, by), "s"),
        Column("E2E p99", whole_quantile(0.99, E2E, by), "s"),
        Column("tok/step", busy("thinkload:tokens_per_step", by), "short", 2),
        Column("J/token", _joules(by), "short", 2),
        Column("$/M tokens", _dollars(by), "currencyUSD", 2),
    ]
    about = About(
        "Side by side",
        "One row a configuration and model. Latency is the client's; rates, energy and cost are means while there was load. "
        "Read a row across: a faster TPOT that costs tok/s/GPU is bought with GPUs.",
    )
    return rows(about, {"config": "Configuration", "model": "Model"}, columns, h=6)


def _bars() -> list[Part]:
    position = f"rate(vllm:spec_decode_num_accepted_tokens_per_pos_total{{{CHOSEN}}}[$__range])"
    drafts = f"rate(vllm:spec_decode_num_drafts_total{{{CHOSEN}}}[$__range])"
    off = f'label_replace(sum by (config) ({select(TOKENS)} * 0), "position", "off", "", "")'
    by_position = (
        f"(sum by (config, position) ({position}) / on (config) group_left () (sum by (config) ({drafts}) > 0))"
        f" or on (config) {off}"
    )
    return [
        bars(
            About("Output per GPU", f"{PER_GPU}.", "suffix: tok/s"),
            (busy("thinkload:output_tokens_per_second_per_gpu"), "{{config}}"),
            w=6,
            decimals=0,
        ),
        bars(
            About(
                "Accepted, by position",
                "Falling from position to position. Flat and near 1: the text loops. Steep: fewer speculative tokens would do. off: no speculation.",
                "percentunit",
            ),
            (by_position, "{{config}} · {{position}}"),
            w=6,
            decimals=0,
        ),
        bars(
            About(
                "Energy per token",
                "All GPUs of the configuration, while there was load. Below half load it rises: idle power is shared by fewer tokens.",
                "joule",
            ),
            (_joules("config"), "{{config}}"),
            w=6,
        ),
        bars(
            About(
                "Cost per million tokens",
                "GPUs × price ÷ output while there was load; the price is in the box above. Cost *of a correct answer* is in the report.",
                "currencyUSD",
            ),
            (_dollars("config"), "{{config}}"),
            w=6,
        ),
    ]


def _budgets() -> list[Part]:
    by = "budget, config"
    ended = whole_sum("thinkload:client_requests_per_second", by)
    columns = [
        Column(
            "Tokens a request",
            f"{whole_sum('thinkload:client_output_tokens_per_second', by)} / ({ended} > 0)",
            "short",
            0,
        ),
        Column("TTFT p50", whole_quantile(0.5, TTFT, by), "s"),
        Column("TPOT p50", whole_quantile(0.5, TPOT, by), "s"),
        Column("E2E p50", whole_quantile(0.5, E2E, by), "s"),
        Column("E2E p99", whole_quantile(0.99, E2E, by), "s"),
        Column("Good", f"{whole_sum('thinkload:goodput_per_second', by)} / ({ended} > 0)", "percentunit", 0),
    ]
    about = About(
        "Each budget, each configuration",
        "How latency grows with the budget: in proportion while answers hit it, then flat once most end by themselves. "
        "Good: of the requests, those that met every --slo; 0 without one.",
    )
    return [
        rows(
            about,
            {"budget": "Budget", "config": "Configuration"},
            [_of_budget(column) for column in columns],
            w=16,
            h=8,
        ),
        bars(
            About(
                "End to end p50, by budget",
                "The distance between configurations at the budget you would deploy.",
                "s",
            ),
            (_of_budget(Column("", whole_quantile(0.5, E2E, by), "s")).expr, "{{budget}} · {{config}}"),
            w=8,
            h=8,
        ),
    ]


def _of_budget(column: Column) -> Column:
    """The same, of the chosen budgets."""
    return Column(
        column.title,
        column.expr.replace("{config=~", '{budget=~"$budget", config=~'),
        column.unit,
        column.decimals,
    )


def _time() -> list[Part]:
    return [
        lines(
            About(
                "Output per GPU",
                f"{PER_GPU}. Look for a level, not a peak: ramps and drains are not the configuration.",
                "suffix: tok/s",
            ),
            (f"avg by (config) ({select('thinkload:output_tokens_per_second_per_gpu')})", "{{config}}"),
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
