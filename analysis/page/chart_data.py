"""Prepare a figure for Vega: its specification in the study's colours, and its rows as JSON values.

The page and the exported files both use it.
"""

import json
import re
from typing import Any

import pandas as pd

from analysis.figures.base import Figure
from analysis.figures.style import paint
from analysis.format import plain, records


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table as rows: numbers have six digits, and a missing value is null."""
    return [{name: plain(value) for name, value in row.items()} for row in records(table)]


def columns_of(table: pd.DataFrame) -> dict[str, Any]:
    """The table by column, with each word stored once. The page is then a third of the size that rows would need."""
    columns: dict[str, Any] = {}
    for name in table:
        values = [plain(value) for value in table[name]]
        once = list(dict.fromkeys(values))
        if any(isinstance(value, str) for value in once):
            place = {value: n for n, value in enumerate(once)}
            columns[str(name)] = {"words": once, "codes": [place[value] for value in values]}
        else:
            columns[str(name)] = values
    return columns


def drawn(figure: Figure, scheme: dict[str, str], shown: list[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """The specification of one panel, with a colour for each configuration `shown`, and the rows that it draws.

    The rows have the columns that the specification, the panels or the filters use. No other columns are written.
    """
    spec = figure.chart.to_dict(validate=False)
    for key in ("config", "$schema", "datasets"):
        spec.pop(key, None)
    paint(spec, scheme, shown)
    words = set(re.findall(r"\w+", json.dumps(spec))) | {figure.panel, *figure.filters}
    return spec, figure.rows[[column for column in figure.rows.columns if column in words]]
