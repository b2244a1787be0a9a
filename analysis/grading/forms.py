"""The forms an answer can have: quantity, list, row, matrix, base and so on.

Rules: `(a,b)` is a Row and becomes an interval only against an interval.

Does not know: how they are written (`answer`), or when two agree (`compare`).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from analysis.grading.formula import Formula, UndefinedError, UnreadableError, Value, mp
from analysis.grading.units import Unit


@dataclass(frozen=True, slots=True)
class Quantity:
    """A formula, with a unit or without."""

    formula: Formula
    unit: Unit | None


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """3 : 2."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day; `half` is a or p where it was said."""

    hour: int
    minute: int
    half: str


@dataclass(frozen=True, slots=True)
class Infinite:
    """An end of the real line."""

    sign: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers, in no order; a set drops repeats."""

    items: "tuple[Form, ...]"
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A tuple, or the ends of an interval."""

    opening: str
    items: "tuple[Form, ...]"
    closing: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: "tuple[tuple[Form, ...], ...]"


@dataclass(frozen=True, slots=True)
class Equation:
    """Sides of an equation, as text, since the left one may be a name."""

    sides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inequality:
    """A chain `a < b ≤ c`, as text and signs."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Combined:
    """Sets or conditions joined: union, intersection, difference."""

    how: Literal["or", "and", "minus"]
    items: "tuple[Form, ...]"


Form = (
    Quantity
    | Based
    | Ratio
    | TimeOfDay
    | Infinite
    | Listing
    | Row
    | Matrix
    | Equation
    | Inequality
    | Combined
)
REALS = Row("(", (Infinite(-1), Infinite(1)), ")")


def real(form: Form) -> Value | Infinite:
    """An interval's end as a number. Raises UnreadableError."""
    if isinstance(form, Infinite):
        return form
    if isinstance(form, Quantity) and not form.formula.symbols:
        try:
            value = form.formula.value()
        except UndefinedError as error:
            raise UnreadableError("undefined end") from error
        if isinstance(value, Fraction) or not hasattr(value, "imag") or mp(value).imag == 0:
            return value
    raise UnreadableError("end of an interval")
