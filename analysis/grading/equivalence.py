r"""Is an answer the reference answer? By form first (interval, list, matrix, base …), then by value.

Rules: an answer is right if it says the same thing, in whatever notation; a form the reference does not have is wrong
(an ordered pair is no list, `2516_9` no `2516_8`). None where either text cannot be read: then math-verify decides.

Does not know: outputs and boxes; how long anything may take (formulas are bounded in `formula`).
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from analysis.grading import formula as fx
from analysis.grading.answer_parser import read
from analysis.grading.equations import same_solutions
from analysis.grading.forms import (
    Based,
    Combined,
    Equation,
    Form,
    Inequality,
    Infinite,
    Listing,
    Matrix,
    Quantity,
    Ratio,
    Row,
    TimeOfDay,
)
from analysis.grading.formula import Formula, UnreadableError
from analysis.grading.intervals import ranges, same_ranges, variables
from analysis.grading.latex_parser import formula
from analysis.grading.normalize import clean, squeezed
from analysis.grading.units import DEGREE, PERCENT
from analysis.grading.words import is_words, same_words

LONGEST = 300
"""Characters of an answer that is worth reading, or four times the reference."""
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-zA-Z]+)(?:_\{?[\w,]+\}?)?'*(?:\s*\(\s*[\w\s,.+-]*\s*\))?"  # x, a_1, f(x), P(A)
    r"|(?:\\text\{[^{}]*\}\s*)+|(?:m\s*)?\\angle\s*\w+|[A-Z]{2,4}|\|\s*[A-Z]{1,3}\s*\||\\overline\{\w+\}"
    r"|\(\s*\\?\w+(?:_\w)?\s*(?:,\s*\\?\w+(?:_\w)?\s*)+\)|\\(?:sin|cos|tan|cot|sec|csc)\s*\S+|\\sqrt\{[a-z]\}"
)


def compare(gold: str, answer: str) -> bool | None:
    """True or False; None where this file cannot tell."""
    if len(answer) > max(LONGEST, 4 * len(gold)):
        return False
    gold, answer = clean(gold), clean(answer)
    if not answer or squeezed(gold) == squeezed(answer):
        return bool(answer)
    if (verdict := same_words(gold, answer)) is not None:
        return verdict
    try:
        return same(read(gold), read(answer))
    except (UnreadableError, RecursionError):
        return False if "\\text" in answer and is_words(answer) else None


def same(gold: Form, answer: Form) -> bool:
    """Whether two forms say the same. Raises UnreadableError."""
    for kinds, rule in _RULES:
        if isinstance(gold, kinds) or isinstance(answer, kinds):
            return rule(gold, answer)
    if isinstance(gold, TimeOfDay) != isinstance(answer, TimeOfDay):
        return _same_ratios(_as_ratio(gold), answer)
    return type(gold) is type(answer) and _SAME_KIND[type(gold)](gold, answer)


def _pairwise(a: Sequence[Form], b: Sequence[Form]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def _items(form: Form) -> tuple[Form, ...]:
    return form.items if isinstance(form, Listing) else (form,)


def _is_set(form: Form) -> bool:
    return isinstance(form, Listing) and form.is_set


def _same_listings(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Row) or isinstance(answer, Row):
        return _same_assignments(gold, answer)
    if _names(gold) != _names(answer) and max(len(_names(gold)), len(_names(answer))) > 1:
        return False
    return _same_lists(_items(gold), _items(answer), as_sets=_is_set(gold) or _is_set(answer))


def _names(form: Form) -> frozenset[str]:
    """What the equations of a list give values to: `x = 1, y = -2` is not `1, -2`."""
    names = (squeezed(item.sides[0]) for item in _items(form) if isinstance(item, Equation))
    return frozenset(re.sub(r"_\{?\d+\}?$", "", name) for name in names)


def _same_assignments(gold: Form, answer: Form) -> bool:
    """`x = -2, y = 1` is `(-2, 1)`: different variables, in alphabetical order."""
    row, other = (gold, answer) if isinstance(gold, Row) else (answer, gold)
    items = _items(other)
    if not isinstance(row, Row) or not all(isinstance(item, Equation) for item in items):
        return isinstance(row, Row) and len(items) == 1 and same(row, items[0])
    equations = sorted((item for item in items if isinstance(item, Equation)), key=lambda item: item.sides[0])
    plain = len(_names(other)) == len(items) and _brackets(row) == ("(", ")")
    return plain and _pairwise(row.items, [read(item.sides[-1]) for item in equations])


def _same_matrices(gold: Matrix, answer: Matrix) -> bool:
    return [len(row) for row in gold.rows] == [len(row) for row in answer.rows] and all(
        _pairwise(a, b) for a, b in zip(gold.rows, answer.rows, strict=True)
    )


def _same_lists(gold: Sequence[Form], answer: Sequence[Form], *, as_sets: bool) -> bool:
    """Each of the one has its own partner in the other; sets may say an element twice."""
    if as_sets:
        return all(any(same(a, b) for b in answer) for a in gold) and all(
            any(same(a, b) for a in gold) for b in answer
        )
    left = list(answer)
    for item in gold:
        partner = next((other for other in left if same(item, other)), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left


def _same_rows(gold: Row, answer: Row) -> bool:
    return _brackets(gold) == _brackets(answer) and _pairwise(gold.items, answer.items)


def _brackets(row: Row) -> tuple[str, str]:
    """An infinite end is open, whatever its writer thought."""
    opening = "(" if isinstance(row.items[0], Infinite) else row.opening
    return opening, ")" if isinstance(row.items[-1], Infinite) else row.closing


def _same_sets(gold: Form, answer: Form) -> bool:
    """Sets of reals; conditions on differently named variables differ."""
    if isinstance(gold, Quantity | Matrix | Based | Ratio | TimeOfDay) or isinstance(
        answer, Quantity | Matrix | Based | Ratio | TimeOfDay
    ):
        return False
    named = variables(gold), variables(answer)
    if all(named) and named[0] != named[1]:
        return False
    return same_ranges(ranges(gold), ranges(answer))


def _same_ratios(gold: Form, answer: Form) -> bool:
    answer = _as_ratio(answer)
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if len(gold.parts) != len(answer.parts):
            return False
        return all(
            fx.equal(_quotient(gold.parts[0], part), _quotient(answer.parts[0], other))
            for part, other in zip(gold.parts[1:], answer.parts[1:], strict=True)
        )
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    if not isinstance(ratio, Ratio) or len(ratio.parts) != 2 or not isinstance(other, Quantity) or other.unit:
        return False
    return fx.equal(_quotient(*ratio.parts), other.formula)


def _as_ratio(form: Form) -> Form:
    """`16:27` is a time only among times."""
    if not isinstance(form, TimeOfDay) or form.half:
        return form
    return Ratio((fx.number(Fraction(form.hour)), fx.number(Fraction(form.minute))))


def _quotient(a: Formula, b: Formula) -> Formula:
    return Formula(
        "",
        a.symbols | b.symbols,
        lambda env: fx.divide(a.evaluate(env), b.evaluate(env)),
        None,
        has_i=a.has_i or b.has_i,
    )


def _same_times(gold: TimeOfDay, answer: TimeOfDay) -> bool:
    def minutes(clock: TimeOfDay) -> int:
        hour = clock.hour % 12 + 12 * (clock.half == "p") if clock.half else clock.hour
        return hour * 60 + clock.minute

    if bool(gold.half) == bool(answer.half):
        return minutes(gold) == minutes(answer)
    bare = gold if not gold.half else answer
    return minutes(gold) == minutes(answer) or (
        bare.hour <= 12 and (gold.hour % 12, gold.minute) == (answer.hour % 12, answer.minute)
    )


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Same value in the same unit; a unit that one side leaves out is taken from the other."""
    a, b = _scaled(gold), _scaled(answer)
    one, other = a.unit, b.unit
    if one is None and other is None:
        return fx.equal(a.formula, b.formula)
    if one is not None and other is not None:
        if one.dimension != other.dimension:
            return False
        return fx.equal(_times(a.formula, one.factor), _times(b.formula, other.factor))
    unit, bare = (one, b.formula) if one is not None else (other, a.formula)
    if unit == PERCENT:
        return _same_percent(a.formula if one is not None else b.formula, bare)
    if unit == DEGREE and "\\pi" in bare.source:
        return fx.equal(_times((a if one else b).formula, fx.mp(Fraction(1, 180)) * fx.PI), bare)
    return fx.equal(a.formula, b.formula)


def _scaled(quantity: Quantity) -> Quantity:
    """Multipliers such as `million` belong to the value."""
    unit = quantity.unit
    if unit is None or unit.dimension:
        return quantity
    return Quantity(_times(quantity.formula, unit.factor), None)


def _times(one: Formula, factor: fx.Value) -> Formula:
    if factor == 1:
        return one
    return Formula("", one.symbols, lambda env: fx.multiply(one.evaluate(env), factor), None, has_i=one.has_i)


def _same_percent(percent: Formula, bare: Formula) -> bool:
    r"""`28\%` is 0.28, and 28 where the problem asks for a percentage; 0.5 % is not one half."""
    if fx.equal(_times(percent, Fraction(1, 100)), bare):
        return True
    if not fx.equal(percent, bare) or bare.symbols:
        return False
    return bool(abs(fx.mp(bare.value())) > 1)


# Equations


def _with_equations(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _same_equations(gold, answer)
    if isinstance(gold, Listing) or isinstance(answer, Listing):
        listing = len(_items(gold)) == len(_items(answer))
        return listing and _same_lists(_items(gold), _items(answer), as_sets=False)
    if isinstance(gold, Equation):
        return _is_name(gold.sides[0]) and same(read(gold.sides[-1]), answer)
    return isinstance(answer, Equation) and _names_a_value(gold, answer)


def _is_name(side: str) -> bool:
    return re.fullmatch(_NAME, side.strip()) is not None


def _names_a_value(gold: Form, answer: Equation) -> bool:
    r"""`x = 5`, `P = \frac{6}{4} = \frac{3}{2}`, `5! = 120`, `a + b = 7`: all values said must be the reference."""
    sides = [side for side in answer.sides if side]
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]):
        sides.reverse()  # `5 = x`
    first = sides[0]
    named = _is_name(first) or (not _constant(first) and len(_symbols(first)) > 1)
    values = sides[1:] if named else sides
    if named and not _is_name(first) and squeezed(sides[-1]) == "0":
        return False  # an equation, no quantity that happens to be zero
    return (
        bool(values)
        and (named or all(_constant(side) for side in sides))
        and all(same(gold, read(side)) for side in values)
    )


def _symbols(side: str) -> frozenset[str]:
    try:
        return formula(side).symbols
    except UnreadableError:
        return frozenset()


def _constant(side: str) -> bool:
    try:
        form = read(side)
    except UnreadableError:
        return False
    return isinstance(form, Quantity) and not form.formula.symbols


def _same_equations(gold: Equation, answer: Equation) -> bool:
    left, right = gold.sides, answer.sides
    if squeezed(left[0]) == squeezed(right[0]):
        try:
            if same(read(left[-1]), read(right[-1])):
                return True
        except UnreadableError:
            pass
    if len(left) != 2 or len(right) != 2:
        return False
    return same_solutions((left[0], left[1]), (right[0], right[1]))


_RULES: tuple[tuple[tuple[type, ...], Callable[[Form, Form], bool]], ...] = (
    ((Equation,), _with_equations),
    ((Inequality, Combined), _same_sets),
    ((Listing,), _same_listings),
    ((Ratio,), _same_ratios),
)
"""Forms that another form may agree with, the looser first."""
_SAME_KIND: dict[type, Callable[[Any, Any], bool]] = {
    Quantity: same_quantity,
    Row: _same_rows,
    Matrix: _same_matrices,
    TimeOfDay: _same_times,
    Based: Based.__eq__,
    Infinite: Infinite.__eq__,
}
