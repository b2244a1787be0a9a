"""Draw the effects of the serving configuration: speculation, tensor parallelism, variation of cost, acceptance.

A title gives the range over all rows of a model, and no mean over loads or budgets.
"""

import altair as alt
import pandas as pd

from analysis.data.setting import CONDITIONS
from analysis.figures.base import (
    NO_BUDGET,
    Chart,
    Figure,
    against_budget,
    comparable,
    drawable,
    labels,
    layered,
    numbers,
    over,
    rows_data,
)
from analysis.figures.style import MUTED, SI_LABEL, colour, dash, shape
from analysis.format import short_models, span


def figures(tables: dict[str, pd.DataFrame], verdicts: dict[str, str]) -> list[Figure]:
    """Every figure for which the tables have data; `verdicts` are the results of the claims, which titles must not exceed."""
    made = [
        _speculation(tables["speculation"], verdicts.get("speculation-faster", "")),
        _parallel(tables["tensor_parallel"]),
        _variation(tables["cost_variation"], verdicts.get("ngram-cost-erratic", "")),
        _acceptance(tables["acceptance"]),
    ]
    return [figure for figure in made if figure is not None]


def _known(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows to draw, which have a value; the table of a study without pairs has no columns to draw by."""
    return comparable(drawable(rows[rows[name].notna()])) if len(rows) else rows


def _ratio_chart(rows: pd.DataFrame, title: str) -> Chart:
    across = "x" if len(rows["budget"].unique()) == 1 else "y"  # with one budget, the chart has bars
    one = alt.Chart(rows_data()).mark_rule(color=MUTED, strokeWidth=1).encode(**{across: alt.datum(1.0)})
    chart = against_budget(rows, "speedup", title, ".3~g")
    return (one + chart).properties(width="container", height=chart.height)


def _by_model(rows: pd.DataFrame, name: str, form: str) -> str:
    """The range of a column for each model, smallest model first."""
    parts = rows.groupby(["params_b", "model"], dropna=False, observed=True)[name]
    names = short_models(rows["model"])
    return ", ".join(f"{span(values, form)} at {names[str(model)]}" for (_, model), values in parts)


def _speculation(rows: pd.DataFrame, verdict: str) -> Figure | None:
    rows = _known(rows, "speedup")
    if rows.empty:
        return None
    words = {"held": "is faster at every model size", "not held": "is not faster at every model size"}
    claim = f"Speculation {words[verdict]}" if verdict in words else "Speed-up by speculation"
    claim += f": {_shown(rows)}; the speed-up is {_by_model(rows, 'speedup', '.2f')}{over(rows)}"
    note = f"Σ e2e without speculation / Σ e2e with speculation, same problems and same number of GPUs. {INTERVALS} Above 1 is faster."
    chart = _ratio_chart(rows, "speed-up by speculation")
    return Figure("speculation", claim, note, rows, chart, panel="panel", section="serving")


INTERVALS = (
    "Bars: 95 % intervals over problems, with the noise between runs. How many differences are shown allows for the number of "
    "comparisons (Holm)."
)


def _shown(rows: pd.DataFrame) -> str:
    """How many comparisons show a difference."""
    faster, slower = (int((rows["difference"] == word).sum()) for word in ("faster", "slower"))
    return f"{faster} of {len(rows)} comparisons show it faster, {slower} slower"


def _parallel(rows: pd.DataFrame) -> Figure | None:
    rows = _known(rows, "speedup")
    if rows.empty:
        return None
    most = rows[rows["tp"] == rows["tp"].max()]
    sizes = _by_model(most, "speedup", ".2f")
    claim = f"{most['tp'].max():.0f} GPUs instead of {span(most['base_gpus'], '.0f')} give a speed-up of {sizes}{over(most)}; {_shown(most)}"
    note = f"Σ e2e on the fewest GPUs / Σ e2e on more GPUs, same problems and same speculation. {INTERVALS} Cost rises unless the speed-up exceeds the ratio of the numbers of GPUs."
    chart = _ratio_chart(rows, "speed-up by tensor parallelism")
    return Figure("tensor-parallel", claim, note, rows, chart, panel="panel", section="serving")


def _variation(rows: pd.DataFrame, verdict: str) -> Figure | None:
    rows = _known(rows, "variation")
    if rows.empty:
        return None
    speculative = rows[rows["speculation"].astype(str) != "off"]
    plain = rows[rows["speculation"].astype(str) == "off"]
    claim = f"The cost of a token varies between problems by {span(rows['variation'], '.1%')}"
    if len(speculative) and len(plain):
        sizes = _by_model(speculative, "variation", ".0%")
        erratic = "Speculation makes the cost of a token erratic: it"
        begin = erratic if verdict == "held" else "The cost of a token"
        claim = f"{begin} varies between problems by {sizes} with speculation, and by {span(plain['variation'], '.1%')} without"
    claim += over(rows)
    chart = against_budget(rows, "variation", "variation of cost per token", ".2~%", zero=True)
    note = "Standard deviation / mean of GPUs × e2e / tokens over problems. Bars: 95 % intervals (jackknife)."
    return Figure("cost-variation", claim, note, rows, chart, panel="panel", section="serving")


def _acceptance(rows: pd.DataFrame) -> Figure | None:
    if rows.empty:
        return None
    arms = rows.sort_values("position").groupby(["config", "model", *CONDITIONS], observed=True)["per_step"]
    first, last = arms.first(), arms.last()
    ratio = last / first
    verb = "rises" if ratio.min() > 1.03 else "falls" if ratio.max() < 0.97 else "by position"
    ends = f"{span(first, '.2f')} tokens per step at the beginning of the output, {span(last, '.2f')} at its end"
    claim = f"Acceptance {verb}{' during generation' if verb != 'by position' else ''}: {ends}"
    along = alt.Axis(labelExpr=SI_LABEL, tickCount=6)
    x = alt.X("position:Q", title="position in the output, tokens", axis=along)
    y = alt.Y("per_step:Q", title="tokens per step", axis=alt.Axis(format=".2~f", tickCount=5))
    base = alt.Chart(rows_data()).encode(x=x, y=y.scale(zero=False), color=colour())
    tip = [*labels("config", "model"), *numbers(position=",d", per_step=".2f", n=",d")]
    layers = [
        base.mark_rule(opacity=0.3, strokeWidth=5).encode(
            y=alt.Y("per_step_low:Q", title="tokens per step").scale(zero=False), y2="per_step_high:Q"
        ),
        base.mark_line(strokeWidth=1.8).encode(strokeDash=dash()),
        base.mark_point(filled=True, size=55, opacity=1).encode(shape=shape(), tooltip=tip),
    ]
    chart = layered(layers)
    note = str(rows["how"].iloc[0])
    rows = drawable(rows)
    return Figure("acceptance", claim, note, rows, chart, "panel", section="serving", filters=NO_BUDGET)
