"""Numbers that are not fractions, as expressions that can be evaluated to any precision with a bound of the error.

Rules: two equal expressions are the same object. Every operation of two fractions gives a fraction. An evaluation returns a value and
the largest distance to the true value, so a number whose distance to zero is larger than the error is certainly not zero. All work
is done within the time of `time_limit`.

This module does not know when a number is exactly zero (see `zero`), or how numbers are written.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import mpmath  # type: ignore[import-untyped]  # has no type annotations

CONTEXT = mpmath.mp.clone()
MAX_EXPONENT_BITS = 60
"""An exponential whose argument has more bits has more digits than can be counted."""
MAX_ARGUMENT_BITS = 300
"""The largest argument of a trigonometric function: its reduction needs as many more digits."""


class UnreadableError(Exception):
    """The text is not a formula that this package can evaluate."""


class UndecidedError(UnreadableError):
    """Whether two values are equal cannot be shown."""


class UndefinedError(Exception):
    """The formula has no value at this point, for example because of a division by zero."""


class OutOfTimeError(Exception):
    """The comparison took longer than its time limit."""


class ImpreciseError(Exception):
    """The precision is too small for a result with a bounded error."""


_deadline_s = float("inf")
"""In processor time, so that the result does not depend on what else the machine does."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let evaluations inside raise OutOfTimeError after this time."""
    global _deadline_s  # noqa: PLW0603  # one comparison at a time in a process
    _deadline_s = time.process_time() + seconds
    try:
        yield
    finally:
        _deadline_s = float("inf")


def check_time() -> None:
    """Raise OutOfTimeError if the time is over."""
    if time.process_time() > _deadline_s:
        raise OutOfTimeError


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Number:
    """A function, its arguments, and its constant (the degree of a root, the exponent of a power, …)."""

    function: str
    arguments: "tuple[Value, ...]"
    constant: Any

    def __add__(self, other: "Value | int") -> "Value":
        return self if other == 0 else number("add", self, other)

    def __sub__(self, other: "Value | int") -> "Value":
        return self + -other

    def __rsub__(self, other: "Value | int") -> "Value":
        return -self + other

    def __neg__(self) -> "Value":
        return self * -1

    def __mul__(self, other: "Value | int") -> "Value":
        if isinstance(other, Number) or other not in {0, 1}:
            return number("multiply", self, other)
        return self if other else Fraction(0)

    def __truediv__(self, other: "Value | int") -> "Value":
        """Return the quotient, for a divisor that is not zero."""
        return number("divide", self, other) if isinstance(other, Number) else self * Fraction(1, other)

    def __rtruediv__(self, other: "Value | int") -> "Value":
        return Fraction(0) if other == 0 else number("divide", other, self)

    __radd__, __rmul__ = __add__, __mul__


Value = Fraction | Number
_known: "WeakValueDictionary[tuple[Any, ...], Number]" = WeakValueDictionary()


def number(function: str, *arguments: Value | int, constant: Any = None) -> Number:
    """Return the one object that stands for this expression."""
    values = tuple(Fraction(one) if isinstance(one, int) else one for one in arguments)
    key = (function, constant, *(one if isinstance(one, Fraction) else id(one) for one in values))
    return _known.get(key) or _known.setdefault(key, Number(function, values, constant))


def unity(turns: Fraction) -> Value:
    """Return the root of unity e^(i π turns)."""
    turns %= 2
    if turns.denominator == 1:
        return Fraction(1 if turns == 0 else -1)
    return number("unity", constant=turns)


PI = number("pi")
E = number("exp", Fraction(1))
I = number("unity", constant=Fraction(1, 2))  # noqa: E741  # its name in mathematics


class Ball(NamedTuple):
    """An approximate value and the largest distance to the true one."""

    value: Any
    error: Any

    def is_separated(self) -> bool:
        """True if the true value is certainly not zero."""
        return bool(abs(self.value) > self.error)


def approximate(value: Value, bits: int) -> Ball:
    """Evaluate a number. Raises ImpreciseError if that needs more bits."""
    CONTEXT.prec = bits
    return _ball(value, {})


def _ball(value: Value, known: dict[int, Ball]) -> Ball:
    if isinstance(value, Fraction):
        return _rounded(CONTEXT.mpf(value.numerator) / value.denominator, 0)
    if (found := known.get(id(value))) is None:
        check_time()
        arguments = [_ball(argument, known) for argument in value.arguments]
        try:
            found = known[id(value)] = _BALLS[value.function](*arguments, value.constant)
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise ImpreciseError from error
    return found


def _rounded(value: Any, error: Any) -> Ball:
    return Ball(value, error + abs(value) * CONTEXT.ldexp(1, 4 - CONTEXT.prec))


def _add(a: Ball, b: Ball, _: None) -> Ball:
    return _rounded(a.value + b.value, a.error + b.error)


def _multiply(a: Ball, b: Ball, _: None) -> Ball:
    error = abs(a.value) * b.error + abs(b.value) * a.error + a.error * b.error
    return _rounded(a.value * b.value, error)


def _divide(a: Ball, b: Ball, _: None) -> Ball:
    value = a.value / b.value
    return _rounded(value, (a.error + abs(value) * b.error) / _distance(b))


def _distance(a: Ball) -> Any:
    """The smallest distance of the true value from zero, which must be known to be positive."""
    distance = abs(a.value) - a.error
    if distance <= 0:
        raise ImpreciseError
    return distance


def _root(a: Ball, degree: int) -> Ball:
    size = abs(a.value)
    if size <= a.error:
        return Ball(CONTEXT.mpf(0), CONTEXT.root(size + a.error, degree))
    if isinstance(a.value, CONTEXT.mpc) and a.value.real < 0 and abs(a.value.imag) <= a.error:
        raise ImpreciseError  # on both sides of the cut of the principal root
    value = CONTEXT.root(a.value, degree)
    return _rounded(value, abs(value) * a.error / _distance(a))


def _power(a: Ball, exponent: int) -> Ball:
    relative = abs(exponent) * a.error / _distance(a)
    if relative > 0.5 or CONTEXT.prec < abs(exponent).bit_length() + 32:
        raise ImpreciseError
    value = a.value**exponent
    return _rounded(value, 2 * abs(value) * relative)


def _exp(a: Ball, _: None) -> Ball:
    if abs(a.value) > CONTEXT.ldexp(1, MAX_EXPONENT_BITS):
        raise UndecidedError("huge power")
    if a.error > 0.5:
        raise ImpreciseError
    value = CONTEXT.exp(a.value)
    return _rounded(value, 2 * abs(value) * a.error)


def _ln(a: Ball, _: None) -> Ball:
    if isinstance(a.value, CONTEXT.mpc) and a.value.real < 0 and abs(a.value.imag) <= a.error:
        raise ImpreciseError
    return _rounded(CONTEXT.ln(a.value), a.error / _distance(a))


def _wave(function: Callable[[Any], Any], a: Ball, _: None) -> Ball:
    if abs(a.value) > CONTEXT.ldexp(1, MAX_ARGUMENT_BITS):
        raise UndecidedError("huge argument")
    height = CONTEXT.cosh(abs(CONTEXT.im(a.value)) + a.error)
    return _rounded(function(a.value), a.error * height)


def _inverse(function: Callable[[Any], Any], a: Ball, _: None) -> Ball:
    if isinstance(a.value, CONTEXT.mpc):
        raise UndecidedError("inverse function of a complex number")
    if function == CONTEXT.atan:
        return _rounded(CONTEXT.atan(a.value), a.error)
    if abs(a.value) > 1 + a.error:
        raise UndefinedError
    # The change of the arc cosine over a distance d is at most that at the end of its domain, which is below 2.3 √d.
    return _rounded(function(max(min(a.value, 1), -1)), 2.3 * CONTEXT.sqrt(a.error))


_BALLS: dict[str, Callable[..., Ball]] = {
    "pi": lambda _: _rounded(+CONTEXT.pi, 0),
    "variable": lambda constant: _ball(constant[1], {}),
    "unity": lambda turns: _rounded(
        CONTEXT.expjpi(CONTEXT.mpf(turns.numerator) / turns.denominator), CONTEXT.ldexp(1, 6 - CONTEXT.prec)
    ),
    "add": _add,
    "multiply": _multiply,
    "divide": _divide,
    "root": _root,
    "power": _power,
    "exp": _exp,
    "ln": _ln,
    "sin": partial(_wave, CONTEXT.sin),
    "cos": partial(_wave, CONTEXT.cos),
    "atan": partial(_inverse, CONTEXT.atan),
    "asin": partial(_inverse, CONTEXT.asin),
    "acos": partial(_inverse, CONTEXT.acos),
    "abs": lambda a, _: Ball(abs(a.value), a.error),
    "factorial": lambda n: _exp(_rounded(CONTEXT.loggamma(CONTEXT.mpf(n + 1)), 0), None),
}
