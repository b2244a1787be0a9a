r"""Decide whether a number is exactly zero, and its sign.

Rules: a number is not zero if its evaluation at growing precision separates it from zero. A number made of fractions, roots and roots
of unity is zero if it is smaller than a bound below which no such number other than zero exists (the bound of Burnikel, Fleischer,
Mehlhorn and Schirra, 1997). Constants such as π, e and ln 2 are replaced by random fractions: what is zero for these too is an identity.
Sines and exponentials are first rewritten as powers of common bases, so that \sin^2 x + \cos^2 x - 1 is such an identity. A sum of
logarithms or angles that is small is zero if the exponential of a multiple of it is 1. Everything else is undecided.

This module does not know formulas with variables (see `formula.equal`), and does not know how the numbers came about.
"""

import contextlib
import math
import random
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from analysis.grading.numbers import (
    CONTEXT,
    PI,
    Ball,
    I,
    ImpreciseError,
    Number,
    UndecidedError,
    UndefinedError,
    Value,
    approximate,
    number,
    unity,
)

PRECISIONS_BITS = (64, 200, 600, 1_500)
MAX_BOUND_BITS = 60_000
"""Numbers whose bound is smaller than 2^-60000 are undecided, because evaluating them takes seconds."""
MAX_BITS = 200_000
"""Size limit for exact powers: 10^60000 is a fraction, and larger powers are evaluated approximately."""
MAX_TERMS = 100
_ARCS = {"asin", "acos", "atan"}
_SEEDS = (20_250_923, 1_004)


def _balls(value: Value, precisions_bits: Iterable[int]) -> Iterator[Ball]:
    """Evaluate a number at each precision that is enough for a bounded error."""
    for bits in precisions_bits:
        with contextlib.suppress(ImpreciseError):
            yield approximate(value, bits)


def is_zero(value: Value) -> bool:
    """Return whether a number is zero. Raises UndecidedError."""
    if isinstance(value, Fraction):
        return value == 0
    return not any(ball.is_separated() for ball in _balls(value, PRECISIONS_BITS)) and _vanishes(value)


def equal_values(a: Value, b: Value) -> bool:
    """Return whether two numbers are equal. Raises UndecidedError."""
    if a is b or (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return a == b
    return is_zero(a - b)


def sign(value: Value) -> int:
    """Return −1, 0 or 1 for a real number. Raises UndecidedError."""
    if isinstance(value, Fraction):
        return (value > 0) - (value < 0)
    return 0 if is_zero(value) else 1 if CONTEXT.re(to_float(value)) > 0 else -1


def to_float(value: Value) -> Any:
    """Return the value with about 50 digits. Raises UndecidedError."""
    ball: Ball | None = None
    for ball in _balls(value, PRECISIONS_BITS):
        if ball.error <= abs(ball.value) * CONTEXT.ldexp(1, -166):
            break
    if ball is None:
        raise UndecidedError("cannot be evaluated")
    return ball.value


def is_real(value: Value) -> bool:
    """True if the imaginary part is zero to many digits."""
    if isinstance(value, Fraction):
        return True
    approximation = CONTEXT.mpmathify(to_float(value))
    return bool(abs(CONTEXT.im(approximation)) <= abs(approximation) * CONTEXT.ldexp(1, -150))


def _vanishes(value: Number) -> bool:
    """True if a number that could not be separated from zero is zero. Raises UndecidedError."""
    if (shown := _is_identity(value)) is not None:
        return shown
    # A small real number is zero if e^(a n) or e^(i a n) is 1 for an integer n: so are sums of logarithms and of angles compared.
    count = math.lcm(*(factor.denominator for factor in expanded(value).values()))
    is_small = any((abs(ball.value) + ball.error) * count < 1 for ball in _balls(value, PRECISIONS_BITS))
    for turn in (Fraction(1), I) if is_small and is_real(value) else ():
        with contextlib.suppress(UndecidedError):
            if _is_identity(number("exp", value * turn * count) - 1):
                return True
    raise UndecidedError("equal to many digits, but not shown to be equal")


def _is_identity(value: Value) -> bool | None:
    """True if a number is zero also with other constants, and None if that does not decide it. Raises UndecidedError."""
    for seed in _SEEDS:
        identity = _Identity(seed)
        try:
            vanishes = _algebraic_zero(identity.rewritten(value))
        except (UndefinedError, ZeroDivisionError) as error:
            raise UndecidedError("undefined") from error
        if not vanishes or not identity.fractions:
            return None if identity.fractions else vanishes
    return True


def _algebraic_zero(value: Value) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    bound = _bound_bits(value)
    if bound > MAX_BOUND_BITS:
        raise UndecidedError("too many roots in one another")
    smallest = CONTEXT.ldexp(1, -math.ceil(bound) - 1)
    for ball in _balls(value, (math.ceil(bound) + 200, 2 * math.ceil(bound) + 2_000)):
        if ball.is_separated():
            return False
        if abs(ball.value) + ball.error < smallest:
            return True
    raise UndecidedError("not precise enough")


def _bound_bits(value: Number) -> float:
    """Return n for which the number is zero or larger than 2^-n."""
    sizes: dict[Number, tuple[float, float]] = {}
    top, bottom = _sizes(value, sizes)
    roots = [one.constant for one in sizes if one.function == "root"]
    orders = [2 * one.constant.denominator for one in sizes if one.function == "unity"]
    return float((math.prod(roots) * math.lcm(*orders) - 1) * top + bottom + 2)


def _sizes(value: Value, known: dict[Number, tuple[float, float]]) -> tuple[float, float]:
    """Bounds, as binary logarithms, of all conjugates of the numerator and of the denominator, which are algebraic integers."""
    if isinstance(value, Fraction):
        return math.log2(max(abs(value.numerator), 1)), math.log2(value.denominator)
    if (found := known.get(value)) is not None:
        return found
    sizes = [_sizes(argument, known) for argument in value.arguments]
    top, bottom = sizes[0] if sizes else (0.0, 0.0)
    match value.function, value.constant:
        case "add", _:
            result = (max(top + sizes[1][1], bottom + sizes[1][0]) + 1, bottom + sizes[1][1])
        case "multiply", _:
            result = (top + sizes[1][0], bottom + sizes[1][1])
        case "divide", _:
            result = (top + sizes[1][1], bottom + sizes[1][0])
        case "root", degree:
            result = ((top + (degree - 1) * bottom) / degree, bottom)
        case "power", exponent:
            ends = (top, bottom) if exponent > 0 else (bottom, top)
            result = (abs(exponent) * ends[0], abs(exponent) * ends[1])
        case "unity", _:
            result = (0.0, 0.0)
        case _:
            raise UndecidedError(value.function)
    known[value] = result
    return result


class _Identity:
    """Replace the constants of a number by random fractions: equal constants by the same one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.fractions: dict[tuple[bool | Number, ...], Fraction] = {}
        self.known: dict[Number, Value] = {}

    def fraction(self, *key: bool | Number) -> Fraction:
        """Return the fraction that stands for a constant."""
        if key not in self.fractions:
            top, bottom = (self.random.randrange(1 << 20, 1 << 21) for _ in range(2))
            self.fractions[key] = Fraction(top, bottom | 1)
        return self.fractions[key]

    def rewritten(self, value: Value) -> Value:
        """Return the number with fractions, roots and roots of unity only. Raises UndecidedError."""
        if isinstance(value, Fraction):
            return value
        if value not in self.known:
            self.known[value] = self._rewrite(value)
        return self.known[value]

    def _rewrite(self, value: Number) -> Value:
        match value.function:
            case "unity":
                return value
            case "exp":
                return self._exponential(value.arguments[0])
            case "sin" | "cos":
                return self._wave(value.function, value.arguments[0])
            case "abs":
                return self.rewritten(value.arguments[0]) * sign(value.arguments[0])
            case "add" | "multiply" | "divide" | "root" | "power":
                return self._operation(value)
        return self.fraction(self._representative(value))

    def _operation(self, value: Number) -> Value:
        match value.function, [self.rewritten(argument) for argument in value.arguments]:
            case "add", [a, b]:
                return a + b
            case "multiply", [a, b]:
                return a * b
            case "divide", [a, b]:
                return a / b
            case "power", [a]:
                return integer_power(a, value.constant)
            case _, arguments:
                return number("root", *arguments, constant=value.constant)

    def _representative(self, value: Number) -> Number:
        """Return a known constant with the same function and an equal argument."""
        same = (
            one
            for one, *_ in self.fractions
            if isinstance(one, Number) and one.function == value.function and one.arguments
            if equal_values(one.arguments[0], value.arguments[0])
        )
        return next(same, value)

    def _exponential(self, exponent: Value) -> Value:
        """Rewrite e^exponent as a product of powers, with the base e^m for each monomial m of the exponent."""
        result: Value = Fraction(1)
        for monomial, factor in expanded(exponent).items():
            is_imaginary = I in monomial
            rest = tuple(atom for atom in monomial if atom is not I)
            if is_imaginary and rest == (PI,):
                result *= unity(factor)
                continue
            if not is_imaginary and len(rest) == 1 and rest[0].function == "ln":
                base = self.rewritten(rest[0].arguments[0])
            elif is_imaginary and len(rest) == 1 and rest[0].function in _ARCS and factor.denominator == 1:
                base = self._direction(rest[0])
            else:
                base = self.fraction(is_imaginary, *rest)
            result *= rational_power(base, factor)
        return result

    def _direction(self, arc: Number) -> Value:
        """Return e^(i a) for an angle that is the arc sine, cosine or tangent of a real number."""
        x = self.rewritten(arc.arguments[0])
        if arc.function == "atan":
            return (1 + I * x) / number("root", 1 + x * x, constant=2)
        other = number("root", 1 - x * x, constant=2)
        return x + I * other if arc.function == "acos" else other + I * x

    def _wave(self, function: str, angle: Value) -> Value:
        """Rewrite a sine or a cosine by Euler's formula."""
        turn = self._exponential(I * angle)
        back = 1 / turn
        return (turn + back) / 2 if function == "cos" else (turn - back) / (I * 2)


def integer_power(base: Value, exponent: int) -> Value:
    """Return base^exponent for a base that is not zero: exactly, unless the fraction would have too many digits."""
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base in {0, 1, -1} or abs(exponent) * bits <= MAX_BITS:
            return base**exponent
    return number("power", base, constant=exponent)


def rational_power(base: Value, exponent: Fraction) -> Value:
    """Return base^exponent as a root of a power."""
    if max(abs(exponent.numerator), exponent.denominator) > 10_000:
        raise UndecidedError("huge exponent")
    raised = integer_power(base, exponent.numerator)
    return raised if exponent.denominator == 1 else number("root", raised, constant=exponent.denominator)


Terms = dict[tuple[Number, ...], Fraction]
"""A sum of products of numbers, with rational factors."""


def expanded(value: Value) -> Terms:
    """Expand a number to a sum of monomials: products of numbers that are not sums or products."""
    if isinstance(value, Fraction):
        return {(): value} if value else {}
    match value.function:
        case "add":
            a, b = (expanded(argument) for argument in value.arguments)
            return _sum([*a.items(), *b.items()])
        case "multiply":
            return _product(expanded(value.arguments[0]), expanded(value.arguments[1]))
        case "divide" if len(divisor := expanded(value.arguments[1])) == 1:
            ((atoms, factor),) = divisor.items()
            inverse = tuple(number("power", atom, constant=-1) for atom in atoms)
            return _product(expanded(value.arguments[0]), {inverse: 1 / factor})
    return {(value,): Fraction(1)}


def _sum(terms: Iterable[tuple[tuple[Number, ...], Fraction]]) -> Terms:
    out: Terms = {}
    for monomial, factor in terms:
        out[monomial] = out.get(monomial, Fraction(0)) + factor
    return {monomial: factor for monomial, factor in out.items() if factor}


def _product(a: Terms, b: Terms) -> Terms:
    if len(a) * len(b) > MAX_TERMS:
        raise UndecidedError("too many terms")
    return _sum(_times(x, y) for x in a.items() for y in b.items())


def _times(
    one: tuple[tuple[Number, ...], Fraction], other: tuple[tuple[Number, ...], Fraction]
) -> tuple[tuple[Number, ...], Fraction]:
    """Multiply two terms. The square of the imaginary unit is −1, and a number and its inverse cancel."""
    atoms = sorted((*one[0], *other[0]), key=id)
    for inverse in [atom for atom in atoms if atom.function == "power" and atom.constant == -1]:
        (base,) = inverse.arguments
        if isinstance(base, Number) and base in atoms:
            atoms.remove(inverse)
            atoms.remove(base)
    is_square = atoms.count(I) == 2
    kept = tuple(atom for atom in atoms if not is_square or atom is not I)
    return kept, one[1] * other[1] * (-1 if is_square else 1)
