"""Convert the rows of a figure into JSON values for Vega, for the page and for exported files."""

import re
from typing import Any

import pandas as pd

from analysis.figures.base import Figure
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


def used(figure: Figure, spec: str) -> list[Any]:
    """The columns that a chart's specification, the panels or the filters use. No other columns are written."""
    words = set(re.findall(r"\w+", spec)) | {figure.panel, *figure.filters}
    return [column for column in figure.rows.columns if column in words]
