"""Decide whether two equations have the same solutions: they differ by a factor, or are solved for different variables.

Rules: both equations are evaluated at sample points of all variables, with exact arithmetic for rational values.

This module does not know names such as `f(x) = 2x`, units or other forms of answers.
"""

from fractions import Fraction

from analysis.grading import formula as fx
from analysis.grading.formula import Formula
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndefinedError, Value, multiply
from analysis.grading.zero import equal_values, is_zero


def same_solutions(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Compare two equations, given as their two sides. False if they have no variable. Raises UnreadableError."""
    a, b = _difference(one), _difference(other)
    return a.symbols == b.symbols and bool(a.symbols) and (_proportional(a, b) or _same_solution(a, b))


def _difference(sides: tuple[str, str]) -> Formula:
    return fx.combine(fx.subtract, parse_formula(sides[0]), parse_formula(sides[1]))


def _proportional(a: Formula, b: Formula) -> bool:
    """True if one formula is the other one times a constant that is not zero."""
    ratio: Value | None = None
    for point in fx.sample_points(a.symbols):
        try:
            x, y = a.evaluate(point), b.evaluate(point)
            if is_zero(x) or is_zero(y):
                if is_zero(x) and is_zero(y):
                    continue
                return False
            quotient = fx.divide(x, y)
        except UndefinedError:
            continue
        if ratio is not None and not equal_values(ratio, quotient):
            return False
        ratio = quotient
    return ratio is not None


def _same_solution(a: Formula, b: Formula) -> bool:
    """True if each formula is linear in one of its variables, and its root in this variable is a root of the other formula."""
    return len(a.symbols) > 1 and _roots_agree(a, b) and _roots_agree(b, a)


def _roots_agree(one: Formula, other: Formula) -> bool:
    for symbol in sorted(one.symbols):
        points = [(point, _root(one, symbol, point)) for point in fx.sample_points(one.symbols)]
        if all(root is not None for _, root in points):
            return all(
                _vanishes(other, {**point, symbol: root}) for point, root in points if root is not None
            )
    return False


def _vanishes(one: Formula, point: fx.Env) -> bool:
    try:
        return is_zero(one.evaluate(point))
    except UndefinedError:
        return False


def _root(one: Formula, symbol: str, point: fx.Env) -> Value | None:
    try:
        at = [one.evaluate({**point, symbol: Fraction(x)}) for x in (1, 2, 4)]
        slope = fx.subtract(at[1], at[0])
        if not equal_values(fx.subtract(at[2], at[1]), multiply(Fraction(2), slope)) or is_zero(slope):
            return None
        return fx.subtract(Fraction(1), fx.divide(at[0], slope))
    except UndefinedError:
        return None
