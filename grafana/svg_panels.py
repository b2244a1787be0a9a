"""Draw panels as SVG in Grafana's layout: time series, single values, bar gauges and tables with their units and legends.

Rules: a function draws one panel at the origin and returns SVG text. Positions are pixels of a 1440 pixel wide screen. The result is
a picture of query results, not a copy of Grafana: it has no interaction, a light theme and one font.

This module does not know PromQL, Prometheus or where the values come from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from grafana.unit_format import format_value

WIDTH = 1440
GAP = 8
ROW = 38
INK, DIM, GRID, EDGE = "#1f2329", "#6b7280", "#eceef1", "#dcdfe4"
PALETTE = (
    "#3d8f5f", "#d99a2b", "#3574c4", "#c94f4f", "#8a56b8", "#1f9aa8", "#b5651d", "#6b7f1f", "#d4569a", "#52606d",
    "#2f6f4f", "#e07b39", "#5b8def", "#a33b6b", "#7d6bd6", "#4aa3a3",
)  # fmt: skip
COLORS = {
    "green": "#2e8b57",
    "orange": "#d9822b",
    "red": "#c23030",
    "blue": "#2965cc",
    "text": INK,
    "transparent": "none",
}


@dataclass(frozen=True)
class Series:
    """One line or bar: its legend, its points (seconds from the start, value), and its configuration if it has one."""

    name: str
    points: Sequence[tuple[float, float]]
    config: str = ""

    def last(self) -> float:
        """The newest value that is not NaN, or NaN."""
        return next((y for _, y in reversed(self.points) if not math.isnan(y)), math.nan)


@dataclass
class ColorMap:
    """Assigns colors to names, so that a name has the same color in every panel."""

    assigned: dict[str, str] = field(default_factory=dict)

    def color_of(self, name: str) -> str:
        """Return the color of a name; a new name gets the next color of the palette."""
        return self.assigned.setdefault(name, PALETTE[len(self.assigned) % len(PALETTE)])


def text(
    x: float,
    y: float,
    label: str,
    *,
    size: int = 12,
    color: str = INK,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """One line of text at its baseline."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}>{escape(label)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashes: str = "none") -> str:
    """A straight line. `dashes` are the lengths of its dashes and gaps."""
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-dasharray="{dashes}"/>'
    )


def bar(x: float, y: float, width: float, height: float, color: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def shortened(label: str, width: float, size: int = 12) -> str:
    """Shorten a text to a width in pixels. A character of this font is about 0.55 of its height lengths."""
    room = int(width / (size * 0.55))
    return label if len(label) <= room else label[: max(room - 1, 1)] + "…"


def panel_frame(w: float, h: float, title: str) -> str:
    """Draw the frame of a panel and its title."""
    frame = f'<rect width="{w:.1f}" height="{h:.1f}" rx="3" fill="#fff" stroke="{EDGE}"/>'
    return frame + text(10, 19, shortened(title, w - 20, 13), size=13, bold=True)


def heading(title: str) -> str:
    """Draw the heading of a row of panels."""
    return text(4, 24, title, size=15, bold=True)


def ticks(top: float) -> list[float]:
    """Two to seven round values from 0 to `top` or slightly above."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10 ** math.floor(math.log10(top / 4))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if top / (power * m) <= 5)
    return [n * step for n in range(math.ceil(top / step - 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """The area of a time series panel in pixels, with the length of its time axis and the highest value."""

    left: float
    top: float
    right: float
    bottom: float
    span_s: float
    high: float

    def x(self, at_s: float) -> float:
        """Horizontal position of a time in seconds."""
        return self.left + (self.right - self.left) * at_s / self.span_s

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        return self.bottom - (self.bottom - self.top) * min(value, self.high) / self.high


def time_series(
    w: float,
    h: float,
    panel: dict[str, Any],
    series: Sequence[Series],
    *,
    span_s: float,
    boundaries: Sequence[float],
    colors: ColorMap,
) -> str:
    """Draw a time series panel. `boundaries` are the times, in seconds, at which a run or a cell starts or ends."""
    defaults = panel["fieldConfig"]["defaults"]
    unit, limit = defaults["unit"], _limit(defaults)
    drawn = _stack(series) if defaults["custom"].get("stacking", {}).get("mode") == "normal" else series
    entries, legend_h = _legend(w, series, unit, colors)
    values = [y for one in drawn for _, y in one.points if not math.isnan(y)]
    high = ticks(
        defaults.get("max") or max([*values, limit if limit and values and max(values) > limit / 3 else 0, 0])
    )[-1]
    plot = Plot(70, 32, w - 14, h - 22 - legend_h, span_s, high)
    parts = [panel_frame(w, h, panel["title"]), _axes(plot, unit)]
    parts += [line(plot.x(at), plot.top, plot.x(at), plot.bottom, "#5b8def", dashes="2 3") for at in boundaries]
    if limit and limit <= high:
        parts.append(line(plot.left, plot.y(limit), plot.right, plot.y(limit), "#c23030", dashes="6 4"))
    parts += [_path(plot, one, colors.color_of(one.name)) for one in drawn]
    if not series:
        parts.append(text(w / 2, h / 2, "no data", size=14, color=DIM, anchor="middle"))
    return "".join(parts) + f'<g transform="translate(0 {h - legend_h:.1f})">{entries}</g>'


def _limit(defaults: dict[str, Any]) -> float | None:
    steps = defaults.get("thresholds", {}).get("steps", [])
    return float(steps[1]["value"]) if len(steps) > 1 else None


def _stack(series: Sequence[Series]) -> list[Series]:
    below: dict[float, float] = {}
    stacked = []
    for one in series:
        points = []
        for x, y in one.points:
            below[x] = below.get(x, 0.0) + (0 if math.isnan(y) else y)
            points.append((x, below[x]))
        stacked.append(Series(one.name, points))
    return stacked


def _axes(plot: Plot, unit: str) -> str:
    parts = []
    for value in ticks(plot.high):
        y = plot.y(value)
        parts.append(line(plot.left, y, plot.right, y, GRID))
        parts.append(text(plot.left - 6, y + 4, format_value(value, unit), size=11, color=DIM, anchor="end"))
    step = next(s for s in (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 10**9) if plot.span_s / s <= 7)
    y = plot.bottom + 15
    times = [(at, f"{at // 60}:{at % 60:02d}") for at in range(0, int(plot.span_s) + 1, step)]
    parts += [text(plot.x(at), y, label, size=11, color=DIM, anchor="middle") for at, label in times]
    return "".join(parts)


def _path(plot: Plot, one: Series, color: str) -> str:
    commands, pen, before = [], "M", -math.inf
    for x, y in one.points:
        if math.isnan(y):
            continue
        pen = "L" if x - before <= 30 else "M"  # the same limit as span_nulls in the dashboards
        commands.append(f"{pen}{plot.x(x):.1f} {plot.y(y):.1f}")
        before = x
    return f'<path d="{"".join(commands)}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linejoin="round"/>'


def _legend(w: float, series: Sequence[Series], unit: str, colors: ColorMap) -> tuple[str, float]:
    """The legend's entries with their means and maxima, and the height of the legend in pixels."""
    x, y, parts = 12.0, 14.0, []
    for one in series:
        known = [y for _, y in one.points if not math.isnan(y)] or [math.nan]
        value = f"{format_value(sum(known) / len(known), unit)} (max {format_value(max(known), unit)})"
        size = (len(one.name) + len(value) + 2) * 6.0 + 26
        if x + size > w - 6 and x > 12:
            x, y = 12.0, y + 17
        if y > 14 + 2 * 17:  # three rows at most, so that the lines have enough space; Grafana scrolls here
            break
        parts.append(bar(x, y - 8, 12, 4, colors.color_of(one.name)))
        label = escape(shortened(one.name, w - 110, 11))
        parts.append(
            f'<text x="{x + 17:.1f}" y="{y:.1f}" font-size="11" fill="{INK}">{label} <tspan fill="{DIM}">{escape(value)}</tspan></text>'
        )
        x += size
    return "".join(parts), min(y, 14 + 2 * 17) + 8


def stat(w: float, h: float, panel: dict[str, Any], series: Sequence[Series]) -> str:
    """Draw the newest value as a large number, in the color of its threshold or value mapping."""
    defaults = panel["fieldConfig"]["defaults"]
    value = series[0].last() if series else math.nan
    label, color = format_value(value, defaults["unit"], defaults.get("decimals")), INK
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = COLORS.get(step["color"], step["color"])
    for mapping in defaults.get("mappings", []):
        result = mapping["options"].get(f"{value:g}")
        if result:
            label, color = result["text"], COLORS.get(result["color"], INK)
    size = 28 if len(label) < 9 else 22
    return panel_frame(w, h, panel["title"]) + text(
        w / 2, h / 2 + 24, label, size=size, color=color, anchor="middle", bold=True
    )


def bar_gauge(w: float, h: float, panel: dict[str, Any], series: Sequence[Series], colors: ColorMap) -> str:
    """Draw one bar for row_h series. The longest bar has the full width."""
    defaults = panel["fieldConfig"]["defaults"]
    parts = [panel_frame(w, h, panel["title"])]
    high = max([one.last() for one in series if not math.isnan(one.last())], default=0) or 1
    row_h = min((h - 40) / max(len(series), 1), 34.0)
    names_w = min(max((len(one.name) for one in series), default=0) * 6.4 + 12, w * 0.45)
    room = w - names_w - 92
    for n, one in enumerate(series):
        y, value = 32 + n * row_h, one.last()
        bar_w = 0 if math.isnan(value) else room * value / high
        parts.append(text(names_w, y + row_h / 2 + 4, shortened(one.name, names_w - 8, 11), size=11, anchor="end"))
        for width, color in ((room, GRID), (bar_w, colors.color_of(one.config or one.name))):
            parts.append(bar(names_w + 8, y + 2, width, row_h - 4, color))
        label = format_value(value, defaults["unit"], defaults.get("decimals"))
        parts.append(text(names_w + room + 14, y + row_h / 2 + 4, label, size=11))
    return "".join(parts)


def table(w: float, h: float, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table whose columns are as wide as their contents require."""
    parts = [panel_frame(w, h, title)]
    lengths = [
        max(len(column), *(len(row[n]) for row in rows), 4) if rows else len(column)
        for n, column in enumerate(headings)
    ]
    widths = [(w - 20) * one / sum(lengths) for one in lengths]
    row_h = min(26.0, (h - 56) / max(len(rows), 1))
    for number, row in enumerate([headings, *rows]):
        y, x, color = 44 + number * row_h, 10.0, INK if number else DIM
        for label, width in zip(row, widths, strict=True):
            parts.append(text(x, y, shortened(label, width - 6), bold=not number, color=color))
            x += width
        parts.append(line(10, y + row_h / 3, w - 10, y + row_h / 3, GRID))
    return "".join(parts)
