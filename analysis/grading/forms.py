"""The forms that an answer can have: quantity, list, tuple, matrix and so on.

Rules: `(a,b)` is a `TupleOrInterval`. It is treated as an interval only if the other side is a set of real numbers.

This module does not know how the forms are written (see `answer_parser`) or when two of them are equal (see `equivalence`).
"""

from dataclasses import dataclass
from typing import Literal

from analysis.grading.formula import Formula
from analysis.grading.numbers import UndefinedError, UnreadableError, Value
from analysis.grading.units import Unit
from analysis.grading.zero import is_real


@dataclass(frozen=True, slots=True)
class Quantity:
    """A formula with or without a unit."""

    formula: Formula
    unit: Unit | None


@dataclass(frozen=True, slots=True)
class BaseNumber:
    """A number written in another base than 10."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio such as 3 : 2."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day. `half` is `a` for a.m., `p` for p.m., or empty."""

    hour: int
    minute: int
    half: str


@dataclass(frozen=True, slots=True)
class Infinity:
    """Positive or negative infinity, as the end of an interval."""

    sign: int


@dataclass(frozen=True, slots=True)
class Dots:
    """The dots in a list that goes on."""


@dataclass(frozen=True, slots=True)
class UnorderedList:
    """Several answers without an order. If it is a set, repeated elements do not count."""

    items: "tuple[Form, ...]"
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class TupleOrInterval:
    """Two or more items in brackets: a tuple, or the ends of an interval."""

    opening: str
    items: "tuple[Form, ...]"
    closing: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix as rows of entries."""

    rows: "tuple[tuple[Form, ...], ...]"


@dataclass(frozen=True, slots=True)
class Equation:
    """The sides of an equation. They are text, because the left side may be a name."""

    sides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inequality:
    """A chain such as `a < b ≤ c`: its sides as text, and the signs between them."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetOperation:
    """Sets or conditions combined by union (`or`), intersection (`and`) or difference (`minus`)."""

    operation: Literal["or", "and", "minus"]
    items: "tuple[Form, ...]"


Form = (
    Quantity
    | BaseNumber
    | Ratio
    | TimeOfDay
    | Infinity
    | Dots
    | UnorderedList
    | TupleOrInterval
    | Matrix
    | Equation
    | Inequality
    | SetOperation
)
REALS = TupleOrInterval("(", (Infinity(-1), Infinity(1)), ")")


def real_number(form: Form) -> Value | Infinity:
    """Return the end of an interval as a real number. Raises UnreadableError."""
    if isinstance(form, Infinity):
        return form
    if isinstance(form, Quantity) and not form.formula.symbols:
        try:
            value = form.formula.value()
        except UndefinedError as error:
            raise UnreadableError("the end of an interval is undefined") from error
        if is_real(value):
            return value
    raise UnreadableError("the end of an interval is not a real number")
