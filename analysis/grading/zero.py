r"""Decide whether a number is exactly zero, and its sign.

Rules: a number is not zero if its evaluation at growing precision separates it from zero. A number made of fractions, roots and roots
of unity is zero if it is smaller than a bound below which no such number other than zero exists (the bound of Burnikel, Fleischer,
Mehlhorn and Schirra, 1997). Constants such as π, e and ln 2 are replaced by random fractions: what is zero for these too is an identity.
Sines and exponentials are first rewritten as powers of common bases, so that \sin^2 x + \cos^2 x - 1 is such an identity. Everything
else is undecided.

This module does not know formulas with variables (see `formula.equal`), and does not know how the numbers came about.
"""

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from analysis.grading.numbers import (
    CONTEXT,
    PI,
    I,
    ImpreciseError,
    Number,
    UndecidedError,
    UndefinedError,
    Value,
    add,
    approximate,
    multiply,
    negative,
    number,
    quotient,
    unity,
)

PRECISIONS_BITS = (64, 200, 600, 1_500)
MAX_BOUND_BITS = 60_000
"""Numbers whose bound is smaller than 2^-60000 are undecided, because evaluating them takes seconds."""
MAX_BITS = 200_000
"""Size limit for exact powers: 10^60000 is a fraction, and larger powers are evaluated approximately."""
MAX_TERMS = 100
_OPERATIONS: dict[str, Callable[[Value, Value], Value]] = {
    "add": add,
    "multiply": multiply,
    "divide": quotient,
}
_SEEDS = (20_250_923, 1_004)


def is_zero(value: Value) -> bool:
    """Return whether a number is zero. Raises UndecidedError."""
    return not _separated(value) and _vanishes(value)


def equal_values(a: Value, b: Value) -> bool:
    """Return whether two numbers are equal. Raises UndecidedError."""
    if a is b or (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return a == b
    return is_zero(add(a, negative(b)))


def sign(value: Value) -> int:
    """Return −1, 0 or 1 for a real number. Raises UndecidedError."""
    if isinstance(value, Fraction):
        return (value > 0) - (value < 0)
    return 0 if is_zero(value) else 1 if CONTEXT.re(to_float(value)) > 0 else -1


def to_float(value: Value) -> Any:
    """Return the value with about 50 digits. Raises UndecidedError."""
    for bits in PRECISIONS_BITS:
        try:
            ball = approximate(value, bits)
        except ImpreciseError:
            continue
        if ball.error <= abs(ball.value) * CONTEXT.ldexp(1, -166) or bits == PRECISIONS_BITS[-1]:
            return ball.value
    raise UndecidedError("cannot be evaluated")


def is_real(value: Value) -> bool:
    """True if the imaginary part is zero to many digits."""
    if isinstance(value, Fraction):
        return True
    approximation = CONTEXT.mpmathify(to_float(value))
    return bool(abs(CONTEXT.im(approximation)) <= abs(approximation) * CONTEXT.ldexp(1, -150))


def _separated(value: Value) -> bool:
    """True if the number is certainly not zero."""
    if isinstance(value, Fraction):
        return value != 0
    for bits in PRECISIONS_BITS:
        try:
            ball = approximate(value, bits)
        except ImpreciseError:
            continue
        if abs(ball.value) > ball.error:
            return True
    return False


def _vanishes(value: Value) -> bool:
    """True if a number that could not be separated from zero is zero. Raises UndecidedError."""
    for seed in _SEEDS:
        identity = _Identity(seed)
        try:
            algebraic = identity.rewritten(value)
        except (UndefinedError, ZeroDivisionError) as error:
            raise UndecidedError("undefined") from error
        if not _algebraic_zero(algebraic):
            if identity.fractions:
                raise UndecidedError("equal to many digits, but not shown to be equal")
            return False
        if not identity.fractions:
            break
    return True


def _algebraic_zero(value: Value) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    bound = _bound_bits(value)
    if bound > MAX_BOUND_BITS:
        raise UndecidedError("too many roots in one another")
    smallest = CONTEXT.ldexp(1, -math.ceil(bound) - 1)
    for bits in (math.ceil(bound) + 200, 2 * math.ceil(bound) + 2_000):
        try:
            ball = approximate(value, bits)
        except ImpreciseError:
            continue
        if abs(ball.value) > ball.error:
            return False
        if abs(ball.value) + ball.error < smallest:
            return True
    raise UndecidedError("not precise enough")


def _bound_bits(value: Number) -> float:
    """Return n for which the number is zero or larger than 2^-n."""
    roots: dict[int, int] = {}
    orders = 1
    seen, waiting = {id(value)}, [value]
    while waiting:
        one = waiting.pop()
        if one.function == "unity":
            orders = math.lcm(orders, 2 * one.constant.denominator)
        elif one.function == "root":
            roots[id(one)] = one.constant
        for argument in one.arguments:
            if isinstance(argument, Number) and id(argument) not in seen:
                seen.add(id(argument))
                waiting.append(argument)
    degree = math.prod(roots.values()) * orders
    top, bottom = _sizes(value, {})
    return (degree - 1) * top + bottom + 2


def _sizes(value: Value, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """Bounds, as binary logarithms, of all conjugates of the numerator and of the denominator, which are algebraic integers."""
    if isinstance(value, Fraction):
        return math.log2(max(abs(value.numerator), 1)), math.log2(value.denominator)
    if (found := known.get(id(value))) is not None:
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
    known[id(value)] = result
    return result


class _Identity:
    """Replace the constants of a number by random fractions: equal constants by the same one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.fractions: dict[object, Fraction] = {}
        self.known: dict[int, Value] = {}
        self.kept: list[object] = []

    def fraction(self, *key: object) -> Fraction:
        """Return the fraction that stands for a constant."""
        if key not in self.fractions:
            self.kept.append(key)  # keys are compared by identity, so their objects must live on
            self.fractions[key] = Fraction(
                self.random.randrange(1 << 20, 1 << 21), self.random.randrange(1 << 20, 1 << 21) | 1
            )
        return self.fractions[key]

    def rewritten(self, value: Value) -> Value:
        """Return the number with fractions, roots and roots of unity only. Raises UndecidedError."""
        if isinstance(value, Fraction):
            return value
        if id(value) not in self.known:
            self.kept.append(value)
            self.known[id(value)] = self._rewrite(value)
        return self.known[id(value)]

    def _rewrite(self, value: Number) -> Value:
        match value.function:
            case "unity":
                return value
            case "exp":
                return self._exponential(value.arguments[0])
            case "sin" | "cos":
                return self._wave(value.function, value.arguments[0])
            case "abs":
                return multiply(self.rewritten(value.arguments[0]), Fraction(sign(value.arguments[0])))
            case "add" | "multiply" | "divide" | "root" | "power":
                return self._operation(value)
        return self.fraction(self._representative(value))

    def _operation(self, value: Number) -> Value:
        arguments = [self.rewritten(argument) for argument in value.arguments]
        if value.function in _OPERATIONS:
            return _OPERATIONS[value.function](*arguments)
        if value.function == "power":
            return integer_power(arguments[0], value.constant)
        return number("root", arguments[0], constant=value.constant)

    def _representative(self, value: Number) -> Number:
        """Return a known constant with the same function and an equal argument."""
        for key in self.fractions:
            one = key[0] if isinstance(key, tuple) else None
            is_same_kind = isinstance(one, Number) and one.function == value.function and one.arguments
            if (
                isinstance(one, Number)
                and is_same_kind
                and equal_values(one.arguments[0], value.arguments[0])
            ):
                return one
        return value

    def _exponential(self, exponent: Value) -> Value:
        """Rewrite e^exponent as a product of powers, with the base e^m for each monomial m of the exponent."""
        result: Value = Fraction(1)
        for monomial, factor in expanded(exponent).items():
            is_imaginary = I in monomial
            rest = tuple(atom for atom in monomial if atom is not I)
            if is_imaginary and rest == (PI,):
                result = multiply(result, unity(factor))
                continue
            base: Value = Fraction(0)
            if not is_imaginary and len(rest) == 1 and rest[0].function == "ln":
                base = self.rewritten(rest[0].arguments[0])
            else:
                base = self.fraction(is_imaginary, *rest)
            result = multiply(result, rational_power(base, factor))
        return result

    def _wave(self, function: str, angle: Value) -> Value:
        """Rewrite a sine or a cosine by Euler's formula."""
        turn = self._exponential(multiply(I, angle))
        back = quotient(Fraction(1), turn)
        if function == "cos":
            return quotient(add(turn, back), Fraction(2))
        return quotient(add(turn, negative(back)), multiply(I, Fraction(2)))


def integer_power(base: Value, exponent: int) -> Value:
    """Return base^exponent for a base that is not zero: exactly, unless the fraction would have too many digits."""
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base in {0, 1, -1} or abs(exponent) * bits <= MAX_BITS:
            return base**exponent
    return number("power", base, constant=exponent)


def rational_power(base: Value, exponent: Fraction) -> Value:
    """Return base^exponent as a root of a power."""
    power = exponent.numerator
    if max(abs(power), exponent.denominator) > 10_000:
        raise UndecidedError("huge exponent")
    raised = integer_power(base, power)
    if exponent.denominator == 1:
        return raised
    return number("root", raised, constant=exponent.denominator)


def expanded(value: Value) -> dict[tuple[Number, ...], Fraction]:
    """Expand a number to a sum of monomials: products of numbers that are not sums or products, with rational factors."""
    if isinstance(value, Fraction):
        return {(): value} if value else {}
    match value.function:
        case "add":
            terms = expanded(value.arguments[0])
            for monomial, factor in expanded(value.arguments[1]).items():
                terms[monomial] = terms.get(monomial, Fraction(0)) + factor
            return {monomial: factor for monomial, factor in terms.items() if factor}
        case "multiply":
            return _product(expanded(value.arguments[0]), expanded(value.arguments[1]))
        case "power" if 0 < value.constant <= 8:
            terms = {(): Fraction(1)}
            for _ in range(value.constant):
                terms = _product(terms, expanded(value.arguments[0]))
            return terms
        case "unity" if value.constant == Fraction(3, 2):
            return {(I,): Fraction(-1)}
    return {(value,): Fraction(1)}


def _product(
    a: dict[tuple[Number, ...], Fraction], b: dict[tuple[Number, ...], Fraction]
) -> dict[tuple[Number, ...], Fraction]:
    if len(a) * len(b) > MAX_TERMS:
        raise UndecidedError("too many terms")
    out: dict[tuple[Number, ...], Fraction] = {}
    for left, x in a.items():
        for right, y in b.items():
            atoms = sorted((*left, *right), key=id)
            factor = x * y
            if atoms.count(I) == 2:
                atoms = [atom for atom in atoms if atom is not I]
                factor = -factor
            out[tuple(atoms)] = out.get(tuple(atoms), Fraction(0)) + factor
    return {monomial: factor for monomial, factor in out.items() if factor}
