r"""One formula: read from cleaned LaTeX, then evaluated, exactly where it is rational and to 50 digits where not.

Rules: what it does not know raises `UnreadableError`; nothing is skipped or guessed, because a parser that drops a tail makes
`4` equal `4\sqrt(2)`. Work is bounded: huge powers and factorials are `UnreadableError` too, and go to a process that can
be killed. `i` is the imaginary unit, `e` Euler's number; a mixed number is a sum; every other letter is a variable.

Does not know: units, lists, relations, or which of two answers is the reference.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]  # published without types

Value = Fraction | Any
"""Exact, or one of mpmath's floats, which are published without types."""
Env = Mapping[str, Value]
Node = Callable[[Env], Value]

DIGITS = 50
MAX_BITS = 40_000
"""Largest exact power: 2^1000 and 10^10000 are read, a power tower is not."""
MAX_FACTORIAL = 1_000
MAX_SYMBOLIC_POWER = 128
_context = mpmath.mp.clone()
_context.dps = DIGITS
PI = +_context.pi


class UnreadableError(Exception):
    """Not a formula that we evaluate."""


class UndefinedError(Exception):
    """No value at this point: a division by zero, say."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula in its variables."""

    source: str
    symbols: frozenset[str]
    evaluate: Node
    decimals: int | None
    """Digits after the point, where the whole formula is one decimal number."""
    has_i: bool

    def value(self) -> Value:
        """The value of a formula without variables."""
        return self.evaluate({})


def number(value: Value) -> Formula:
    """The formula of a value."""
    return Formula("", frozenset(), lambda _: value, None, has_i=False)


def mp(value: Value) -> Any:
    """As a 50-digit float."""
    return _context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _settled(value: Any) -> Value:
    """A complex number without an imaginary part is real; no value is not a number."""
    if isinstance(value, _context.mpc) and abs(value.imag) <= abs(value.real) * _context.mpf(10) ** (
        8 - DIGITS
    ):
        value = value.real
    if not _context.isfinite(value):
        raise UndefinedError
    return value


def add(a: Value, b: Value) -> Value:
    """Sum."""
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else _settled(mp(a) + mp(b))


def multiply(a: Value, b: Value) -> Value:
    """Product."""
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else _settled(mp(a) * mp(b))


def negate(a: Value) -> Value:
    """Negative."""
    return -a


def divide(a: Value, b: Value) -> Value:
    """Quotient. Raises UndefinedError."""
    if b == 0:
        raise UndefinedError
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _settled(mp(a) / mp(b))


def power(a: Value, b: Value) -> Value:
    """Power, exactly for integer b. Raises UnreadableError where it is huge, UndefinedError for 0 ^ -1."""
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1:
        if a == 0 and b < 0:
            raise UndefinedError
        bits = max(a.numerator.bit_length(), a.denominator.bit_length())
        if a not in (0, 1, -1) and abs(b) * bits > MAX_BITS:
            raise UnreadableError("huge power")
        return a ** int(b)
    if abs(mp(b)) > 1_000_000:
        raise UnreadableError("huge power")
    if a == 0:
        return _zero_power(b)
    return _settled(_context.power(mp(a), mp(b)))


def _zero_power(b: Value) -> Value:
    if isinstance(b, _context.mpc) or b <= 0:
        raise UndefinedError
    return Fraction(0)


def root(a: Value, degree: int) -> Value:
    """The real root where there is one (also of a negative number for odd degree), else the principal one."""
    if isinstance(a, Fraction) and (exact := _exact_root(a, degree)) is not None:
        return exact
    if degree % 2 and not isinstance(a, _context.mpc) and a < 0:
        return -root(-a, degree)
    return _settled(_context.root(mp(a), degree)) if degree != 2 else _settled(_context.sqrt(mp(a)))


def _exact_root(a: Fraction, degree: int) -> Fraction | None:
    if a < 0 or max(a.numerator, a.denominator).bit_length() > 900:
        return None
    guess = Fraction(round(a.numerator ** (1 / degree)), round(a.denominator ** (1 / degree)))
    return guess if guess**degree == a else None


def factorial(a: Value) -> Value:
    """Factorial, by the gamma function between the integers."""
    if isinstance(a, Fraction) and a.denominator == 1:
        if a < 0:
            raise UndefinedError
        if a > MAX_FACTORIAL:
            raise UnreadableError("huge factorial")
        return Fraction(_context.fac(int(a)).__int__()) if a < 20 else Fraction(_product(int(a)))
    if abs(mp(a)) > MAX_FACTORIAL:
        raise UnreadableError("huge factorial")
    return _settled(_context.gamma(mp(a) + 1))


def _product(n: int) -> int:
    result = 1
    for factor in range(2, n + 1):
        result *= factor
    return result


def call(name: str, a: Value) -> Value:
    """An elementary function by its LaTeX name. Raises UndefinedError at poles, UnreadableError for huge arguments."""
    if abs(mp(a)) > 10**30 or (name in {"exp", "sinh", "cosh", "tanh"} and abs(mp(a)) > 10**6):
        raise UnreadableError("huge argument")
    if name == "abs":
        return abs(a)
    if name in {"floor", "ceil"}:
        if isinstance(a, Fraction):
            return Fraction(a.__floor__() if name == "floor" else a.__ceil__())
        return Fraction(int(getattr(_context, name)(a)))
    try:
        return _settled(getattr(_context, name)(mp(a)))
    except (ValueError, ZeroDivisionError) as error:
        raise UndefinedError from error


def sample_points(symbols: frozenset[str], count: int = 8, seed: int = 20_250_923) -> list[dict[str, Value]]:
    """Points to compare two formulas at: all positive at first, then of either sign; the same on every call."""
    rng = random.Random(seed)
    points: list[dict[str, Value]] = []
    for index in range(count):
        point: dict[str, Value] = {}
        for symbol in sorted(symbols):
            size = Fraction(rng.randrange(101, 4999), 1009)
            point[symbol] = size if index < count // 2 or rng.random() < 0.3 else -size
        points.append(point)
    return points


def close(a: Value, b: Value) -> bool:
    """Equal: exactly where both are rational, else to 35 digits of the larger."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = mp(a), mp(b)
    size = max(abs(x), abs(y))
    # 40 of 50 digits at values of ordinary size: a difference of equal surds leaves ~1e-49, never more.
    return bool(abs(x - y) <= size * _context.mpf(10) ** -35 or (size < _context.mpf(10) ** -44))


def equal(a: Formula, b: Formula) -> bool:
    """Equal wherever both are real, or everywhere that both have a value. Raises UnreadableError."""
    symbols = a.symbols | b.symbols
    if not symbols:
        try:
            return close(a.value(), b.value()) or rounded(a, b) or rounded(b, a)
        except UndefinedError:
            return False
    seen: list[tuple[Value, Value]] = []
    for point in sample_points(symbols):
        try:
            seen.append((a.evaluate(point), b.evaluate(point)))
        except UndefinedError:
            continue
    if not (a.has_i or b.has_i):
        real = [pair for pair in seen if not any(isinstance(value, _context.mpc) for value in pair)]
        seen = real if len(real) >= 3 else seen
    return len(seen) >= 3 and all(close(x, y) for x, y in seen)


def _terminates(value: Value) -> bool:
    """Whether it has a decimal notation of its own."""
    return isinstance(value, Fraction) and pow(10, value.denominator.bit_length(), value.denominator) == 0


def rounded(short: Formula, exact: Formula) -> bool:
    """`short` is `exact` as a decimal of at least six places and five significant digits, rounded or cut there."""
    whole = exact.value()
    if short.decimals is None or short.decimals < 6 or _terminates(whole):
        return False
    approximate, value = mp(short.value()), mp(whole)
    significant = len(str(abs(int(approximate * 10**short.decimals))))
    return significant >= 5 and abs(approximate - value) < _context.mpf(10) ** -short.decimals
