"""Define the parts of a page: its answer, notices, sections of figures, and tables.

This module does not know HTML.
"""

from dataclasses import dataclass, field

import pandas as pd

from analysis.figures.base import Figure


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table as shown."""

    name: str
    title: str
    number: str | None = None
    """Format of a number; None for text."""
    help: str = ""
    flag: bool = False
    """Shown as a coloured word."""

    @property
    def align(self) -> str:
        """The CSS class: text is aligned left, numbers are aligned right."""
        return "" if self.number else "l"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page."""

    name: str
    title: str
    lede: str
    columns: list[Column]
    table: pd.DataFrame

    @property
    def filled(self) -> list[Column]:
        """The columns that have a value in some row."""
        known = {name for name in self.table if (self.table[name].notna() & (self.table[name] != "")).any()}
        return [column for column in self.columns if column.name in known]


@dataclass(slots=True)
class Answer:
    """The top of the page: the recommendation in one sentence, its main numbers, and explanations."""

    headline: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)
    """Verdicts that stand beside the headline, each with its text."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the reader has to know first, such as invalid runs."""

    text: str
    lines: list[str] = field(default_factory=list)
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading."""

    name: str
    title: str
    lede: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The content of the page, from top to bottom."""

    answer: Answer
    notices: list[Notice]
    sections: list[Section]
    figures: list[Figure]
    tables: list[Table]
