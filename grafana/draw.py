"""Panels as SVG, laid out as Grafana lays them out: lines, numbers, bars and tables with their units and legends.

Rules: a function draws one panel at its own origin and returns SVG text; positions are pixels of a 1440 pixel wide screen.
It is a drawing of answers, not a copy of Grafana: no interaction, light theme, one font.

Does not know: PromQL, Prometheus, where the answers come from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from grafana.units import number

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
    """One line or bar: its legend, (seconds from the start, value) points, and the configuration it is of, if one."""

    name: str
    points: Sequence[tuple[float, float]]
    config: str = ""

    def last(self) -> float:
        """Newest number."""
        return next((y for _, y in reversed(self.points) if not math.isnan(y)), math.nan)


@dataclass
class Paints:
    """The same name has the same colour in every panel."""

    known: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """Return the name's colour, or the next one."""
        return self.known.setdefault(name, PALETTE[len(self.known) % len(PALETTE)])


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    color: str = INK,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """One line of text at its baseline."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def clipped(words: str, width: float, size: int = 12) -> str:
    """Cut words that would not fit; a character of this font is about 0.55 of its height wide."""
    room = int(width / (size * 0.55))
    return words if len(words) <= room else words[: max(room - 1, 1)] + "…"


def card(w: float, h: float, title: str) -> str:
    """Draw the frame of a panel and its title."""
    frame = f'<rect width="{w:.1f}" height="{h:.1f}" rx="3" fill="#fff" stroke="{EDGE}"/>'
    return frame + text(10, 19, clipped(title, w - 20, 13), size=13, bold=True)


def heading(title: str) -> str:
    """Draw the heading of a row."""
    return text(4, 24, title, size=15, bold=True)


def ticks(top: float) -> list[float]:
    """Three to six round values from 0 up to `top`."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10 ** math.floor(math.log10(top / 4))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if top / (power * m) <= 5)
    return [n * step for n in range(math.ceil(top / step - 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """Where a panel's lines go: the rectangle and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    span_s: float
    high: float

    def x(self, at_s: float) -> float:
        """Pixel of a time."""
        return self.left + (self.right - self.left) * at_s / self.span_s

    def y(self, value: float) -> float:
        """Pixel of a value."""
        return self.bottom - (self.bottom - self.top) * min(value, self.high) / self.high


def lines(
    w: float,
    h: float,
    panel: dict[str, Any],
    series: Sequence[Series],
    *,
    span_s: float,
    marks: Sequence[float],
    paints: Paints,
) -> str:
    """Draw a time series panel; `marks` are the seconds at which a run or a cell starts or ends."""
    defaults = panel["fieldConfig"]["defaults"]
    unit, limit = defaults["unit"], _limit(defaults)
    drawn = _stack(series) if defaults["custom"].get("stacking", {}).get("mode") == "normal" else series
    entries, legend_h = _legend(w, series, unit, paints)
    values = [y for one in drawn for _, y in one.points if not math.isnan(y)]
    high = ticks(
        defaults.get("max") or max([*values, limit if limit and values and max(values) > limit / 3 else 0, 0])
    )[-1]
    plot = Plot(70, 32, w - 14, h - 22 - legend_h, span_s, high)
    parts = [card(w, h, panel["title"]), _axes(plot, unit)]
    parts += [
        f'<line x1="{plot.x(at):.1f}" x2="{plot.x(at):.1f}" y1="{plot.top}" y2="{plot.bottom}" stroke="#5b8def" stroke-dasharray="2 3"/>'
        for at in marks
    ]
    if limit and limit <= high:
        parts.append(
            f'<line x1="{plot.left}" x2="{plot.right}" y1="{plot.y(limit):.1f}" y2="{plot.y(limit):.1f}" stroke="#c23030" stroke-dasharray="6 4"/>'
        )
    parts += [_path(plot, one, paints.of(one.name)) for one in drawn]
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
        parts.append(f'<line x1="{plot.left}" x2="{plot.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(plot.left - 6, y + 4, number(value, unit), size=11, color=DIM, anchor="end"))
    step = next(s for s in (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 10**9) if plot.span_s / s <= 7)
    y = plot.bottom + 15
    times = [(at, f"{at // 60}:{at % 60:02d}") for at in range(0, int(plot.span_s) + 1, step)]
    parts += [text(plot.x(at), y, words, size=11, color=DIM, anchor="middle") for at, words in times]
    return "".join(parts)


def _path(plot: Plot, one: Series, color: str) -> str:
    commands, pen, before = [], "M", -math.inf
    for x, y in one.points:
        if math.isnan(y):
            continue
        pen = "L" if x - before <= 30 else "M"  # as the dashboards' span_nulls
        commands.append(f"{pen}{plot.x(x):.1f} {plot.y(y):.1f}")
        before = x
    return f'<path d="{"".join(commands)}" fill="none" stroke="{color}" stroke-width="1.6" stroke-linejoin="round"/>'


def _legend(w: float, series: Sequence[Series], unit: str, paints: Paints) -> tuple[str, float]:
    """Entries with their newest value, and the height they take."""
    x, y, parts = 12.0, 14.0, []
    for one in series:
        value = number(one.last(), unit)
        size = (len(one.name) + len(value) + 2) * 6.0 + 26
        if x + size > w - 6 and x > 12:
            x, y = 12.0, y + 17
        if y > 14 + 2 * 17:  # as Grafana, which scrolls: the lines need the room
            break
        parts.append(
            f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="12" height="4" fill="{paints.of(one.name)}"/>'
        )
        label = escape(clipped(one.name, w - 110, 11))
        parts.append(
            f'<text x="{x + 17:.1f}" y="{y:.1f}" font-size="11" fill="{INK}">{label} <tspan fill="{DIM}">{escape(value)}</tspan></text>'
        )
        x += size
    return "".join(parts), min(y, 14 + 2 * 17) + 8


def stat(w: float, h: float, panel: dict[str, Any], series: Sequence[Series]) -> str:
    """Draw the newest value, large, in the colour of its threshold or word."""
    defaults = panel["fieldConfig"]["defaults"]
    value = series[0].last() if series else math.nan
    words, color = number(value, defaults["unit"], defaults.get("decimals")), INK
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = COLORS.get(step["color"], step["color"])
    for mapping in defaults.get("mappings", []):
        result = mapping["options"].get(f"{value:g}")
        if result:
            words, color = result["text"], COLORS.get(result["color"], INK)
    size = 28 if len(words) < 9 else 22
    return card(w, h, panel["title"]) + text(
        w / 2, h / 2 + 24, words, size=size, color=color, anchor="middle", bold=True
    )


def bars(w: float, h: float, panel: dict[str, Any], series: Sequence[Series], paints: Paints) -> str:
    """Draw one bar a series, the longest across."""
    defaults = panel["fieldConfig"]["defaults"]
    parts = [card(w, h, panel["title"])]
    high = max([one.last() for one in series if not math.isnan(one.last())], default=0) or 1
    each = min((h - 40) / max(len(series), 1), 34.0)
    names_w = min(max((len(one.name) for one in series), default=0) * 6.4 + 12, w * 0.45)
    room = w - names_w - 92
    for n, one in enumerate(series):
        y, value = 32 + n * each, one.last()
        long = 0 if math.isnan(value) else room * value / high
        parts.append(
            text(names_w, y + each / 2 + 4, clipped(one.name, names_w - 8, 11), size=11, anchor="end")
        )
        for length, color in ((room, GRID), (long, paints.of(one.config or one.name))):
            parts.append(
                f'<rect x="{names_w + 8:.1f}" y="{y + 2:.1f}" width="{length:.1f}" height="{each - 4:.1f}" fill="{color}"/>'
            )
        words = number(value, defaults["unit"], defaults.get("decimals"))
        parts.append(text(names_w + room + 14, y + each / 2 + 4, words, size=11))
    return "".join(parts)


def grid(w: float, h: float, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table; columns of names are wide, those of numbers alike."""
    parts = [card(w, h, title)]
    wide = [
        max(len(head), *(len(row[n]) for row in rows), 4) if rows else len(head)
        for n, head in enumerate(heads)
    ]
    shares = [(w - 20) * one / sum(wide) for one in wide]
    each = min(26.0, (h - 56) / max(len(rows), 1))
    for line, row in enumerate([heads, *rows]):
        y, x = 44 + line * each, 10.0
        for words, share in zip(row, shares, strict=True):
            parts.append(
                text(x, y, clipped(words, share - 6), bold=line == 0, color=DIM if line == 0 else INK)
            )
            x += share
        parts.append(
            f'<line x1="10" x2="{w - 10:.1f}" y1="{y + each / 3:.1f}" y2="{y + each / 3:.1f}" stroke="{GRID}"/>'
        )
    return "".join(parts)
