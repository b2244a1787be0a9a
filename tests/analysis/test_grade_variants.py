r"""Answers that are written differently are correct, and answers that are different are not: for MATH-500 and for random answers."""

import json
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.grade import _answer
from analysis.grading.answer_parser import parse_answer
from analysis.grading.grader import compare
from analysis.grading.solutions import same_intervals
from analysis.grading.units import UNITS
from tests.fixtures.answer_variants import MUTATIONS, REWRITES, Change, variants

VARIANTS = 20
INTEGERS = st.integers(-(10**6), 10**6)


def fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


FRACTIONS = st.fractions(max_denominator=997).filter(lambda value: value.denominator > 1).map(fraction)
LISTS = st.lists(INTEGERS, min_size=2, max_size=5, unique=True).map(listed)
TUPLES = st.lists(INTEGERS, min_size=2, max_size=4).map(lambda numbers: f"({listed(numbers)})")
SURDS = st.tuples(st.integers(2, 99), st.sampled_from([2, 3, 5, 7, 11, 13])).map(
    lambda pair: rf"{pair[0]}\sqrt{{{pair[1]}}}"
)
POWERS = st.tuples(st.integers(2, 9), st.integers(2, 40_000)).map(lambda pair: f"{pair[0]}^{{-{pair[1]}}}")
DEGREES = st.integers(1, 359).map(lambda angle: rf"{angle}^\circ")
REFERENCES = st.one_of(INTEGERS.map(str), FRACTIONS, LISTS, TUPLES, SURDS, POWERS, DEGREES)


@pytest.mark.parametrize(("changes", "is_same"), [(REWRITES, True), (MUTATIONS, False)], ids=["rewritten", "changed"])
def test_twenty_variants_of_each_reference(shared: Path, changes: tuple[Change, ...], is_same: bool) -> None:
    """Each reference answer of MATH-500: all of its 20 rewrites are correct, and none of its 20 mutations."""
    rows = (shared / "math500.jsonl").read_text().splitlines()
    references = sorted({json.loads(row)["answer"] for row in rows})
    wrong = []
    for reference in references:
        made = variants(reference, changes, VARIANTS, seed=1, rounds=2 if is_same else 1)
        assert len(made) == VARIANTS, reference
        graded = [(compare(reference, _answer(one)), reference, one) for one in made]
        wrong += [row for row in graded if (row[0] == "correct") != is_same]
    assert wrong == []


@settings(max_examples=150)
@given(reference=REFERENCES, seed=st.integers(0, 10**6))
def test_rewrites_keep_the_value(reference: str, seed: int) -> None:
    for one in variants(reference, REWRITES, 3, seed, rounds=3):
        assert compare(reference, _answer(one)) == "correct", one


@settings(max_examples=150)
@given(reference=REFERENCES, seed=st.integers(0, 10**6))
def test_mutations_change_the_value(reference: str, seed: int) -> None:
    for one in variants(reference, MUTATIONS, 3, seed):
        assert compare(reference, _answer(one)) != "correct", one


@settings(max_examples=100)
@given(terms=st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 30)), min_size=1, max_size=4), seed=st.integers())
def test_sums_of_roots_are_compared_exactly(terms: list[tuple[int, int]], seed: int) -> None:
    """A sum of square roots equals the same sum in another order, and no other one whose squares differ in one unit."""
    reference = " + ".join(rf"({a})\sqrt{{{b}}}" for a, b in terms)
    shuffled = random.Random(seed).sample(terms, len(terms))
    assert (
        compare(
            reference, " + ".join(rf"\sqrt{{{b * a * a}}}" if a >= 0 else rf"({a})\sqrt{{{b}}}" for a, b in shuffled)
        )
        == "correct"
    )
    a, b = terms[0]
    other = " + ".join(rf"({x})\sqrt{{{y}}}" for x, y in [(a or 1, b + 1), *terms[1:]])
    assert compare(reference, other) == "wrong"


METRIC = st.sampled_from(["m", "g", "s", "A", "J", "N", "W", "Pa", "L", "mol"])
PREFIXES = {"n": -9, "μ": -6, "m": -3, "c": -2, "": 0, "k": 3, "M": 6}
PREFIX = st.sampled_from(sorted(PREFIXES))
AMOUNTS = st.decimals("0.001", "99999", places=3)


def typeset(value: Decimal, unit: str, style: int) -> str:
    """A quantity in one of several ways to write it."""
    return f"{value:f}" + (f" {unit}", rf"\text{{ {unit}}}", rf"\ \mathrm{{{unit}}}", rf"\,\text{{{unit}}}")[style]


@settings(max_examples=150)
@given(AMOUNTS, METRIC, PREFIX, PREFIX, st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_units_of_one_quantity_are_converted_exactly(
    value: Decimal, unit: str, prefix: str, other: str, styles: tuple[int, int]
) -> None:
    """The same quantity with another prefix is correct, and with another power of ten or another dimension it is wrong."""
    style, other_style = styles
    reference = typeset(value, prefix + unit, style)
    converted = value.scaleb(PREFIXES[prefix] - PREFIXES[other])
    assert compare(reference, typeset(converted, other + unit, other_style)) == "correct"
    assert compare(reference, typeset(converted * 10, other + unit, other_style)) == "wrong"
    assert compare(reference, typeset(converted, other + unit + "^2", 1)) == "wrong"
    assert compare(reference, typeset(converted, other + ("K" if unit != "K" else "m"), other_style)) == "wrong"


@settings(max_examples=60)
@given(st.integers(1, 99), st.integers(0, 59), st.integers(0, 59), st.integers(1, 10**6))
def test_sums_of_units_are_one_quantity(hours: int, minutes: int, seconds: int, more: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    text = f"{hours} h {minutes} min {seconds} s"
    assert compare(text, f"{total} seconds") == "correct"
    assert compare(f"{total} s", text) == "correct"
    assert compare(text, f"{total + more} s") == "wrong"
    assert compare(str(total), text) == "undecided"


PIECES = [
    *r"0123456789+-*/^_(){}[]\,.=<>|! abxyeiπ$%°~", r"\frac", r"\sqrt", r"\text{", r"\boxed{", r"\pi", r"\le", r"\ldots",
    r"\sum_{k=1}^", r"\log", r"\in", r"\pm", r"\binom", "or ", "C(", r"\lfloor", "^{9}", "!!", r"\begin{pmatrix}", "&", r"\infty",
]  # fmt: skip


@settings(max_examples=300)
@given(text=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_text_gets_a_grade(text: str) -> None:
    """No text raises, and a text without the reference's digits is never equal to it."""
    assert compare(r"\frac{977}{983}", _answer(text)) in {"wrong", "undecided"}
    assert compare(text, r"\frac{977}{983}") in {"wrong", "undecided"}


POSITIVE = st.one_of(
    st.integers(3, 99_999).map(str),
    st.decimals("1.1", "999", places=2).filter(lambda value: value % 1 > 0).map(str),
    st.fractions("1/50", 20, max_denominator=50).filter(lambda value: value.denominator > 1).map(fraction),
    SURDS, POWERS, st.sampled_from(["x", "2x", "R", "n!", "x'", "a_1", r"\pi r^2", "AB", r"\sqrt{x}"]),
)  # fmt: skip
CHANGES = [
    "-{}", r"\pm {}", r"\ge {}", "< {}", r"\ne {}", r"\not= {}", r"\overline{{{}}}", "({})!", "({})^2", "({})'", "({})_2", r"{}, \ldots",
    "{}, 977", "{} + 1", r"\frac{{{}}}{{2}}", "[{})", "{} \\text{{ or more}}",
]  # fmt: skip
UNIT = st.sampled_from([name for name, (dimension, _) in UNITS.items() if dimension and "percent" not in dimension])
WRITTEN = ["{}{}", r"{}\text{{ {}}}", r"{} \text{{{}}}", "{} {}", r"{}\ \mathrm{{{}}}"]
PRESENTED = ["{}", "{}.", "${}$.", r"\({}\)", "**{}**", r"{}\,", r"{} \checkmark", "The answer is ${}$.", "Answer: {}"]


def one_character_changed(number: str, data: st.DataObject) -> str:
    """The number with another sign, relation, power or bracket, or without its decimal point, or with a letter of the other case."""
    made = [change.format(number) for change in CHANGES]
    made += [f"{number}!"] if number[-1].isdigit() else []
    made += [number.replace(".", "")] if "." in number else []
    made += [number.swapcase()] if number.isalpha() else []
    return data.draw(st.sampled_from(made))


@settings(max_examples=250)
@given(POSITIVE, UNIT, st.data())
def test_one_character_of_a_quantity_matters(number: str, unit: str, data: st.DataObject) -> None:
    """In every presentation, with every unit of the table on one side or on both, a changed quantity is never correct."""
    changed = one_character_changed(number, data)
    styles = [*WRITTEN[number.isalpha() :], "{}"]  # `xmeter` is one word
    style, other = (data.draw(st.sampled_from(styles)) for _ in range(2))
    presented = data.draw(st.sampled_from(PRESENTED))
    reference, answer = style.format(number, unit), presented.format(other.format(changed, unit))
    assert compare(reference, _answer(answer)) != "correct", (reference, answer)
    reference, answer = style.format(changed, unit), presented.format(other.format(number, unit))
    assert compare(reference, _answer(answer)) != "correct", (reference, answer)


STATEMENTS = [
    "So the value is {}.",
    "As n grows without bound, the rest shrinks, so the limit is {}.",
    "Adding both parts, we get **{}**.",
    "**Result:** {}",
    "**Final Answer:** The result is **{}** in every case.",
    "The smallest value is {}, which occurs when t = 977.",
    "Since the ends cannot be equal, the result is {} when t = 977.",
    "Therefore, the ratio between the sum of 977 and 983 and the rest equals {}.",
    "Das Ergebnis beträgt also {}.",
    "Donc la valeur cherchée est {}.",
    "Por lo tanto, el resultado es {}.",
    "Таким образом, ответ равен {}.",
    "所以结果是{}。",
    "따라서 값은 {}입니다.",
]
DENIALS = [
    "The value is not {}.",
    "So the value isn't {}.",
    "The value might be {}.",
    "The value is at least {}.",
    "The value is less than {}.",
    "The value lies between 0 and {}.",
    "I could not determine the value, but it lies between 0 and {}.",
    "It is unclear whether the value is {}.",
    "The answer is either 977 or {}.",
    "A third of it is {}.",
    "Das Ergebnis ist nicht {}.",
    "Le résultat n'est pas {}.",
    "El resultado no es {}.",
    "结果不是{}。",
]
STATED = st.one_of(FRACTIONS, TUPLES, SURDS, DEGREES, INTEGERS.filter(lambda number: abs(number) > 1000).map(str))


@settings(max_examples=150)
@given(STATED, st.sampled_from(STATEMENTS), st.integers(0, 10**6))
def test_the_last_sentence_states_the_answer(reference: str, sentence: str, seed: int) -> None:
    """A sentence that states the reference is correct, and never one that states a changed value."""
    assert compare(reference, _answer(sentence.format(f"${reference}$"))) == "correct"
    for one in variants(reference, MUTATIONS, 3, seed):
        assert compare(reference, _answer(sentence.format(f"${one}$"))) != "correct", one


@given(STATED, st.sampled_from(DENIALS))
def test_a_sentence_that_denies_or_doubts_a_value_does_not_state_it(reference: str, sentence: str) -> None:
    assert compare(reference, _answer(sentence.format(f"${reference}$"))) != "correct"


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=3, unique=True), st.integers(-50, 50), st.sampled_from("<>"))
def test_polynomial_inequalities_are_solved_by_their_roots(roots: list[int], number: int, relation: str) -> None:
    """The solution contains a number exactly if the polynomial has the wanted sign there, and another relation has another solution."""
    product = "".join(f"(x-({root}))" for root in roots)
    at = [number - root for root in roots]
    holds = all(at) and (sum(one < 0 for one in at) % 2 == 1) == (relation == "<")
    found = same_intervals(
        parse_answer(rf"{product} {relation} 0"),
        parse_answer(rf"\{{x : {product} {relation} 0\}} \cup [{number},{number}]"),
    )
    assert found == holds
    assert compare(f"{product} {relation} 0", f"{product} {'<' if relation == '>' else '>'} 0") == "wrong"


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(2, 12), st.integers(-5, 5), st.integers(1, 30))
def test_progressions_are_equal_if_they_have_the_same_values(start: int, step: int, turns: int, more: int) -> None:
    reference = rf"x=\frac{{{start}\pi}}{{7}}+{step}k\pi, k\in\mathbb{{Z}}"
    same = rf"x=\frac{{{start + 7 * step * turns}\pi}}{{7}}-{step}n\pi, n\in\mathbb{{Z}}"
    assert compare(reference, same) == "correct"
    other = rf"x=\frac{{{start + more}\pi}}{{7}}+{step}n\pi, n\in\mathbb{{Z}}"
    assert (compare(reference, other) == "correct") == (more % (7 * step) == 0)
    assert compare(reference, same.replace(f"{step}n", f"{step + 1}n")) != "correct"
