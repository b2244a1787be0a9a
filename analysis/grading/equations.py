"""Decide whether two equations have the same solutions: they differ by a factor, or are solved for different variables.

A polynomial equation is solved if all its roots are rational.

Rules: both equations are evaluated at sample points of all variables, with exact arithmetic for rational values.

This module does not know names such as `f(x) = 2x`, units or other forms of answers.
"""

import contextlib
import math
import operator
from fractions import Fraction
from itertools import pairwise

import numpy as np

from analysis.grading import formula as fx
from analysis.grading.formula import Formula
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndecidedError, UndefinedError, Value
from analysis.grading.zero import equal_values, is_zero

MAX_DEGREE = 8
MAX_VALUE = 10**15
MAX_DENOMINATOR = 100
"""Polynomial equations of a higher degree, with larger values at small integers or with other roots are undecided."""


def same_solutions(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Compare two equations, given as their two sides. False if they have no variable. Raises UnreadableError."""
    a, b = (fx.combine(operator.sub, *map(parse_formula, sides)) for sides in (one, other))
    return a.symbols == b.symbols and bool(a.symbols) and (_proportional(a, b) or _same_solution(a, b))


def _proportional(a: Formula, b: Formula) -> bool:
    """True if one formula is the other one times a constant that is not zero."""
    ratio: Value | None = None
    for point in fx.sample_points(a.symbols):
        with contextlib.suppress(UndefinedError):
            x, y = a.evaluate(point), b.evaluate(point)
            if is_zero(x) != is_zero(y):
                return False
            if is_zero(y):
                continue
            if ratio is not None and not equal_values(ratio, x / y):
                return False
            ratio = x / y
    return ratio is not None


def _same_solution(a: Formula, b: Formula) -> bool:
    """True if each formula is linear in one of its variables, and its root in this variable is a root of the other formula."""
    return len(a.symbols) > 1 and _roots_agree(a, b) and _roots_agree(b, a)


def _roots_agree(one: Formula, other: Formula) -> bool:
    for symbol in sorted(one.symbols):
        roots = [_with_root(one, symbol, point) for point in fx.sample_points(one.symbols)]
        if None not in roots:
            return all(root is not None and _vanishes(other, root) for root in roots)
    return False


def rational_roots(sides: tuple[str, ...], name: str) -> set[Fraction]:
    """Return the roots of a polynomial equation in one variable. Raises UndecidedError unless all its roots are rational."""
    difference = fx.combine(operator.sub, *(parse_formula(side) for side in sides[:2]))
    if len(sides) != 2 or difference.symbols != {name}:
        raise UndecidedError("not an equation in one variable")
    points = range(-MAX_DEGREE // 2, MAX_DEGREE // 2 + 1)
    values = [one for x in points if isinstance(one := difference.evaluate({name: Fraction(x)}), Fraction)]
    degree, leading = _leading(values)
    if len(values) < len(points) or max(map(abs, values)) > MAX_VALUE or not 1 <= degree <= MAX_DEGREE:
        raise UndecidedError("not a polynomial equation with small coefficients")
    approximate = np.roots(np.polyfit(points, [float(one) for one in values], degree))
    roots = [Fraction(float(root.real)).limit_denominator(MAX_DENOMINATOR) for root in approximate]
    product = "".join(f"({name}-({root}))" for root in roots)
    if not fx.equal(difference, parse_formula(f"({leading}){product}")):
        raise UndecidedError("not all roots are shown to be rational")
    return set(roots)


def _leading(values: list[Fraction]) -> tuple[int, Fraction]:
    """Return the degree and the first coefficient of the polynomial with these values at successive integers."""
    degree, leading = -1, Fraction(0)
    while any(values):
        degree, leading = degree + 1, values[0]
        values = [after - before for before, after in pairwise(values)]
    return degree, leading / math.factorial(max(degree, 0))


def _vanishes(one: Formula, point: fx.Env) -> bool:
    with contextlib.suppress(UndefinedError):
        return is_zero(one.evaluate(point))
    return False


def _with_root(one: Formula, symbol: str, point: fx.Env) -> fx.Env | None:
    """Return the point with the root of a formula that is linear in the symbol, or None."""
    with contextlib.suppress(UndefinedError):
        at = [one.evaluate({**point, symbol: Fraction(x)}) for x in (1, 2, 4)]
        slope = at[1] - at[0]
        if equal_values(at[2] - at[1], slope * 2) and not is_zero(slope):
            return {**point, symbol: 1 - at[0] / slope}
    return None
