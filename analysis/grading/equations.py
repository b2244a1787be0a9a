"""Decide whether two equations have the same solutions: they differ by a factor, or are solved for different variables.

A polynomial equation is solved if all its roots are rational.

Rules: both equations are evaluated at sample points of all variables, with exact arithmetic for rational values.

This module does not know names such as `f(x) = 2x`, units or other forms of answers.
"""

import contextlib
import operator
from fractions import Fraction

from analysis.grading import formula as fx
from analysis.grading.formula import Formula
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndecidedError, UndefinedError, Value
from analysis.grading.zero import equal_values, is_zero

MAX_DEGREE = 8
"""Polynomial equations of a higher degree are undecided."""


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


def rational_roots(sides: tuple[str, ...], name: str) -> list[Fraction]:
    """Return the roots of a polynomial equation in one variable. Raises UndecidedError unless all its roots are rational."""
    from sympy import Poly, Symbol, interpolate  # noqa: PLC0415  # takes half a second

    difference = fx.combine(operator.sub, *(parse_formula(side) for side in sides[:2]))
    if len(sides) != 2 or difference.symbols != {name}:
        raise UndecidedError("not an equation in one variable")
    values = [difference.evaluate({name: Fraction(x)}) for x in range(1, MAX_DEGREE + 2)]
    if not all(isinstance(value, Fraction) for value in values):
        raise UndecidedError("not a polynomial equation")
    polynomial = Poly(interpolate(values, Symbol("x")), Symbol("x"))
    roots = polynomial.ground_roots()
    product = "".join(f"({name}-({root}))^{count}" for root, count in roots.items())
    if not roots or not fx.equal(difference, parse_formula(f"({polynomial.LC()}){product}")):
        raise UndecidedError("not all roots are rational")
    return sorted(Fraction(str(root)) for root in roots)


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
