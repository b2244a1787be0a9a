r"""Decide whether an answer is equivalent to the reference answer: compare their forms (interval, list, matrix …), then their values.

Rules: the notation does not matter, but the form does: an ordered pair is not a list, and `2516_9` is not `2516_8`. If either text
cannot be read, the result is None, and math-verify decides.

This module does not know outputs and boxes. It has no time limit of its own, because `formula` limits the work for a formula.
"""

import contextlib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from analysis.grading import forms, words
from analysis.grading import formula as fx
from analysis.grading.answer_parser import MAX_ITEMS, parse_answer, split
from analysis.grading.forms import Equation, Form, Quantity, Ratio, TimeOfDay, TupleOrInterval, UnorderedList
from analysis.grading.formula import Formula
from analysis.grading.latex_parser import parse_formula
from analysis.grading.normalize import decimal_comma, normalize, plain_unicode, without_spacing
from analysis.grading.numbers import PI, UndecidedError, UndefinedError, UnreadableError, Value
from analysis.grading.patterns import expressions, read_table
from analysis.grading.solutions import same_intervals, same_solutions, variables
from analysis.grading.units import DEGREE, PERCENT, RADIAN, Unit, with_text_unit
from analysis.grading.zero import equal_values, is_real, sign, to_float

_DEGREE_RADIANS = PI / 180
_RE = expressions(read_table("forms.toml"))


def equivalent(gold: str, answer: str) -> bool | None:
    """Return whether the answer is equivalent to the reference, or None if this module cannot decide it."""
    gold, answer = (_RE.integer.sub(r", \1\2 \\in \\mathbb{Z}", plain_unicode(text)) for text in (gold, answer))
    if re.fullmatch(r"[^A-Z]*\+\s*C", re.sub(r"[$\s.]+$", "", gold).replace("\\mathrm", "")):
        answer = _RE.constant.sub(r"\2 C", answer)
    members = [dict(_RE.member.findall(text)) for text in (gold, answer)]
    numbers = [{re.sub(r"[{}\s]", "", one) for one in found.values()} for found in members]
    for text, found in zip((gold, answer), numbers, strict=True):
        found.update({"Z"} if "\\equiv" in text and not found else ())
    if all(numbers) and numbers[0] != numbers[1]:
        return None
    if len(members[0]) == len(members[1]) == 1 and numbers[0] == {"Z"}:
        answer = _renamed(answer, *members[1], *members[0])
        with contextlib.suppress(UnreadableError, UndefinedError, RecursionError):
            if _same_progressions(normalize(gold), normalize(answer), *members[0]):
                return True
    return _same_texts(normalize(gold), normalize(answer))


def _same_progressions(gold: str, answer: str, index: str) -> bool:
    r"""True for the same values at all integers: `\frac{\pi}{4} + k\pi` and `-\frac{3\pi}{4} + k\pi`. Raises UnreadableError."""
    one, other = _progression(gold, index), _progression(answer, index)
    if len({name for name in (one[0], other[0]) if name}) > 1 or one[1] != other[1]:
        return False
    (start, step), (other_start, other_step) = one[2:], other[2:]
    if not any(equal_values(step, signed) for signed in (other_step, -other_step)):
        return False
    shift = fx.divide(start - other_start, step)
    return is_real(shift) and equal_values(shift, Fraction(round(to_float(shift))))


def _progression(text: str, index: str) -> tuple[str, Unit | None, Value, Value]:
    """Return name, unit, start and step of a value that is linear in an integer. Raises UnreadableError."""
    name, form = "", parse_answer(text)
    if isinstance(form, Equation) and len(form.sides) == 2 and _is_name(form.sides[0]):
        name, form = without_spacing(form.sides[0]), parse_answer(form.sides[1])
    if not isinstance(form, Quantity):
        raise UnreadableError("not a value")
    quantity = _scaled(form)
    line = fx.linear(quantity.formula, index)
    if line is None:
        raise UnreadableError("not linear")
    return name, quantity.unit, *line


def _same_texts(gold: str, answer: str) -> bool | None:
    """Compare two normalized answers: as strings, as words, as options, then as values."""
    if not answer or _bare(gold) == _bare(answer) or words.same_molecule(gold, answer):
        return bool(answer)
    if "£" in gold + answer:  # not pounds of weight
        gold, answer = (re.sub(r"\bpounds?\b(?: sterling)?", "£", text) for text in (gold, answer))
    if "," not in gold:
        answer = decimal_comma(answer)
    elif "," not in answer:
        gold = decimal_comma(gold)
    if (result := words.same_yes_no(gold, answer)) is not None:
        return result
    if (a := words.date(gold)) or words.date(answer):
        b = words.date(answer)
        return a == b if a and b and bool(a[0]) == bool(b[0]) else None
    if (result := words.same_option(gold, answer)) is not None:
        return result
    gold, answer = words.without_option(gold, answer) or gold, words.without_option(answer, gold) or answer
    if (result := words.same_words(gold, answer)) is not None:
        return result
    return _same_values(gold, answer)


def _bare(text: str) -> str:
    r"""The text without spacing, `\text` and the case of long words in it, to compare two answers as strings."""

    def plain(words: re.Match[str]) -> str:
        return " " + re.sub(r"[^\W\d_]{4,}", lambda word: word[0].casefold(), words[1]) + " "

    return without_spacing(re.sub(r"\\text\{([^{}]*)\}", plain, text).strip())


def _same_values(gold: str, answer: str) -> bool | None:
    """Compare two values. A letter after a number may be a unit: `3 m` is equal to what three metres or the product is equal to."""
    result = _compared(gold, answer)
    with_units = with_text_unit(gold, answer), with_text_unit(answer, gold)
    return result if result or with_units == (gold, answer) else _compared(*with_units)


def _compared(gold: str, answer: str) -> bool | None:
    try:
        return same(parse_answer(gold), parse_answer(answer))
    except (UnreadableError, UndefinedError, RecursionError):
        return False if "\\text" in answer and words.is_words(answer) else None


def same(gold: Form, answer: Form) -> bool:
    """Return whether two forms are equivalent. Raises UnreadableError."""
    for kinds, rule in _RULES:
        if isinstance(gold, kinds) or isinstance(answer, kinds):
            return rule(gold, answer)
    if type(gold) is not type(answer):
        gold, answer = _column(gold), _column(answer)
    for row, vector in ((gold, answer), (answer, gold)):
        if isinstance(row, TupleOrInterval) and isinstance(vector, Quantity):
            return _same_vectors(row, vector.formula)
    if isinstance(gold, TimeOfDay) != isinstance(answer, TimeOfDay):
        return _same_ratios(_as_ratio(gold), answer)
    same_kind = _SAME_KIND.get(type(gold))
    return type(gold) is type(answer) and (same_kind(gold, answer) if same_kind else gold == answer)


def _column(form: Form) -> Form:
    """Convert a column vector to a tuple."""
    if not isinstance(form, forms.Matrix) or any(len(row.items) != 1 for row in form.rows):
        return form
    return TupleOrInterval("(", tuple(row.items[0] for row in form.rows), ")")


def _same_vectors(row: TupleOrInterval, vector: Formula) -> bool:
    """Compare a tuple or column with a sum of unit vectors: `(1,2,3)` is `i + 2j + 3k`."""
    items = [one.formula.source for one in row.items if isinstance(one, Quantity) and one.unit is None][:3]
    if len(items) != len(row.items) or _brackets(row) != ("(", ")") or not {"j", "k"} & vector.symbols:
        return False
    return fx.equal(parse_formula("+".join(map("({}){}".format, items, "ijk"))), vector)


def _same_congruences(gold: Form, answer: Form) -> bool:
    """Compare a congruence with another one, or with the numbers that solve it, as in `7k + 3`."""
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, forms.Congruence) and isinstance(other, Quantity) and len(other.formula.symbols) == 1:
            (name,) = other.formula.symbols
            start = other.formula.evaluate({name: Fraction(0)})
            steps = (parse_formula(f"{start}{sign}{one.modulus}{name}") for sign in "+-")
            is_solution = isinstance(start, Fraction) and start % one.modulus == one.residue
            return is_solution and any(fx.equal(other.formula, step) for step in steps)
    return gold == answer


def _same_in_bases(gold: Form, answer: Form) -> bool:
    """Compare the values of numbers with their bases. A number without a base is one of base 10 only if the other number says so."""
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, forms.BaseNumber) and one.base == 10 and not isinstance(other, forms.BaseNumber):
            return same(Quantity(parse_formula(one.digits), None), other)
    with contextlib.suppress(ValueError):
        numbers = [form for form in (gold, answer) if isinstance(form, forms.BaseNumber)]
        return len(numbers) == 2 and numbers[0].value() == numbers[1].value()
    return gold == answer


def _pairwise(a: Sequence[Form], b: Sequence[Form]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def _items(form: Form) -> tuple[Form, ...]:
    return form.items if isinstance(form, UnorderedList) else (form,)


def _is_set(form: Form) -> bool:
    return isinstance(form, UnorderedList) and form.is_set


def _same_unordered_lists(gold: Form, answer: Form) -> bool:
    if isinstance(gold, TupleOrInterval) or isinstance(answer, TupleOrInterval):
        return _same_assignments(gold, answer)
    if forms.Dots() in (*_items(gold), *_items(answer)):
        return _same_sequences(_filled(_items(gold)), _filled(_items(answer)))
    if _names(gold) != _names(answer) and max(len(_names(gold)), len(_names(answer))) > 1:
        return False
    return _same_lists(_items(gold), _items(answer), as_sets=_is_set(gold) or _is_set(answer))


def _same_sequences(gold: Sequence[Form], answer: Sequence[Form]) -> bool:
    """Compare lists with dots. A list that goes on is not one that ends. Raises UndecidedError if both go on after different items."""
    goes_on = forms.Dots() in gold
    if goes_on != (forms.Dots() in answer):
        return False
    if goes_on and not _pairwise(gold, answer):
        raise UndecidedError("two lists that go on")
    return goes_on or _same_lists(gold, answer, as_sets=False)


def _filled(items: Sequence[Form]) -> Sequence[Form]:
    r"""Write out `1, 2, \ldots, 10` if its numbers have equal distances."""
    if forms.Dots() not in items:
        return items
    at = items.index(forms.Dots())
    constants = [item.formula for item in items if isinstance(item, Quantity) and not item.formula.symbols]
    known = [value for value in map(Formula.value, constants) if isinstance(value, Fraction)]
    if at < 2 or len(known) != len(items) - 1 or at == len(items) - 1:
        return items
    step = known[1] - known[0]
    count = (known[-1] - known[0]) / step + 1 if step else Fraction(0)
    if count.denominator != 1 or not len(known) <= count <= MAX_ITEMS:
        return items
    numbers = [known[0] + index * step for index in range(int(count))]
    if numbers[:at] != known[:at] or numbers[at - len(known) :] != known[at:]:
        return items
    return [Quantity(fx.constant(number), None) for number in numbers]


def _names(form: Form) -> frozenset[str]:
    """The names to which the equations of a list assign values, because `x = 1, y = -2` is not `1, -2`.

    A name may hold for the items after it, as in `x = 1, -2`, but not for those before it.
    """
    items = [without_spacing(item.sides[0]) if isinstance(item, Equation) else "" for item in _items(form)]
    named = items if any(items) and not items[0] else filter(None, items)
    return frozenset(re.sub(r"_\{?\d+\}?$", "", name) for name in named)


def _same_assignments(gold: Form, answer: Form) -> bool:
    """Compare a tuple with equations: `x = -2, y = 1` is `(-2, 1)`, with the variables in alphabetical order."""
    row, other = (gold, answer) if isinstance(gold, TupleOrInterval) else (answer, gold)
    items = _items(other)
    if not isinstance(row, TupleOrInterval) or not all(isinstance(item, Equation) for item in items):
        return isinstance(row, TupleOrInterval) and len(items) == 1 and same(row, items[0])
    equations = sorted((item for item in items if isinstance(item, Equation)), key=lambda item: item.sides[0])
    is_tuple = not _is_set(other) and len(_names(other)) == len(items) and _brackets(row) == ("(", ")")
    return is_tuple and _pairwise(row.items, [parse_answer(item.sides[-1]) for item in equations])


def _same_lists(gold: Sequence[Form], answer: Sequence[Form], *, as_sets: bool) -> bool:
    """True if each item has its own equal item in the other list. In a set, an element may be repeated."""
    if as_sets:
        return all(any(same(a, b) for b in answer) for a in gold) and all(any(same(a, b) for a in gold) for b in answer)
    unmatched = list(answer)
    for item in gold:
        match = next((other for other in unmatched if same(item, other)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return not unmatched


def _same_tuples(gold: TupleOrInterval, answer: TupleOrInterval) -> bool:
    return _brackets(gold) == _brackets(answer) and _pairwise(gold.items, answer.items)


def _brackets(row: TupleOrInterval) -> tuple[str, str]:
    """The brackets of an interval. An infinite end is always open."""
    opening = "(" if isinstance(row.items[0], forms.Infinity) else row.opening
    return opening, ")" if isinstance(row.items[-1], forms.Infinity) else row.closing


def _same_sets(gold: Form, answer: Form) -> bool:
    """Compare sets of real numbers. Conditions on variables with different names are different."""
    if isinstance(gold, _NO_SETS) or isinstance(answer, _NO_SETS):
        return False
    names = variables(gold), variables(answer)
    return (not all(names) or names[0] == names[1]) and same_intervals(gold, answer)


def _same_ratios(gold: Form, answer: Form) -> bool:
    """Compare the quotients of the first part and each other part. A number is the quotient of two parts."""
    quotients = _quotients(gold), _quotients(_as_ratio(answer))
    return len(quotients[0]) == len(quotients[1]) > 0 and all(map(fx.equal, *quotients))


def _quotients(form: Form) -> list[Formula]:
    if isinstance(form, Quantity):
        return [] if form.unit else [form.formula]
    parts = form.parts if isinstance(form, Ratio) else ()
    return [fx.combine(fx.divide, parts[0], part) for part in parts[1:]]


def _as_ratio(form: Form) -> Form:
    """Convert a time of day such as `16:27` to a ratio, unless it has a.m. or p.m."""
    if not isinstance(form, TimeOfDay) or form.half:
        return form
    return Ratio((fx.constant(Fraction(form.hour)), fx.constant(Fraction(form.minute))))


def _same_times(gold: TimeOfDay, answer: TimeOfDay) -> bool:
    """Compare the minutes of the day, or of the half day if one time does not say which half and may mean either."""
    a, b = _minutes(gold), _minutes(answer)
    if bool(gold.half) == bool(answer.half):
        return a == b
    bare = answer if gold.half else gold
    return a == b or (bare.hour <= 12 and a % 720 == b % 720)


def _minutes(time: TimeOfDay) -> int:
    hour = time.hour % 12 + 12 * (time.half == "p") if time.half else time.hour
    return hour * 60 + time.minute


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """True if both have the same value in the same unit. A unit that one side omits is taken from the other."""
    a, b = _scaled(gold), _scaled(answer)
    if a.unit is not None and b.unit is not None:
        angles = {a.unit, b.unit} == {DEGREE, RADIAN}
        sizes = [_DEGREE_RADIANS if angles and unit == DEGREE else unit.factor for unit in (a.unit, b.unit)]
        same_dimension = angles or a.unit.dimension == b.unit.dimension
        return same_dimension and fx.equal(_times(a.formula, sizes[0]), _times(b.formula, sizes[1]))
    unit = a.unit or b.unit
    with_unit, bare = (a.formula, b.formula) if a.unit else (b.formula, a.formula)
    if unit and unit.is_sum:
        raise UndecidedError("the unit of the sum")
    if unit == PERCENT:
        return _same_percent(with_unit, bare)
    if unit == DEGREE and "\\pi" in bare.source:
        return fx.equal(_times(with_unit, _DEGREE_RADIANS), bare)
    return fx.equal(a.formula, b.formula) or fx.is_rounded(a.formula, b.formula)


def _scaled(quantity: Quantity) -> Quantity:
    """Multiply the value by a factor such as `million`, which is written like a unit or before a unit."""
    unit = quantity.unit
    if unit is None or (unit.dimension and unit.scale == 1):
        return quantity
    rest = replace(unit, factor=unit.factor / unit.scale, scale=Fraction(1)) if unit.dimension else None
    return Quantity(_times(quantity.formula, unit.scale), rest)


def _times(formula: Formula, factor: Value) -> Formula:
    return formula if factor == 1 else fx.combine(operator.mul, formula, fx.constant(factor))


def _same_percent(percent: Formula, bare: Formula) -> bool:
    r"""Compare `28\%` with a bare number: 0.28, or 28 if the number is above 1, since the problem may ask for a percentage."""
    return fx.equal(_times(percent, Fraction(1, 100)), bare) or (
        fx.equal(percent, bare) and not bare.symbols and sign(fx.absolute(bare.value()) - 1) > 0
    )


# Equations


def _with_equations(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _same_equations(gold, answer)
    if isinstance(gold, UnorderedList) or isinstance(answer, UnorderedList):
        gold, answer = _assignments(gold, answer), _assignments(answer, gold)
        same_length = len(_items(gold)) == len(_items(answer))
        return same_length and _same_lists(_items(gold), _items(answer), as_sets=False)
    if isinstance(gold, Equation):
        return _is_name(gold.sides[0]) and same(parse_answer(gold.sides[-1]), answer)
    return isinstance(answer, Equation) and _states_the_value(gold, answer)


def _assignments(form: Form, other: Form) -> Form:
    """Rewrite `(x,y) = (2,5)` as `x = 2, y = 5` if the other side is a list of equations."""
    if not isinstance(form, Equation) or not all(isinstance(item, Equation) for item in _items(other)):
        return form
    sides = [side.strip() for side in form.sides]
    if len(sides) != 2 or not all(side.startswith("(") and side.endswith(")") for side in sides):
        return form
    names, values = (split(side[1:-1], re.compile(",")) for side in sides)
    if len(names) != len(values) or not all(map(_is_name, names)):
        return form
    return UnorderedList(tuple(Equation(pair) for pair in zip(names, values, strict=True)))


def _is_name(side: str) -> bool:
    return _RE.name.fullmatch(side.strip()) is not None


def _states_the_value(gold: Form, answer: Equation) -> bool:
    r"""True if every value in `x = 5`, `P = \frac{6}{4} = \frac{3}{2}`, `5! = 120` or `a + b = 7` equals the reference."""
    sides = [side for side in answer.sides if side]
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]):
        sides.reverse()  # `5 = x`
    while len(sides) > 2 and _is_name(sides[0]) and _is_name(sides[1]):
        sides = sides[1:]  # `a = b = 5`
    first = sides[0]
    others = _symbols(first) - _symbols(sides[-1])
    named = _is_name(first) or (not _constant(first) and (len(others) > 1 or "\\text" in first))
    values = sides[1:] if named else sides
    if any(first.strip() in _symbols(side) for side in values) or _RE.supposed.search(first):
        return False  # a supposition, or an equation to solve, such as `x = 2x + 3`
    if named and not _is_name(first) and without_spacing(sides[-1]) == "0":
        return False  # an equation to solve, not a quantity that is zero
    is_chain = named or all(_constant(side) for side in sides) or len(_symbols(sides[-1])) > 0
    return bool(values) and is_chain and all(same(gold, parse_answer(side)) for side in values)


def _symbols(side: str) -> frozenset[str]:
    with contextlib.suppress(UnreadableError):
        return parse_formula(side).symbols
    return frozenset()


def _constant(side: str) -> bool:
    with contextlib.suppress(UnreadableError):
        form = parse_answer(side)
        return isinstance(form, Quantity) and not form.formula.symbols
    return False


def _renamed(text: str, name: str, new: str) -> str:
    """Replace a letter outside commands and words by another one, unless the text has that already."""
    tokens = _RE.token.findall(text)
    return text if new in tokens else "".join(new if token == name else token for token in tokens)


def _same_equations(gold: Equation, answer: Equation) -> bool:
    left, right = gold.sides, answer.sides
    functions = [re.fullmatch(r"([a-zA-Z])\(([a-z])\)", without_spacing(sides[0])) for sides in (left, right)]
    if functions[0] and functions[1] and functions[0][1] == functions[1][1]:
        right = tuple(_renamed(side, functions[1][2], functions[0][2]) for side in right)
    if bool(functions[0]) != bool(functions[1]):  # `y(x) = 2x` and `y = 2x`
        names = [re.sub(r"\([a-z]\)$", "", without_spacing(sides[0])) for sides in (left, right)]
        return names[0] == names[1] and same(parse_answer(left[-1]), parse_answer(right[-1]))
    if without_spacing(left[0]) == without_spacing(right[0]):
        with contextlib.suppress(UnreadableError):
            is_same = same(parse_answer(left[-1]), parse_answer(right[-1]))
            if is_same or not _symbols(left[0]):
                return is_same  # two values of one name
    return len(left) == len(right) == 2 and same_solutions(left, right)


_NO_SETS = (Quantity, forms.Matrix, forms.BaseNumber, Ratio, TimeOfDay)
_RULES: tuple[tuple[tuple[type, ...], Callable[[Form, Form], bool]], ...] = (
    ((Equation,), _with_equations),
    ((forms.Inequality, forms.SetOperation), _same_sets),
    ((UnorderedList,), _same_unordered_lists),
    ((Ratio,), _same_ratios),
    ((forms.BaseNumber,), _same_in_bases),
    ((forms.Congruence,), _same_congruences),
)
"""Forms that may be equivalent to a different form. The rules are tried in this order."""
_SAME_KIND: dict[type, Callable[[Any, Any], bool]] = {
    Quantity: same_quantity,
    TupleOrInterval: _same_tuples,
    forms.Matrix: lambda gold, answer: _pairwise(gold.rows, answer.rows),
    TimeOfDay: _same_times,
}
