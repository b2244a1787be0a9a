"""Compare sets of real numbers: intervals, inequalities, lists of numbers, and their unions, intersections and differences.

Rules: the ends of all intervals divide the real line into cells: each end, and each gap beside one. A set of real numbers is a set of
cells. The ends are exact. An inequality is solved only if it has one variable and is linear in it or a
polynomial whose roots are all rational.

This module does not know tuples: the caller has decided that a form in brackets is an interval.
"""

import contextlib
import operator
import re
from collections.abc import Iterator
from functools import cmp_to_key, reduce
from itertools import pairwise

from analysis.grading import forms
from analysis.grading.equations import rational_roots
from analysis.grading.forms import Form, Infinity, SetOperation, TupleOrInterval
from analysis.grading.formula import combine, constant, linear
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndefinedError, UnreadableError, Value
from analysis.grading.zero import equal_values, is_real, is_zero, sign

End = Value | Infinity
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
        return _solved_chain(form)
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


def _solved_chain(form: forms.Inequality) -> Form:
    """Solve a chain of inequalities, all of which must hold."""
    parts = zip(form.sides, form.signs, form.sides[1:], strict=False)
    return SetOperation("and", tuple(_solve(*part) for part in parts))


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
    line = linear(difference, name)
    has_root = line is not None and not is_zero(line[1])
    roots: list[Value] = [-line[0] / line[1]] if line and has_root else [*sorted(rational_roots(sides, name))]
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
