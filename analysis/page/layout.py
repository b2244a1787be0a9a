"""Define the parts of a page: its answer, notices, sections of figures, and tables.

Their titles, columns and definitions are in columns.toml, and the templates that they fill are in the folder templates. This
module does not know what is in a template.
"""

from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import jinja2
import msgspec
import pandas as pd

from analysis.figures.base import Figure
from analysis.format import number
from loadgen.measure.quantiles import least_sample

TEMPLATES = Path(__file__).parent / "templates"
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=jinja2.select_autoescape(["html"]),
    trim_blocks=True,
    keep_trailing_newline=True,
)
"""Templates of HTML escape all text, those of Markdown none."""


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

    def text(self, row: dict[str, Any]) -> str:
        """The value of a row as shown; a missing value is a dash."""
        value = row[self.name]
        return number(value, self.number) if self.number else "–" if pd.isna(value) else str(value)


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a table, or above the figures of a section."""

    title: str
    lede: str = ""
    columns: str = ""
    """For a table: the name of its list of columns."""


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
class Definitions:
    """The content of columns.toml."""

    sections: dict[str, Heading]
    tables: dict[str, Heading]
    columns: dict[str, list[Column]]
    definitions: dict[str, str]


def _read_definitions() -> Definitions:
    text = Template((Path(__file__).parent / "columns.toml").read_text(encoding="utf-8"))
    filled = text.safe_substitute(p50=least_sample(0.5), p95=least_sample(0.95))
    return msgspec.toml.decode(filled, type=Definitions)


DEFINITIONS = _read_definitions()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page."""

    name: str
    heading: Heading
    table: pd.DataFrame

    @property
    def columns(self) -> list[Column]:
        """The columns that have a value in some row."""
        known = {name for name in self.table if (self.table[name].notna() & (self.table[name] != "")).any()}
        return [column for column in DEFINITIONS.columns[self.heading.columns] if column.name in known]


@dataclass(frozen=True, slots=True)
class Page:
    """The content of the page, from top to bottom."""

    answer: Answer
    notices: list[Notice]
    sections: dict[str, Heading]
    figures: list[Figure]
    tables: list[Table]
