"""Draw the Pareto fronts: accuracy and latency, accuracy and cost, speed for one user and throughput of a GPU.

A panel has the settings of one set of conditions, and a title says what holds in all of its panels beyond the noise between runs.

A setting is on a front if no other setting is at least as good in both quantities. The compute-optimal and the
system-optimal setting (tables/optima.py) are marked on every front.
"""

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.data.setting import SETTING, conditions, varying
from analysis.figures.base import DETAIL, Chart, Figure, drawable, layered, rows_data, tooltip, with_interval
from analysis.figures.style import MUTED, colour, shape
from analysis.format import number, short_budget, short_models, span
from analysis.noise import DAY_TO_DAY, smallest
from analysis.tables import summary
from analysis.tables.optima import Optima


@dataclass(frozen=True, slots=True)
class Axis:
    """One quantity of a front."""

    name: str
    title: str
    number: str
    log: bool = False


ACCURACY = Axis("accuracy", "accuracy", ".1%")
LATENCY = Axis("e2e_p50_s", "median latency, s", ".3~g", log=True)
COST = Axis("cost_of_pass_gpu_s", "GPU-seconds per correct answer", ".3~g", log=True)
USER = Axis("tokens_per_s_user", "tokens/s for one user", ".3~g")
PER_GPU = Axis("tokens_per_s_gpu", "tokens/s per GPU", ".3~g")


def figures(table: pd.DataFrame, optima: list[Optima], between_runs: float = DAY_TO_DAY) -> list[Figure]:
    """The three fronts."""
    rows, shown = _labelled(drawable(table), optima), 1 + smallest(between_runs)
    made = [_latency(rows, optima[0] if optima else None, shown), _cost(rows), _speed(rows, shown)]
    return [figure for figure in made if figure is not None]


def _labelled(rows: pd.DataFrame, optima: list[Optima]) -> pd.DataFrame:
    model = rows["model"].astype(str).map(short_models(rows["model"]))
    marks = pd.Series("", index=rows.index)
    for one in optima:
        for point, word in ((one.compute, "compute-optimal"), (one.system, "system-optimal")):
            same = np.logical_and.reduce([(rows[name] == point[name]).to_numpy() for name in SETTING])
            marks = marks.mask(same, marks.map(lambda had, word=word: f"{had} and {word}" if had else word))
    return rows.assign(label=model + " " + rows["budget"].map(short_budget), optimum=marks)


def _front(rows: pd.DataFrame, x: Axis, y: Axis, *, x_more: bool, height: int) -> tuple[pd.DataFrame, Chart]:
    known = rows[rows[x.name].notna() & rows[y.name].notna()]
    known = known[known.groupby("under")["under"].transform("size") > 1]  # one point is no front
    panels = [_placed(panel, x, y, x_more=x_more) for _, panel in known.groupby("under", sort=False)]
    known = pd.concat(panels).sort_index() if panels else known
    return known, _chart(known, x, y, step="step-before" if x_more else "step-after", height=height)


def _placed(panel: pd.DataFrame, x: Axis, y: Axis, *, x_more: bool) -> pd.DataFrame:
    """A panel with its front, and with the places of its labels: each label is there once, and an optimum has a longer one."""
    less = -panel[x.name] if x_more else panel[x.name]
    front = summary.front(panel.assign(less=less), "less", y.name)
    panel = panel.assign(front=front, optimum=panel["optimum"] if x is LATENCY else "")
    repeated = panel["front"] & panel.duplicated(["front", "label"])
    middle = math.sqrt(panel[x.name].min() * panel[x.name].max())
    panel = panel.assign(
        label=panel["label"].mask(repeated | (panel["optimum"] != ""), ""),
        optimum_side=np.where(panel[x.name] > middle, "right", "left"),
    )
    return panel.assign(side=_sides(panel, x, y), optimum_place=_places(panel, x))


def _places(panel: pd.DataFrame, x: Axis) -> "pd.Series[str]":
    """Where the label of each optimum is: above its ring, where no point is, and one line higher where both would overlap."""
    found, marked = pd.Series("above", index=panel.index), panel[panel["optimum"] != ""]
    if len(marked) > 1:
        across = panel[x.name].astype(float).map(math.log)
        # On the same side one text is between the rings, on different sides both are.
        width = 0.4 if len(marked["optimum_side"].unique()) == 1 else 0.75
        near = np.ptp(across[marked.index]) < width * np.ptp(across)
        found[marked.index[marked["optimum"].str.startswith("compute") & near]] = "higher"
    return found


SIDES = {"right": (1, -1), "left": (-1, 1)}
"""Where a label can be, right below its point or left above it, as the signs of the distances."""


def _sides(panel: pd.DataFrame, x: Axis, y: Axis) -> "pd.Series[str]":
    """On which side of its point each label of a panel overlaps no other point and no other label; empty where on none."""

    def place(axis: Axis) -> "pd.Series[float]":
        values = panel[axis.name].astype(float)
        values = values.clip(lower=1e-12).map(math.log) if axis.log else values
        return (values - values.min()) / max(values.max() - values.min(), 1e-9)

    across, up = place(x), place(y)
    taken = [(across[at], up[at]) for at in panel.index]
    found = pd.Series("", index=panel.index)
    for at in panel.index[panel["front"] & (panel["label"] != "")]:
        for side, (right, above) in SIDES.items():
            inside = [
                (0.0 <= (left - across[at]) * right < 0.2 and -0.01 <= (height - up[at]) * above < 0.09)
                for left, height in taken
                if (left, height) != (across[at], up[at])
            ]
            if not any(inside) and (right > 0 or across[at] > 0.2):
                found[at] = side
                taken.append((across[at] + 0.1 * right, up[at] + 0.05 * above))
                break
    return found


def _chart(rows: pd.DataFrame, x: Axis, y: Axis, step: Any, height: int) -> Chart:
    x_scale: dict[str, Any] = {"type": "log", "nice": False} if x.log else {"zero": False}
    x_axis = alt.Axis(format="~g" if x.log else "~s", tickCount=5)
    y_axis = alt.Axis(format=".0%" if "%" in y.number else "~s", tickCount=6)
    along = alt.X(f"{x.name}:Q", title=x.title, axis=x_axis).scale(**x_scale, padding=26)
    up = alt.Y(f"{y.name}:Q", title=y.title, axis=y_axis)
    base = alt.Chart(rows_data()).encode(x=along, y=up.scale(zero=False, padding=12))
    on_front = base.transform_filter("datum.front")
    details = tooltip(*with_interval(y.name, y.title, y.number), *with_interval(x.name, x.title, x.number))
    layers = [
        on_front.mark_line(color=MUTED, strokeWidth=1.5, interpolate=step),
        base.mark_point(filled=True, size=85).encode(
            color=colour(),
            shape=shape(),
            tooltip=details,
            detail=DETAIL,
            href=alt.Href("link:N"),
            opacity=alt.condition("datum.front", alt.value(1), alt.value(0.33)),
        ),
        *(
            on_front.transform_filter(f"datum.side === '{side}'")
            .mark_text(align="left" if right > 0 else "right", dx=9 * right, dy=-10 * above, fontSize=11)
            .encode(text=alt.Text("label:N"))
            for side, (right, above) in SIDES.items()
        ),
        base.transform_filter("datum.optimum != ''").mark_point(size=330, strokeWidth=2, color=MUTED, shape="circle"),
        *(
            base.transform_filter(f"datum.optimum_place == '{place}' && datum.optimum_side == '{side}'")
            .mark_text(align=side, dx=-8 if side == "right" else 8, dy=dy, fontSize=12, fontWeight="bold")
            .encode(text=alt.Text("optimum:N"))
            for place, dy in (("above", -19), ("higher", -35))
            for side in ("left", "right")
        ),
    ]
    if f"{y.name}_low" in rows:
        low = alt.Y(f"{y.name}_low:Q", title=y.title)
        bars = alt.Chart(rows_data()).mark_rule(opacity=0.22, strokeWidth=1.5)
        layers.insert(0, bars.encode(x=along, y=low, y2=f"{y.name}_high:Q", color=colour()))
    return layered(layers, height)


def _latency(rows: pd.DataFrame, optima: Optima | None, shown: float) -> Figure | None:
    known, chart = _front(rows, LATENCY, ACCURACY, x_more=False, height=430)
    if known.empty:
        return None
    on = int(known["front"].sum())
    claim = f"{on} of {len(known)} settings are on the Pareto front; for each other setting, one is faster and at least as accurate"
    if optima is not None and optima.compute["e2e_p50_s"] > optima.system["e2e_p50_s"] * shown:
        names, among = short_models(rows["model"]), varying(rows)
        where = f"With {conditions(optima.system, among)}, the" if among else "The"
        claim = (
            f"{where} fastest setting that reaches {number(optima.target, '.0%')} is not the one with the least arithmetic: "
            f"{_words(optima.system, names)} in {number(optima.system['e2e_p50_s'], '.3g')} s, "
            f"compared to {_words(optima.compute, names)} in {number(optima.compute['e2e_p50_s'], '.3g')} s"
        )
    note = (
        f"Up and left is better. Line and opaque marks: the Pareto front, {on} of {len(known)} settings. Thin bars: 95 % intervals "
        "of accuracy. Rings: least arithmetic (compute-optimal) and least median latency (system-optimal) for the target accuracy."
    )
    return Figure("accuracy-latency", claim, note, known, chart, panel="under", section="front", wide=True)


def _leader(known: pd.DataFrame, name: str, shown: float) -> str:
    """The configuration that leads with every model in every panel beyond the noise between runs, or an empty word."""
    best = known.pivot_table(
        index=["under", "model"], columns="config", values=name, aggfunc="max", observed=True
    ).fillna(0.0)
    leaders = set(best.idxmax(axis=1))
    second = best.apply(lambda row: row.nlargest(2).iloc[-1], axis=1)
    clear = best.shape[1] > 1 and (best.max(axis=1) > second * shown).all()
    return str(leaders.pop()) if clear and len(leaders) == 1 else ""


def _words(point: dict[str, Any], names: dict[str, str]) -> str:
    return f"{names[str(point['model'])]} on {point['config']} at {short_budget(point['budget'])}"


def _cost(rows: pd.DataFrame) -> Figure | None:
    known, chart = _front(rows, COST, ACCURACY, x_more=False, height=330)
    if known.empty:
        return None
    fronts = [panel.sort_values(COST.name) for _, panel in known[known["front"]].groupby("under", sort=False)]
    ends = [(front.iloc[0], front.iloc[-1]) for front in fronts]
    more = [(best, least) for least, best in ends if best["accuracy_low"] > least["accuracy"]]
    claim = f"A more accurate setting than the cheapest is shown in {len(more)} of {len(ends)} panels"
    if not more:
        claim = "No setting is shown to be more accurate than the one whose correct answers cost least"
    elif len(more) == len(ends):
        points = span([(best["accuracy"] - least["accuracy"]) * 100 for best, least in more], ".0f")
        times = span([best[COST.name] / least[COST.name] for best, least in more], ".2g")
        claim = f"The most accurate setting is {points} points more accurate than the cheapest, at {times} times the cost per correct answer"
    note = "Cost of pass: GPUs × wall time of all requests / correct answers. Up and left is better."
    return Figure("accuracy-cost", claim, note, known, chart, panel="under", section="front")


def _speed(rows: pd.DataFrame, shown: float) -> Figure | None:
    known, chart = _front(rows, USER, PER_GPU, x_more=True, height=330)
    if known.empty:
        return None
    words = {USER.name: "is the fastest for one user", PER_GPU.name: "has the highest throughput per GPU"}
    leaders = {name: _leader(known, name, shown) for name in words}
    found = [f"{leaders[name]} {word}" for name, word in words.items() if leaders[name]]
    claim = ", and ".join(found) or "Speed for one user and throughput per GPU"
    note = "Tokens / e2e and tokens / (GPUs × wall time). Up and right is better. Each point is a model and budget."
    return Figure("speed-throughput", claim, note, known, chart, panel="under", section="front")
