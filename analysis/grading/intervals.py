"""Convert brackets, inequalities, unions and differences to sets of real numbers, as sorted, disjoint intervals.

Rules: the ends are numbers, exact if they are rational. An inequality is solved only if it has one variable and is linear in it.

This module does not know tuples: the caller has decided that a form in brackets is an interval.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from analysis.grading.forms import (
    Form,
    Inequality,
    Infinity,
    SetOperation,
    TupleOrInterval,
    UnorderedList,
    real_number,
)
from analysis.grading.formula import divide, subtract
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UnreadableError, Value, negative
from analysis.grading.zero import equal_values, is_zero, sign, to_float

End = Value | Infinity


@dataclass(frozen=True, slots=True)
class NumberInterval:
    """An interval from `low` to `high`; `has_low` and `has_high` say whether it includes its ends."""

    low: End
    high: End
    has_low: bool
    has_high: bool


def _below(a: End, b: End) -> bool:
    """True if a is less than b, also for infinite values."""
    if isinstance(a, Infinity) or isinstance(b, Infinity):
        return (a.sign if isinstance(a, Infinity) else 0) < (b.sign if isinstance(b, Infinity) else 0)
    return sign(subtract(a, b)) < 0


def _same(a: End, b: End) -> bool:
    if isinstance(a, Infinity) or isinstance(b, Infinity):
        return a == b
    return equal_values(a, b)


def to_intervals(form: Form) -> list[NumberInterval]:
    """Return the set of real numbers that a form describes. Raises UnreadableError."""
    if isinstance(form, TupleOrInterval) and len(form.items) == 2:
        low, high = (real_number(item) for item in form.items)
        return _merged([NumberInterval(low, high, form.opening == "[", form.closing == "]")])
    if isinstance(form, Inequality):
        return _solved(form)
    if isinstance(form, SetOperation):
        return _combined(form)
    if isinstance(form, UnorderedList):
        points = [real_number(item) for item in form.items]
        return _merged([NumberInterval(point, point, has_low=True, has_high=True) for point in points])
    raise UnreadableError("not a set of real numbers")


def same_intervals(a: list[NumberInterval], b: list[NumberInterval]) -> bool:
    """True if both lists have the same intervals with the same ends."""
    return len(a) == len(b) and all(
        _same(x.low, y.low) and _same(x.high, y.high) and (x.has_low, x.has_high) == (y.has_low, y.has_high)
        for x, y in zip(a, b, strict=True)
    )


def _merged(parts: list[NumberInterval]) -> list[NumberInterval]:
    """Sort intervals, remove empty ones and join those that overlap or touch."""
    kept = [_open_at_infinity(part) for part in parts if not _empty(part)]
    kept.sort(key=lambda part: (_order(part.low), not part.has_low))
    out: list[NumberInterval] = []
    for part in kept:
        last = out[-1] if out else None
        if last and (
            _below(part.low, last.high) or (_same(part.low, last.high) and (part.has_low or last.has_high))
        ):
            out[-1] = _joined(last, part)
        else:
            out.append(part)
    return out


def _order(end: End) -> tuple[int, Any]:
    return (end.sign, Fraction(0)) if isinstance(end, Infinity) else (0, to_float(end))


def _empty(part: NumberInterval) -> bool:
    return _below(part.high, part.low) or (
        _same(part.low, part.high) and not (part.has_low and part.has_high)
    )


def _open_at_infinity(part: NumberInterval) -> NumberInterval:
    return NumberInterval(
        part.low,
        part.high,
        part.has_low and not isinstance(part.low, Infinity),
        part.has_high and not isinstance(part.high, Infinity),
    )


def _joined(a: NumberInterval, b: NumberInterval) -> NumberInterval:
    if _same(a.high, b.high):
        return NumberInterval(a.low, a.high, a.has_low, a.has_high or b.has_high)
    later = b if _below(a.high, b.high) else a
    return NumberInterval(a.low, later.high, a.has_low, later.has_high)


def _complement(parts: list[NumberInterval]) -> list[NumberInterval]:
    out, low, has_low = [], Infinity(-1), False
    start: End = low
    for part in parts:
        out.append(NumberInterval(start, part.low, has_low, not part.has_low))
        start, has_low = part.high, not part.has_high
    out.append(NumberInterval(start, Infinity(1), has_low, has_high=False))
    return _merged(out)


def _combined(form: SetOperation) -> list[NumberInterval]:
    sets = [to_intervals(item) for item in form.items]
    if form.operation == "or":
        return _merged([part for one in sets for part in one])
    if form.operation == "minus":
        sets = [sets[0], *(_complement(one) for one in sets[1:])]
    outside = [part for one in sets for part in _complement(one)]
    return _complement(_merged(outside))


def _solved(form: Inequality) -> list[NumberInterval]:
    """Solve a chain of inequalities, all of which must hold. `|a| < b` is solved as `-b < a < b`."""
    if len(form.sides) == 2 and (inside := re.fullmatch(r"\|([^|]*)\|", form.sides[0].strip())):
        both = [Inequality((f"{factor}({inside[1]})", form.sides[1]), form.signs) for factor in ("", "-")]
        return _combined(SetOperation("or" if form.signs[0] in {">", "\\ge"} else "and", tuple(both)))
    solutions = [
        _solve_linear(a, relation, b)
        for a, relation, b in zip(form.sides, form.signs, form.sides[1:], strict=False)
    ]
    return _complement(_merged([part for solution in solutions for part in _complement(solution)]))


def _solve_linear(left: str, relation: str, right: str) -> list[NumberInterval]:
    """Solve one linear inequality in one variable."""
    a, b = parse_formula(left or "x"), parse_formula(right)  # `\\ge 3` leaves the name out
    symbols = a.symbols | b.symbols
    if len(symbols) != 1:
        raise UnreadableError("the inequality does not have exactly one variable")
    (symbol,) = symbols
    at = [subtract(a.evaluate({symbol: Fraction(x)}), b.evaluate({symbol: Fraction(x)})) for x in (0, 1, 2)]
    slope = subtract(at[1], at[0])
    if is_zero(slope) or not equal_values(subtract(at[2], at[1]), slope):
        raise UnreadableError("the inequality is not linear")
    point = divide(negative(at[0]), slope)
    if relation == "\\ne":
        return _complement([NumberInterval(point, point, has_low=True, has_high=True)])
    closed = relation in {"\\le", "\\ge"}
    if (relation in {"<", "\\le"}) == (sign(slope) > 0):
        return [NumberInterval(Infinity(-1), point, has_low=False, has_high=closed)]
    return [NumberInterval(point, Infinity(1), closed, has_high=False)]


def variables(form: Form) -> frozenset[str]:
    """Return the variables of the inequalities in a form. Intervals in brackets have none."""
    if isinstance(form, Inequality):
        return frozenset().union(*(parse_formula(side).symbols for side in form.sides if side))
    if isinstance(form, SetOperation):
        return frozenset().union(*(variables(item) for item in form.items))
    return frozenset()
