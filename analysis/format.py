"""Format numbers, model names and table rows for people and for JSON.

This module does not know which tables exist or where they are shown.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd


def short_model(model: str) -> str:
    """The size in a model's name, such as `14B`, or the whole name where it contains none."""
    sizes = [part for part in model.replace("_", "-").split("-") if part[:1].isdigit() and part[-1:] in "bB"]
    return sizes[-1] if sizes else model


def short_models(models: Iterable[Any]) -> dict[str, str]:
    """Shortest form that tells the models apart: the size (`14B`), family and size (`s1.1 14B`), or the whole name."""
    names = list(dict.fromkeys(str(model) for model in models))
    sizes = [short_model(name) for name in names]
    families = [f"{name.split('-')[0]} {size}" for name, size in zip(names, sizes, strict=True)]
    short = sizes if len(set(sizes)) == len(names) else families if len(set(families)) == len(names) else names
    return dict(zip(names, short, strict=True))


def natural(name: str) -> list[Any]:
    """Sort key that puts `tp2` before `tp10`, and `tp2` before `tp2-ngram`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def short_budget(budget: float) -> str:
    """A token budget in few characters: `4K`, `512`."""
    return f"{budget / 1024:g}K" if budget >= 1024 and budget % 512 == 0 else f"{budget:,.0f}"


def plain(value: Any) -> Any:
    """A value for JSON: floats have six significant digits, and values that are not finite become null."""
    if value is None or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def number(value: Any, form: str) -> str:
    """Format a number by a format such as `.1%`, `.3g` or `,d`; a missing number is a dash."""
    if value is None or pd.isna(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if form == ",d":
        return f"{round(value):,}"
    if form.endswith("g") and value:
        digits = int(form[1:-1])
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}" if decimals <= 5 else f"{value:.{digits - 1}e}"
    return format(value, form)


def span(values: Iterable[Any], form: str) -> str:
    """The range of several numbers, such as `1.2 to 1.6`; one number where both ends read the same."""
    known = [value for value in values if pd.notna(value)]
    ends = [number(edge(known), form) for edge in (min, max)] if known else ["–"]
    return " to ".join(dict.fromkeys(ends))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries by column name."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def first(table: pd.DataFrame, names: Iterable[str]) -> dict[str, Any]:
    """The values of some columns in the first row of a table."""
    row = table.iloc[0]
    return {name: row[name] for name in names}
