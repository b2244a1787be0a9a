r"""Formulas and their functions. Values are exact: fractions, or expressions that `zero` compares.

Rules: an expression that cannot be evaluated raises `UnreadableError`. Nothing is skipped or guessed, because a parser that ignored the
rest of a text would make `4` equal `4\sqrt(2)`. The work is limited: what is too large raises `UndecidedError`. `i` is the imaginary
unit and `e` is Euler's number. A mixed number is a sum. Every other letter is a variable. Formulas with variables are compared at
random points, at which two different polynomials of degree d agree with a probability below (d / 4898)^8.

A factorial of a variable has values at integers only. Formulas with such factorials are equal if they have the same values at 16 points
with integers from 1 to 59, chosen at random. This is evidence but no proof; everything else that is accepted is shown.

This module does not know units, lists or relations, or which of two answers is the reference.
"""

import contextlib
import math
import operator
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from analysis.grading.numbers import (
    CONTEXT,
    MAX_EXPONENT_BITS,
    PI,
    I,
    Number,
    UndecidedError,
    UndefinedError,
    UnreadableError,
    Value,
    check_time,
    number,
    unity,
)
from analysis.grading.zero import MAX_BITS, equal_values, integer_power, is_real, is_zero, sign, to_float

Env = Mapping[str, Value]
Node = Callable[[Env], Value]

MAX_FACTORIAL = 10_000
MAX_GAMMA = 10**18
MAX_TERMS = 10_000
MAX_ROOT_DEGREE = 1_000
LARGEST_PRIME = 1_000
"""Logarithms of fractions are split at primes up to this one."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula, its variables and the function that evaluates it."""

    symbols: frozenset[str]
    evaluate: Node
    has_i: bool = False
    source: str = ""
    decimals: int | None = None
    """Digits after the decimal point if the whole formula is one decimal number."""

    def value(self) -> Value:
        """Evaluate a formula without variables."""
        return self.evaluate({})


def constant(value: Value) -> Formula:
    """A formula that is a constant."""
    return Formula(frozenset(), lambda _: value, has_i=value is I)


def apply(function: Callable[[Value], Value], a: Formula) -> Formula:
    """The formula that applies a function to the value of a formula."""
    return Formula(a.symbols, lambda env: function(a.evaluate(env)), a.has_i)


def combine(operation: Callable[[Value, Value], Value], a: Formula, b: Formula) -> Formula:
    """The formula that applies an operation to the values of two formulas."""
    return Formula(a.symbols | b.symbols, lambda env: operation(a.evaluate(env), b.evaluate(env)), a.has_i or b.has_i)


def divide(a: Value, b: Value) -> Value:
    """Return a / b. Raises UndefinedError if b is 0."""
    if is_zero(b):
        raise UndefinedError
    return a / b


def power(a: Value, b: Value) -> Value:
    """Return a to the power b. Raises UndecidedError if it is huge and UndefinedError for 0 ^ -1."""
    if is_zero(a):
        if not is_real(b) or sign(b) < 0 or (b == 0 and isinstance(a, Number)):
            raise UndefinedError
        return Fraction(b == 0)
    if not isinstance(b, Fraction):
        return call("exp", b * call("ln", a))
    if b.denominator == 1 and abs(b) * abs(_bits(a)) > 1 << MAX_EXPONENT_BITS:
        raise UndecidedError("huge power")
    return integer_power(root(a, b.denominator), b.numerator)


def _bits(a: Value) -> int:
    if isinstance(a, Fraction):
        return max(a.numerator.bit_length(), a.denominator.bit_length())
    return int(CONTEXT.mag(CONTEXT.mpmathify(to_float(a))))


def root(a: Value, degree: int) -> Value:
    """Return the real root if there is one (also of a negative number for an odd degree), else the principal root."""
    if degree > MAX_ROOT_DEGREE:
        raise UndecidedError("root of a high degree")
    if degree == 1 or a == 0:
        return a
    if is_real(a) and sign(a) < 0:
        positive = root(-a, degree)
        return -positive if degree % 2 else unity(Fraction(1, degree)) * positive
    if not isinstance(a, Fraction):
        return number("root", a, constant=degree)
    outside, inside = _without_powers(a, degree)
    return outside if inside == 1 else outside * number("root", inside, constant=degree)


def _without_powers(a: Fraction, degree: int) -> tuple[Fraction, int]:
    """Take factors out of a root: √8 is 2√2, and √9 is 3√1."""
    inside = a.numerator * a.denominator ** (degree - 1)
    outside = Fraction(1, a.denominator)
    for prime in (2, 3, 5, 7, 11, 13):
        while inside % prime**degree == 0:
            inside, outside = inside // prime**degree, outside * prime
    with CONTEXT.workprec(inside.bit_length() // degree + 64):
        whole = int(CONTEXT.nint(CONTEXT.root(inside, degree)))
    return (outside * whole, 1) if whole**degree == inside else (outside, inside)


def factorial(a: Value, step: int = 1) -> Value:
    """Return the factorial of an integer, or with step 2 the double factorial. Huge ones are evaluated approximately."""
    if not isinstance(a, Fraction) or a.denominator != 1 or a > MAX_GAMMA:
        raise UnreadableError("factorial of something that is not an integer below 10^18")
    if a < 0:
        raise UndefinedError
    if a > MAX_FACTORIAL:
        if step == 1:
            return number("factorial", constant=int(a))
        raise UnreadableError("huge double factorial")
    return Fraction(math.prod(range(int(a), 0, -step)) if step > 1 else math.factorial(int(a)))


def choose(n: Value, k: Value) -> Value:
    """Return the binomial coefficient, also for an upper number that is not an integer."""
    if not isinstance(k, Fraction) or k.denominator != 1:
        raise UnreadableError("binomial of something that is not an integer")
    if isinstance(n, Fraction) and n.denominator == 1 and n >= 0:
        k = min(k, n - k)
        if k < 0:
            return Fraction(0)
        if k * n.numerator.bit_length() > MAX_BITS:
            raise UndecidedError("huge binomial")
        return Fraction(math.comb(int(n), int(k)))
    if not 0 <= k <= MAX_ROOT_DEGREE:
        raise UndecidedError("huge binomial")
    result: Value = Fraction(1)
    for index in range(int(k)):
        result = result * (n - index) / (index + 1)
    return result


def maximum(a: Value, b: Value) -> Value:
    """Return the larger one of two real numbers."""
    return a if sign(a - b) >= 0 else b


def minimum(a: Value, b: Value) -> Value:
    """Return the smaller one of two real numbers."""
    return b if sign(a - b) >= 0 else a


def permutations(n: Value, k: Value) -> Value:
    """Return the number of ordered choices of k out of n."""
    return choose(n, k) * factorial(k)


def call(name: str, a: Value) -> Value:
    """Evaluate an elementary function. Raises UndefinedError at poles."""
    return FUNCTIONS[name](a)


def _ln(a: Value) -> Value:
    """Return the logarithm as a sum of logarithms of primes and of factors that are not products."""
    if is_zero(a):
        raise UndefinedError
    if is_real(a) and sign(a) < 0:
        return I * PI + _ln(-a)
    if isinstance(a, Fraction):
        return _ln_integer(a.numerator) - _ln_integer(a.denominator)
    return _ln_of_number(a)


def _ln_of_number(a: Number) -> Value:
    match a.function:
        case "unity":
            return I * PI * Fraction(a.constant if a.constant <= 1 else a.constant - 2)
        case "exp" if is_real(a.arguments[0]):
            return a.arguments[0]
        case "root" if is_real(a):
            return _ln(a.arguments[0]) / Fraction(a.constant)
        case "power" if is_real(a.arguments[0]):
            base = a.arguments[0]
            return Fraction(a.constant) * _ln(base if sign(base) > 0 else -base)
        case "multiply" | "divide" if all(is_real(one) and sign(one) > 0 for one in a.arguments):
            x, y = (_ln(one) for one in a.arguments)
            return x + y if a.function == "multiply" else x - y
    return number("ln", a)


@lru_cache(maxsize=1024)
def _ln_integer(n: int) -> Value:
    result: Value = Fraction(0)
    prime = 2
    while n > 1 and prime <= min(LARGEST_PRIME, math.isqrt(n)):
        times = 0
        while n % prime == 0:
            n, times = n // prime, times + 1
        if times:
            result += number("ln", prime) * times
        prime += 1
    return result if n == 1 else result + number("ln", n)


def _inverse(name: str) -> Callable[[Value], Value]:
    """The inverse of a trigonometric function, as a multiple of π where it is one."""

    def evaluate(a: Value) -> Value:
        angle = number(f"a{name}", a)
        turns = Fraction(float(CONTEXT.re(to_float(angle)) / CONTEXT.pi)).limit_denominator(360)
        if abs(to_float(angle - PI * turns)) > 1e-12:
            return angle
        return PI * turns if equal_values(call(name, PI * turns), a) else angle

    return evaluate


def absolute(a: Value) -> Value:
    """Return the absolute value, also of a complex number."""
    if isinstance(a, Fraction):
        return abs(a)
    if is_real(a):
        return number("abs", a)
    return root(a * _conjugate(a), 2)


def _conjugate(a: Value) -> Value:
    if isinstance(a, Fraction) or is_real(a):
        return a
    if a.function == "unity":
        return unity(-a.constant)
    if a.function not in {"add", "multiply", "divide", "power", "exp", "sin", "cos"}:
        raise UndecidedError("conjugate")
    return number(a.function, *(_conjugate(one) for one in a.arguments), constant=a.constant)


def _floor(a: Value) -> Value:
    if isinstance(a, Fraction):
        return Fraction(math.floor(a))
    if abs(to_float(a)) > CONTEXT.mpf(10) ** 40:
        raise UndecidedError("huge argument")
    nearest = Fraction(int(CONTEXT.nint(to_float(a))))
    return nearest if sign(a - nearest) >= 0 else nearest - 1


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "exp": lambda a: Fraction(1) if a == 0 else number("exp", a),
    "ln": _ln,
    **dict.fromkeys(("log", "lg"), lambda a: _ln(a) / _ln(Fraction(10))),
    "sin": lambda a: a if a == 0 else number("sin", a),
    "cos": lambda a: Fraction(1) if a == 0 else number("cos", a),
    "tan": lambda a: divide(call("sin", a), call("cos", a)),
    "cot": lambda a: divide(call("cos", a), call("sin", a)),
    "sec": lambda a: divide(Fraction(1), call("cos", a)),
    "csc": lambda a: divide(Fraction(1), call("sin", a)),
    "cis": lambda a: call("cos", a) + I * call("sin", a),
    **{f"arc{name}": _inverse(name) for name in ("sin", "cos", "tan")},
    "arccot": lambda a: PI / 2 if a == 0 else call("arctan", divide(Fraction(1), a)),
    "sinh": lambda a: (call("exp", a) - call("exp", -a)) / 2,
    "cosh": lambda a: (call("exp", a) + call("exp", -a)) / 2,
    "tanh": lambda a: divide(call("sinh", a), call("cosh", a)),
    "arcsinh": lambda a: call("ln", a + root(a * a + 1, 2)),
    "arccosh": lambda a: call("ln", a + root(a - 1, 2) * root(a + 1, 2)),
    "arctanh": lambda a: call("ln", divide(1 + a, 1 - a)) / 2,
    "lfloor": _floor,
    "lceil": lambda a: -_floor(-a),
}
"""The functions under their names in LaTeX."""


def total(
    term: Formula, name: str, ends: tuple[Value, Value], env: Env, operation: Callable[[Value, Value], Value]
) -> Value:
    """Return the sum or product of a term for the integers from one end to the other."""
    whole = [int(end) for end in ends if isinstance(end, Fraction) and end.denominator == 1]
    if len(whole) < len(ends):
        raise UndecidedError("the ends are not integers")
    if whole[1] - whole[0] > MAX_TERMS:
        raise UndecidedError("too many terms")
    result: Value = Fraction(operation is operator.mul)
    for index in range(whole[0], whole[1] + 1):
        check_time()
        result = operation(result, term.evaluate({**env, name: Fraction(index)}))
    return result


def sample_points(*formulas: Formula) -> list[dict[str, Value]]:
    """Points at which formulas are compared. All calls return the same.

    The first half is positive, the second has both signs. The last three are smaller than 1, for functions such as the arc sine. A piecewise
    formula, such as |x − 10|, has more points: far from zero, and on both sides of each number in it.
    """
    symbols: frozenset[str] = frozenset().union(*(one.symbols for one in formulas))
    source = " ".join(one.source for one in formulas)
    rng = random.Random(20_250_923)
    points: list[dict[str, Value]] = [{} for _ in range(8)]
    for index, point in enumerate(points):
        for symbol in sorted(symbols):
            size = Fraction(rng.randrange(101, 4999), 1009 if index < 5 else 8072)
            point[symbol] = size if index < 4 or rng.random() < 0.3 else -size
    if not re.search(r"\||\\(?:max|min|lfloor|lceil)(?![a-z])", source):
        return points
    far = [{name: value * size for name, value in point.items()} for size in (20, 1000, 10**6) for point in points]
    numbers = sorted({Fraction(digits) for digits in re.findall(r"\d{1,9}(?:\.\d{1,9})?", source)})[:8]
    near = [end + Fraction(side, 3) for one in numbers for end in (one, -one) for side in (1, -1)]
    return points + far + [dict.fromkeys(symbols, value) for value in near]


def _integer_points(symbols: frozenset[str]) -> list[dict[str, Value]]:
    rng = random.Random(1_004)
    return [{name: Fraction(rng.randrange(1, 60)) for name in sorted(symbols)} for _ in range(16)]


def equal(a: Formula, b: Formula) -> bool:
    """True if two formulas have the same values at the sample points at which both are real, or defined. Raises UnreadableError."""
    symbols = a.symbols | b.symbols
    if not symbols:
        try:
            return equal_values(a.value(), b.value())
        except UndefinedError:
            return False
    points = sample_points(a, b)
    source = f"{a.source} {b.source}"
    try:
        same = _equal_at(a, b, points)
    except UndecidedError:
        # With names instead of values, powers and logarithms of a variable can be compared with each other.
        points = [
            {name: number("variable", constant=(name, value)) for name, value in point.items()} for point in points
        ]
        return _equal_at(a, b, points)
    except UnreadableError:
        if a.symbols != b.symbols or not re.search(r"!|\\binom", source):
            raise
        return _equal_at(a, b, _integer_points(symbols))  # a factorial has values at integers only
    whole = symbols <= set("kmnN") and re.search(r"\\l(?:floor|ceil)(?![a-z])", source)
    if not same and whole and _equal_at(a, b, _integer_points(symbols)):
        raise UndecidedError("equal for integers")
    return same


def _equal_at(a: Formula, b: Formula, points: list[dict[str, Value]]) -> bool:
    values: list[tuple[Value, Value]] = []
    for point in points:
        with contextlib.suppress(UndefinedError):
            values.append((a.evaluate(point), b.evaluate(point)))
    if not (a.has_i or b.has_i):
        real = [pair for pair in values if is_real(pair[0]) and is_real(pair[1])]
        values = real if len(real) >= 3 else values
    if len(values) < 3:
        raise UndecidedError("defined at too few of the sample points")
    return all(equal_values(x, y) for x, y in values)


def linear(formula: Formula, name: str) -> tuple[Value, Value] | None:
    """The value at 0 and the slope of a formula that is linear in its only variable, or None."""
    if formula.symbols != {name}:
        return None
    start, second = (formula.evaluate({name: Fraction(x)}) for x in (0, 1))
    line = Formula(frozenset({name}), lambda env: start + (second - start) * env[name])
    return (start, second - start) if equal(formula, line) else None


def is_rounded(short: Formula, exact: Formula) -> bool:
    """True if `short` is a decimal with at least six places and five significant digits to which `exact` is rounded."""
    if short.decimals is None or short.decimals < 6 or exact.symbols or exact.decimals is not None:
        return False
    value, rounded, unit = exact.value(), short.value(), Fraction(1, 10**short.decimals)
    significant = len(str(absolute(rounded / unit)))
    return significant >= 5 and is_real(value) and sign(absolute(rounded - value) - unit / 2) <= 0
