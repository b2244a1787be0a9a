"""Compare what equations and inequalities are true for: sets of real numbers, and equations with the same solutions.

Sets are intervals, inequalities, lists of numbers, and their unions, intersections and differences. The ends of all intervals divide the
real line into cells: each end, and each gap beside one. A set of real numbers is a set of cells. The ends are exact. An inequality is
solved only if it has one variable and is linear in it or a polynomial whose roots are all rational.

Two equations have the same solutions if they differ by a factor or are solved for different variables. They are evaluated at sample
points of all variables, with exact arithmetic for rational values.

This module does not know tuples (the caller has decided that a form in brackets is an interval), names such as `f(x) = 2x`, or units.
"""

import contextlib
import math
import operator
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cmp_to_key, reduce
from itertools import pairwise

import numpy as np

from analysis.grading import forms
from analysis.grading import formula as fx
from analysis.grading.forms import Form, Infinity, SetOperation, TupleOrInterval
from analysis.grading.formula import Formula, combine, constant
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndecidedError, UndefinedError, UnreadableError, Value
from analysis.grading.zero import equal_values, is_real, is_zero, sign

End = Value | Infinity
MAX_DEGREE = 8
MAX_VALUE = 10**15
MAX_DENOMINATOR = 100
"""Polynomial equations of a higher degree, with larger values at small integers or with other roots are undecided."""
_ABSOLUTE = re.compile(r"\s*\|([^|]*)\|\s*")
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_OPERATIONS = {"or": operator.or_, "and": operator.and_, "minus": operator.sub}


def same_intervals(gold: Form, answer: Form) -> bool:
    """True if both forms describe the same set of real numbers. Raises UnreadableError."""
    one, other = _solved(gold), _solved(answer)
    ends = {end for end in (*_ends(one), *_ends(other)) if not isinstance(end, Infinity)}
    cells: dict[End, int] = {Infinity(-1): -1}
    cell, last = -1, None
    for end in sorted(ends, key=cmp_to_key(_order)):
        cell += 0 if last is not None and equal_values(last, end) else 2
        cells[end] = cell
        last = end
    cells[Infinity(1)] = cell + 2
    return _cells(one, cells) == _cells(other, cells)


def _order(a: Value, b: Value) -> int:
    return sign(a - b)


def _solved(form: Form) -> Form:
    """Rewrite inequalities and lists as intervals and operations on them."""
    if isinstance(form, forms.Inequality):
        chain = zip(form.sides, form.signs, form.sides[1:], strict=False)  # all of its inequalities must hold
        return SetOperation("and", tuple(_solve(*part) for part in chain))
    if isinstance(form, SetOperation):
        return SetOperation(form.operation, tuple(map(_solved, form.items)))
    if isinstance(form, forms.UnorderedList):
        return SetOperation("or", tuple(TupleOrInterval("[", (item, item), "]") for item in form.items))
    return form


def _ends(form: Form) -> Iterator[End]:
    """Return the ends of all intervals. Raises UnreadableError."""
    if isinstance(form, SetOperation | TupleOrInterval):
        for item in form.items:
            yield from _ends(item)
    else:
        yield _end(form)


def _end(form: Form) -> End:
    if isinstance(form, Infinity):
        return form
    if isinstance(form, forms.Quantity) and not form.formula.symbols:
        with contextlib.suppress(UndefinedError):
            value = form.formula.value()
            if is_real(value):
                return value
    raise UnreadableError("the end of an interval is not a real number")


def _cells(form: Form, cells: dict[End, int]) -> frozenset[int]:
    """Return the cells of a set, given those of the ends. Raises UnreadableError."""
    if isinstance(form, SetOperation):
        items = [_cells(item, cells) for item in form.items]
        return reduce(_OPERATIONS[form.operation], items) if items else frozenset()
    if isinstance(form, TupleOrInterval) and len(form.items) == 2:
        low, high = (cells[_end(item)] for item in form.items)
        start, stop = low + (form.opening != "["), high + (form.closing == "]")
        return frozenset(range(max(start, 0), min(stop, cells[Infinity(1)])))
    raise UnreadableError("not a set of real numbers")


def _solve(left: str, relation: str, right: str) -> Form:
    """Solve one inequality. `|a| < b` is solved as `-b < a < b`."""
    if _ABSOLUTE.fullmatch(right):
        left, relation, right = right, _MIRRORED.get(relation, relation), left
    if inside := _ABSOLUTE.fullmatch(left):
        both = tuple(_solve_one(f"{one}({inside[1]})", relation, right) for one in ("", "-"))
        return SetOperation("or" if relation in {">", "\\ge"} else "and", both)
    return _solve_one(left, relation, right)


def _solve_one(left: str, relation: str, right: str) -> Form:
    """Solve an inequality in one variable by its sign between its roots. Raises UndecidedError unless all roots are known."""
    sides = left or "x", right  # `\\ge 3` leaves the name out
    a, b = map(parse_formula, sides)
    if len(a.symbols | b.symbols) != 1:
        raise UnreadableError("the inequality does not have exactly one variable")
    (name,) = a.symbols | b.symbols
    difference = combine(operator.sub, a, b)
    line = fx.linear(difference, name)
    if line is None or is_zero(line[1]):
        roots: list[Value] = [*sorted(rational_roots(sides, name))]
    else:
        roots = [-line[0] / line[1]]
    between = [roots[0] - 1, *((low + high) / 2 for low, high in pairwise(roots)), roots[-1] + 1]
    signs = [sign(difference.evaluate({name: x})) for x in between]
    wanted = {"<": {-1}, "\\le": {-1}, ">": {1}, "\\ge": {1}}.get(relation, {-1, 1})
    points = [forms.Quantity(constant(root), None) for root in roots]
    gaps = pairwise([Infinity(-1), *points, Infinity(1)])
    parts = [TupleOrInterval("(", gap, ")") for gap, one in zip(gaps, signs, strict=True) if one in wanted]
    if relation in {"\\le", "\\ge"}:
        parts += [TupleOrInterval("[", (point, point), "]") for point in points]
    return SetOperation("or", tuple(parts))


def variables(form: Form) -> frozenset[str]:
    """Return the variables of the inequalities in a form. Intervals in brackets have none."""
    if isinstance(form, forms.Inequality):
        return frozenset().union(*(parse_formula(side).symbols for side in form.sides if side))
    if isinstance(form, SetOperation):
        return frozenset().union(*map(variables, form.items))
    return frozenset()


def same_solutions(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Compare two equations, given as their two sides. False if they have no variable. Raises UnreadableError."""
    a, b = (
        replace(combine(operator.sub, *map(parse_formula, sides)), source=" ".join(sides)) for sides in (one, other)
    )
    return a.symbols == b.symbols and bool(a.symbols) and (_proportional(a, b) or _same_solution(a, b))


def _proportional(a: Formula, b: Formula) -> bool:
    """True if one formula is the other one times a constant that is not zero."""
    ratio: Value | None = None
    for point in fx.sample_points(a, b):
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
        roots = [_with_root(one, symbol, point) for point in fx.sample_points(one, other)]
        if None not in roots:
            return all(root is not None and _vanishes(other, root) for root in roots)
    return False


def rational_roots(sides: tuple[str, ...], name: str) -> set[Fraction]:
    """Return the roots of a polynomial equation in one variable. Raises UndecidedError unless all its roots are rational."""
    difference = combine(operator.sub, *(parse_formula(side) for side in sides[:2]))
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
