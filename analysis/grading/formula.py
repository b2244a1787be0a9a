r"""Formulas and their arithmetic: exact for rational values, with 50 digits otherwise.

Rules: an expression that cannot be evaluated raises `UnreadableError`. Nothing is skipped or guessed, because a parser that ignored the
rest of a text would make `4` equal `4\sqrt(2)`. The work is limited: huge powers and factorials raise `UnreadableError` too, and are
then graded in a process that can be killed. `i` is the imaginary unit and `e` is Euler's number. A mixed number is a sum. Every other
letter is a variable.

This module does not know units, lists or relations, or which of two answers is the reference.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]  # has no type annotations

Value = Fraction | Any
"""An exact fraction, or a number of mpmath, which has no type annotations."""
Env = Mapping[str, Value]
Node = Callable[[Env], Value]

DIGITS = 50
MAX_BITS = 40_000
"""Size limit for exact powers: 2^1000 and 10^10000 are evaluated, a power tower is not."""
MAX_FACTORIAL = 1_000
MAX_SYMBOLIC_POWER = 128
CONTEXT = mpmath.mp.clone()
CONTEXT.dps = DIGITS
PI = +CONTEXT.pi


class UnreadableError(Exception):
    """The text is not a formula that this package can evaluate."""


class UndefinedError(Exception):
    """The formula has no value at this point, for example because of a division by zero."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula, its variables and the function that evaluates it."""

    source: str
    symbols: frozenset[str]
    evaluate: Node
    decimals: int | None
    """Digits after the decimal point if the whole formula is one decimal number."""
    has_i: bool

    def value(self) -> Value:
        """Evaluate a formula without variables."""
        return self.evaluate({})


def constant(value: Value) -> Formula:
    """A formula that is a constant."""
    return Formula("", frozenset(), lambda _: value, None, has_i=False)


def combine(operation: Callable[[Value, Value], Value], a: Formula, b: Formula) -> Formula:
    """The formula that applies an operation to the values of two formulas."""
    symbols, has_i = a.symbols | b.symbols, a.has_i or b.has_i
    return Formula("", symbols, lambda env: operation(a.evaluate(env), b.evaluate(env)), None, has_i=has_i)


def to_float(value: Value) -> Any:
    """Convert to a float with 50 digits."""
    return CONTEXT.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _checked(value: Any) -> Value:
    """Convert a complex number with a negligible imaginary part to a real one. Raises UndefinedError if the value is not finite."""
    if isinstance(value, CONTEXT.mpc) and abs(value.imag) <= abs(value.real) * CONTEXT.mpf(10) ** (
        8 - DIGITS
    ):
        value = value.real
    if not CONTEXT.isfinite(value):
        raise UndefinedError
    return value


def add(a: Value, b: Value) -> Value:
    """Return a + b."""
    return (
        a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else _checked(to_float(a) + to_float(b))
    )


def subtract(a: Value, b: Value) -> Value:
    """Return a − b."""
    return add(a, -b)


def multiply(a: Value, b: Value) -> Value:
    """Return a × b."""
    return (
        a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else _checked(to_float(a) * to_float(b))
    )


def divide(a: Value, b: Value) -> Value:
    """Return a / b. Raises UndefinedError if b is 0."""
    if b == 0:
        raise UndefinedError
    return (
        a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _checked(to_float(a) / to_float(b))
    )


def power(a: Value, b: Value) -> Value:
    """Return a to the power b, exactly for integer b. Raises UnreadableError if it is huge and UndefinedError for 0 ^ -1."""
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1:
        if a == 0 and b < 0:
            raise UndefinedError
        bits = max(a.numerator.bit_length(), a.denominator.bit_length())
        if a not in (0, 1, -1) and abs(b) * bits > MAX_BITS:
            raise UnreadableError("huge power")
        return a ** int(b)
    if abs(to_float(b)) > 1_000_000:
        raise UnreadableError("huge power")
    if a == 0:
        return _zero_power(b)
    return _checked(CONTEXT.power(to_float(a), to_float(b)))


def _zero_power(b: Value) -> Value:
    if isinstance(b, CONTEXT.mpc) or b <= 0:
        raise UndefinedError
    return Fraction(0)


def root(a: Value, degree: int) -> Value:
    """Return the real root if there is one (also of a negative number for an odd degree), else the principal root."""
    if isinstance(a, Fraction) and (exact := _exact_root(a, degree)) is not None:
        return exact
    if degree % 2 and not isinstance(a, CONTEXT.mpc) and a < 0:
        return -root(-a, degree)
    return _checked(CONTEXT.root(to_float(a), degree)) if degree != 2 else _checked(CONTEXT.sqrt(to_float(a)))


def _exact_root(a: Fraction, degree: int) -> Fraction | None:
    if a < 0 or max(a.numerator, a.denominator).bit_length() > 900:
        return None
    guess = Fraction(round(a.numerator ** (1 / degree)), round(a.denominator ** (1 / degree)))
    return guess if guess**degree == a else None


def factorial(a: Value) -> Value:
    """Return the factorial; between the integers, by the gamma function."""
    if isinstance(a, Fraction) and a.denominator == 1:
        if a < 0:
            raise UndefinedError
        if a > MAX_FACTORIAL:
            raise UnreadableError("huge factorial")
        return Fraction(CONTEXT.fac(int(a)).__int__()) if a < 20 else Fraction(_product(int(a)))
    if abs(to_float(a)) > MAX_FACTORIAL:
        raise UnreadableError("huge factorial")
    return _checked(CONTEXT.gamma(to_float(a) + 1))


def _product(n: int) -> int:
    result = 1
    for factor in range(2, n + 1):
        result *= factor
    return result


def call(name: str, a: Value) -> Value:
    """Evaluate an elementary function by its LaTeX name. Raises UndefinedError at poles, UnreadableError for huge arguments."""
    if abs(to_float(a)) > 10**30 or (name in {"exp", "sinh", "cosh", "tanh"} and abs(to_float(a)) > 10**6):
        raise UnreadableError("huge argument")
    if name == "abs":
        return abs(a)
    if name in {"floor", "ceil"}:
        if isinstance(a, Fraction):
            return Fraction(a.__floor__() if name == "floor" else a.__ceil__())
        return Fraction(int(getattr(CONTEXT, name)(a)))
    try:
        return _checked(getattr(CONTEXT, name)(to_float(a)))
    except (ValueError, ZeroDivisionError) as error:
        raise UndefinedError from error


def sample_points(symbols: frozenset[str], count: int = 8, seed: int = 20_250_923) -> list[dict[str, Value]]:
    """Points at which two formulas are compared. The first half is positive, the second has both signs. All calls return the same."""
    rng = random.Random(seed)
    points: list[dict[str, Value]] = []
    for index in range(count):
        point: dict[str, Value] = {}
        for symbol in sorted(symbols):
            size = Fraction(rng.randrange(101, 4999), 1009)
            point[symbol] = size if index < count // 2 or rng.random() < 0.3 else -size
        points.append(point)
    return points


def nearly_equal(a: Value, b: Value) -> bool:
    """True if two values are equal: exactly if both are rational, else to 35 digits of the larger one."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = to_float(a), to_float(b)
    size = max(abs(x), abs(y))
    # The difference of two equal surds of ordinary size is about 1e-49, so values below 1e-44 count as 0.
    return bool(abs(x - y) <= size * CONTEXT.mpf(10) ** -35 or (size < CONTEXT.mpf(10) ** -44))


def equal(a: Formula, b: Formula) -> bool:
    """True if two formulas have the same values at the sample points at which both are real, or defined. Raises UnreadableError."""
    symbols = a.symbols | b.symbols
    if not symbols:
        try:
            return nearly_equal(a.value(), b.value()) or is_rounded(a, b) or is_rounded(b, a)
        except UndefinedError:
            return False
    values: list[tuple[Value, Value]] = []
    for point in sample_points(symbols):
        try:
            values.append((a.evaluate(point), b.evaluate(point)))
        except UndefinedError:
            continue
    if not (a.has_i or b.has_i):
        real = [pair for pair in values if not any(isinstance(value, CONTEXT.mpc) for value in pair)]
        values = real if len(real) >= 3 else values
    return len(values) >= 3 and all(nearly_equal(x, y) for x, y in values)


def _terminates(value: Value) -> bool:
    """True if the value has a finite decimal notation."""
    return isinstance(value, Fraction) and pow(10, value.denominator.bit_length(), value.denominator) == 0


def is_rounded(short: Formula, exact: Formula) -> bool:
    """True if `short` is `exact`, rounded or cut to a decimal with at least six places and five significant digits."""
    exact_value = exact.value()
    if short.decimals is None or short.decimals < 6 or _terminates(exact_value):
        return False
    approximate, value = to_float(short.value()), to_float(exact_value)
    significant = len(str(abs(int(approximate * 10**short.decimals))))
    return significant >= 5 and abs(approximate - value) < CONTEXT.mpf(10) ** -short.decimals
