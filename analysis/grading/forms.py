"""The forms that an answer can have: quantity, list, tuple, matrix and so on.

Rules: `(a,b)` is a `TupleOrInterval`. It is treated as an interval only if the other side is a set of real numbers.

This module does not know how the forms are written (see `answer_parser`) or when two of them are equal (see `equivalence`).
"""

from fractions import Fraction
from typing import Literal

import msgspec

from analysis.grading.formula import Formula
from analysis.grading.units import Unit


class Form(msgspec.Struct, frozen=True):
    """The base of all forms."""


class Quantity(Form, frozen=True):
    """A formula with or without a unit."""

    formula: Formula
    unit: Unit | None


class BaseNumber(Form, frozen=True):
    """A number written in another base than 10."""

    digits: str
    base: int

    def value(self) -> Fraction:
        """The value of the number. Raises ValueError if it has a digit that is too large."""
        whole, _, places = self.digits.partition(".")
        return Fraction(int(whole + places, self.base), self.base ** len(places))


class Ratio(Form, frozen=True):
    """A ratio such as 3 : 2."""

    parts: tuple[Formula, ...]


class TimeOfDay(Form, frozen=True):
    """A time of day. `half` is `a` for a.m., `p` for p.m., or empty."""

    hour: int
    minute: int
    half: str


class Infinity(Form, frozen=True):
    """Positive or negative infinity, as the end of an interval."""

    sign: int


class Dots(Form, frozen=True):
    """The dots in a list that goes on."""


class UnorderedList(Form, frozen=True):
    """Several answers without an order. If it is a set, repeated elements do not count."""

    items: tuple[Form, ...]
    is_set: bool = False


class TupleOrInterval(Form, frozen=True):
    """Two or more items in brackets: a tuple, or the ends of an interval."""

    opening: str
    items: tuple[Form, ...]
    closing: str


class Matrix(Form, frozen=True):
    """A matrix as tuples of entries."""

    rows: tuple[TupleOrInterval, ...]


class Equation(Form, frozen=True):
    """The sides of an equation. They are text, because the left side may be a name."""

    sides: tuple[str, ...]


class Congruence(Form, frozen=True):
    r"""A congruence such as `n \equiv 3 \pmod 5`, with the smallest residue that is not negative."""

    name: str
    residue: int
    modulus: int


class Inequality(Form, frozen=True):
    """A chain such as `a < b ≤ c`: its sides as text, and the signs between them."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


class SetOperation(Form, frozen=True):
    """Sets or conditions combined by union (`or`), intersection (`and`) or difference (`minus`)."""

    operation: Literal["or", "and", "minus"]
    items: tuple[Form, ...]


REALS = TupleOrInterval("(", (Infinity(-1), Infinity(1)), ")")
