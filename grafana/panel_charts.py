"""Make Vega-Lite charts of panels in Grafana's layout: time series, single values, bar gauges and tables with their units.

Rules: a function returns the chart of one panel of a dashboard's JSON. Vega formats all values, so that axis, legend and number of a panel
agree. A chart shows query results and is no copy of Grafana: it has no interaction, a light theme and one font.

This module does not know PromQL, Prometheus or where the values come from.
"""

import re
from typing import Any

import altair as alt

Panel = dict[str, Any]
"""A panel as in the dashboard's JSON."""
Row = dict[str, Any]
"""The values of one point, or of one row of a table, by the names of their fields."""
Chart = Any
"""An Altair chart or layered chart."""
FONT = "Liberation Sans, Arial, sans-serif"
INK, DIM, GRID = "#1f2329", "#6b7280", "#eceef1"
COLORS = {"green": "#2e8b57", "orange": "#d9822b", "red": "#c23030", "blue": "#2965cc"}
MINUTES = "floor(datum.value / 60) + ':' + format(datum.value % 60, '02')"
_SCALED = "replace(format(v, '.3~s'), /([a-zµ]?)$/, ' $1')"
_LARGE = "(abs(v) < 1000 ? format(v, '.3~r') + ' ' : replace(format(v, '.4~s'), /([kMG])$/, ' $1'))"
_WHOLE = "(abs(v) < 100 ? format(v, '.3~r') : format(v, ',.0f'))"
UNITS = {
    "short": f"trim({_LARGE})",
    "s": f"(v < 120 ? {_SCALED} + 's' : format(v / 60, '.1f') + ' min')",
    "joule": f"{_SCALED} + 'J'",
    "percent": f"{_WHOLE} + ' %'",
    "percentunit": "format(v * 100, '.3~r') + ' %'",
    "currencyUSD": "format(v, '$,.2f')",
    "mbytes": "format(v / 1024, '.0f') + ' GiB'",
    "watt": f"{_LARGE} + 'W'",
    "Bps": f"{_LARGE} + 'B/s'",
    "hertz": f"{_LARGE} + 'Hz'",
    "reqps": f"{_LARGE} + 'req/s'",
    "ops": f"{_LARGE} + '/s'",
}
"""How Vega writes a value `v`, for each of Grafana's units that the dashboards use."""


def formatted(unit: str, value: str = "datum.value") -> str:
    """Return the Vega expression for the text of a value with its unit."""
    suffix = unit.removeprefix("suffix:")
    return re.sub(r"\bv\b", value, UNITS[unit] if suffix == unit else f"{_WHOLE} + '{suffix}'")


def time_series(panel: Panel, rows: list[Row], span_s: float, marks_s: list[float]) -> Chart:
    """A line for each name in the rows (`name`, `at_s`, `value`, `part`). At `marks_s`, a run or a cell starts or ends."""
    if not rows:
        return _data([{}]).mark_text(fontSize=14, color=DIM).encode(text=alt.datum("no data"))
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    legend = f"datum.name + '  ' + {formatted(unit, 'datum.mean')} + ' (max ' + {formatted(unit, 'datum.max')} + ')'"
    base = _data(rows).transform_joinaggregate(mean="mean(value)", max="max(value)", groupby=["name"])
    base = base.transform_calculate(legend=legend)
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        base = base.transform_stack(["bottom", "top"], stack="value", groupby=["at_s"])
        lines = base.mark_area(line=True, fillOpacity=0.2).encode(y2="bottom:Q")
    else:
        lines = base.transform_calculate(top="datum.value").mark_line(strokeWidth=1.6)
    highest = defaults.get("max", alt.Undefined if any(row["value"] for row in rows) else 1)
    units = alt.Axis(labelExpr=formatted(unit), tickCount=5)
    lines = lines.encode(
        x=alt.X("at_s:Q", scale=alt.Scale(domain=[0, span_s]), axis=alt.Axis(labelExpr=MINUTES, grid=False)),
        y=alt.Y("top:Q", scale=alt.Scale(domainMin=0, domainMax=highest), axis=units),
        color=alt.Color("legend:N", legend=alt.Legend(columns=panel["gridPos"]["w"] // 4)),
        detail="part:N",  # a line ends at a gap
    )
    limits = [step["value"] for step in defaults.get("thresholds", {}).get("steps", [])[1:]]
    rules = [_data([{}]).mark_rule(color=COLORS["red"], strokeDash=[6, 4]).encode(y=alt.datum(one)) for one in limits]
    rules += [_data([{}]).mark_rule(color="#5b8def", strokeDash=[2, 3]).encode(x=alt.datum(at)) for at in marks_s]
    return alt.layer(lines, *rules)


def stat(panel: Panel, rows: list[Row]) -> Chart:
    """The newest value as a large number, in the color of its threshold or of the text that stands for it."""
    defaults = panel["fieldConfig"]["defaults"]
    color, text = "text", formatted(defaults["unit"]) if rows else "'–'"
    for row in rows[-1:]:
        steps = defaults["thresholds"]["steps"]
        color = [step["color"] for step in steps if step["value"] is None or row["value"] >= step["value"]][-1]
        for mapping in defaults.get("mappings", []):
            if result := mapping["options"].get(f"{row['value']:g}"):
                color, text = result["color"], f"'{result['text']}'"
    large = _data(rows[-1:] or [{}]).mark_text(fontSize=26, fontWeight=600, color=COLORS.get(color, INK))
    return large.transform_calculate(text=text).encode(text="text:N")


def bar_gauge(panel: Panel, rows: list[Row]) -> Chart:
    """A bar for each row (`name`, `value`), in the color of its configuration (`config`)."""
    base = _data(rows).transform_calculate(text=formatted(panel["fieldConfig"]["defaults"]["unit"]))
    base = base.encode(x=alt.X("value:Q", axis=None), y=alt.Y("name:N", sort=None))
    bars = base.mark_bar().encode(color=alt.Color("config:N", legend=None))
    return alt.layer(bars, base.mark_text(align="left", dx=6).encode(text="text:N"))


def table(rows: list[Row], units: dict[str, str]) -> Chart:
    """A table with the columns that `units` names. A column without a unit has text and is as wide as that requires."""
    layers, left = [], 0
    for title, unit in units.items():
        value = f"datum['{title}']"
        text = f"{value} == null ? '–' : {formatted(unit, value) if unit else value}"
        at = alt.X("left:Q", axis=None, scale=alt.Scale(nice=False))
        body = _data([{**row, "left": left, "row": number} for number, row in enumerate(rows, 1)])
        head = _data([{"left": left, "row": 0, "text": title}]).mark_text(align="left", color=DIM)
        layers += [
            one.encode(x=at, y=alt.Y("row:O", axis=None), text="text:N")
            for one in (head, body.transform_calculate(text=text).mark_text(align="left"))
        ]
        left += max(10, len(title), *(0 if unit else len(row[title]) for row in rows))
    return alt.layer(*layers, _data([{"left": left}]).mark_point(opacity=0).encode(x="left:Q"))


def _data(rows: list[Row]) -> Chart:
    return alt.Chart(alt.InlineData(values=rows))


def specification(chart: Chart, title: str, width: float, height: float) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart with its title, in a size that includes both."""
    axis = {"title": None, "labelColor": DIM, "labelLimit": 200, "gridColor": GRID, "domain": False, "ticks": False}
    legend = {
        "title": None,
        "orient": "bottom",
        "symbolType": "stroke",
        "labelFontSize": 10,
        "labelLimit": 0,
        "offset": 4,
    }
    specified: dict[str, Any] = chart.properties(
        title=alt.Title(title, anchor="start", frame="bounds", fontSize=13),
        width=width,
        height=height,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        padding=10,
        background="white",
        config=alt.Config(font=FONT, view={"stroke": None}, axis=axis, legend=legend),
    ).to_dict()
    return specified
