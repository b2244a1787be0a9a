r"""Formulas and their functions. Values are exact: fractions, or expressions that `zero` compares.

Rules: an expression that cannot be evaluated raises `UnreadableError`. Nothing is skipped or guessed, because a parser that ignored the
rest of a text would make `4` equal `4\sqrt(2)`. The work is limited: what is too large raises `UndecidedError`. `i` is the imaginary
unit and `e` is Euler's number. A mixed number is a sum. Every other letter is a variable. Formulas with variables are compared at
random points, at which two different polynomials of degree d agree with a probability below (d / 4898)^8.

This module does not know units, lists or relations, or which of two answers is the reference.
"""

import math
import random
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
    add,
    check_time,
    multiply,
    negative,
    number,
    quotient,
    unity,
)
from analysis.grading.zero import (
    MAX_BITS,
    equal_values,
    expanded,
    integer_power,
    is_real,
    is_zero,
    sign,
    to_float,
)

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


def subtract(a: Value, b: Value) -> Value:
    """Return a − b."""
    return add(a, negative(b))


def divide(a: Value, b: Value) -> Value:
    """Return a / b. Raises UndefinedError if b is 0."""
    if is_zero(b):
        raise UndefinedError
    return quotient(a, b)


def power(a: Value, b: Value) -> Value:
    """Return a to the power b. Raises UnreadableError if it is huge and UndefinedError for 0 ^ -1."""
    if is_zero(a):
        if not is_real(b) or sign(b) < 0 or (b == 0 and isinstance(a, Number)):
            raise UndefinedError
        return Fraction(1 if b == 0 else 0)
    if not isinstance(b, Fraction):
        return call("exp", multiply(b, call("ln", a)))
    if b.denominator == 1:
        if abs(b) * abs(_bits(a)) > 1 << MAX_EXPONENT_BITS:
            raise UndecidedError("huge power")
        return integer_power(a, int(b))
    return integer_power(root(a, b.denominator), b.numerator)


def _bits(a: Value) -> int:
    if isinstance(a, Fraction):
        return max(a.numerator.bit_length(), a.denominator.bit_length())
    return int(CONTEXT.mag(CONTEXT.mpmathify(to_float(a))))


def root(a: Value, degree: int) -> Value:
    """Return the real root if there is one (also of a negative number for an odd degree), else the principal root."""
    if degree > MAX_ROOT_DEGREE:
        raise UndecidedError("root of a high degree")
    if degree == 1:
        return a
    if isinstance(a, Fraction) and (exact := _exact_root(a, degree)) is not None:
        return exact
    if is_real(a) and sign(a) < 0:
        if degree % 2:
            return negative(root(negative(a), degree))
        return multiply(unity(Fraction(1, degree)), root(negative(a), degree))
    if isinstance(a, Fraction):
        outside, a = _without_powers(a, degree)
        return multiply(outside, number("root", a, constant=degree))
    return number("root", a, constant=degree)


def _without_powers(a: Fraction, degree: int) -> tuple[Fraction, Fraction]:
    """Take factors out of a root: √8 is 2√2."""
    inside = a.numerator * a.denominator ** (degree - 1)
    outside = Fraction(1, a.denominator)
    for prime in (2, 3, 5, 7, 11, 13):
        while inside % prime**degree == 0:
            inside, outside = inside // prime**degree, outside * prime
    return outside, Fraction(inside)


def _exact_root(a: Fraction, degree: int) -> Fraction | None:
    if a < 0:
        return None
    top, bottom = (_integer_root(part, degree) for part in (a.numerator, a.denominator))
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(n: int, degree: int) -> int | None:
    if degree == 2:
        guess = math.isqrt(n)
    else:
        low, high = 0, 1 << (n.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= n else (low, middle - 1)
        guess = low
    return guess if guess**degree == n else None


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
        result = quotient(multiply(result, add(n, Fraction(-index))), Fraction(index + 1))
    return result


def permutations(n: Value, k: Value) -> Value:
    """Return the number of ordered choices of k out of n."""
    return multiply(choose(n, k), factorial(k))


def call(name: str, a: Value) -> Value:
    """Evaluate an elementary function. Raises UndefinedError at poles."""
    return _FUNCTIONS[name](a)


def _exp(a: Value) -> Value:
    return Fraction(1) if a == 0 else number("exp", a)


def _ln(a: Value) -> Value:
    """Return the logarithm as a sum of logarithms of primes and of factors that are not products."""
    if is_zero(a):
        raise UndefinedError
    if is_real(a) and sign(a) < 0:
        return add(multiply(I, PI), _ln(negative(a)))
    if isinstance(a, Fraction):
        return subtract(_ln_integer(a.numerator), _ln_integer(a.denominator))
    return _ln_of_number(a)


def _ln_of_number(a: Number) -> Value:
    match a.function:
        case "unity":
            turns = a.constant if a.constant <= 1 else a.constant - 2
            return multiply(multiply(I, PI), turns)
        case "exp" if is_real(a.arguments[0]):
            return a.arguments[0]
        case "root" if is_real(a):
            return quotient(_ln(a.arguments[0]), Fraction(a.constant))
        case "power" if is_real(a.arguments[0]):
            base = a.arguments[0]
            return multiply(Fraction(a.constant), _ln(base if sign(base) > 0 else negative(base)))
        case "multiply" | "divide" if all(is_real(one) and sign(one) > 0 for one in a.arguments):
            x, y = (_ln(one) for one in a.arguments)
            return add(x, y) if a.function == "multiply" else subtract(x, y)
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
            result = add(result, multiply(Fraction(times), number("ln", Fraction(prime))))
        prime += 1
    return result if n == 1 else add(result, number("ln", Fraction(n)))


def _wave(name: str) -> Callable[[Value], Value]:
    return lambda a: Fraction(name == "cos") if a == 0 else number(name, a)


def _tan(a: Value) -> Value:
    return divide(call("sin", a), call("cos", a))


def _inverse(name: str) -> Callable[[Value], Value]:
    """The inverse of a trigonometric function, as a multiple of π where it is one."""

    def evaluate(a: Value) -> Value:
        angle = number(name, a)
        turns = Fraction(str(CONTEXT.nstr(CONTEXT.re(to_float(angle)) / CONTEXT.pi, 15))).limit_denominator(
            360
        )
        multiple = multiply(PI, turns)
        if abs(to_float(subtract(angle, multiple))) > 1e-12:
            return angle
        inverse = {"atan": "tan", "asin": "sin", "acos": "cos"}[name]
        return multiple if equal_values(call(inverse, multiple), a) else angle

    return evaluate


def _hyperbolic(name: str) -> Callable[[Value], Value]:
    def evaluate(a: Value) -> Value:
        up, down = call("exp", a), call("exp", negative(a))
        sinh, cosh = (quotient(value, Fraction(2)) for value in (subtract(up, down), add(up, down)))
        return {"sinh": lambda: sinh, "cosh": lambda: cosh, "tanh": lambda: divide(sinh, cosh)}[name]()

    return evaluate


def _absolute(a: Value) -> Value:
    if isinstance(a, Fraction):
        return abs(a)
    if is_real(a):
        return number("abs", a)
    terms = expanded(a)
    if set(terms) <= {(), (I,)}:
        return root(terms.get((), Fraction(0)) ** 2 + terms[I,] ** 2, 2)
    return root(multiply(a, _conjugate(a)), 2)


def _conjugate(a: Value) -> Value:
    if isinstance(a, Fraction) or is_real(a):
        return a
    if a.function == "unity":
        return unity(-a.constant)
    if a.function not in {"add", "multiply", "divide", "power", "exp", "sin", "cos"}:
        raise UndecidedError("conjugate")
    return number(a.function, *(_conjugate(one) for one in a.arguments), constant=a.constant)


def _whole(direction: int) -> Callable[[Value], Value]:
    """Floor (direction 1) or ceiling (direction −1)."""

    def evaluate(a: Value) -> Value:
        if isinstance(a, Fraction):
            return Fraction(direction * math.floor(direction * a))
        if abs(to_float(a)) > CONTEXT.mpf(10) ** 40:
            raise UndecidedError("huge argument")
        nearest = Fraction(int(CONTEXT.nint(to_float(a))))
        return nearest if direction * sign(subtract(a, nearest)) >= 0 else nearest - direction

    return evaluate


_FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "abs": _absolute,
    "floor": _whole(1),
    "ceil": _whole(-1),
    "exp": _exp,
    "ln": _ln,
    "log10": lambda a: quotient(_ln(a), _ln(Fraction(10))),
    "sin": _wave("sin"),
    "cos": _wave("cos"),
    "tan": _tan,
    "cot": lambda a: divide(call("cos", a), call("sin", a)),
    "sec": lambda a: divide(Fraction(1), call("cos", a)),
    "csc": lambda a: divide(Fraction(1), call("sin", a)),
    "cis": lambda a: add(call("cos", a), multiply(I, call("sin", a))),
    "asin": _inverse("asin"),
    "acos": _inverse("acos"),
    "atan": _inverse("atan"),
    "acot": lambda a: quotient(PI, Fraction(2)) if a == 0 else _inverse("atan")(divide(Fraction(1), a)),
    **{name: _hyperbolic(name) for name in ("sinh", "cosh", "tanh")},
}


def total(
    term: Node, name: str, ends: tuple[Value, Value], env: Env, operation: Callable[[Value, Value], Value]
) -> Value:
    """Return the sum or product of a term for the integers from one end to the other."""
    low, high = ends
    if not (
        isinstance(low, Fraction) and isinstance(high, Fraction) and low.denominator == high.denominator == 1
    ):
        raise UndecidedError("the ends are not integers")
    if high - low > MAX_TERMS:
        raise UndecidedError("too many terms")
    result: Value = Fraction(0 if operation is add else 1)
    for index in range(int(low), int(high) + 1):
        check_time()
        result = operation(result, term({**env, name: Fraction(index)}))
    return result


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


def integer_points(symbols: frozenset[str]) -> "list[dict[str, Value]]":
    """Return random positive integers for the variables of formulas with factorials."""
    chosen = random.Random(1_004)
    return [{name: Fraction(chosen.randrange(1, 60)) for name in sorted(symbols)} for _ in range(16)]


def equal(a: Formula, b: Formula) -> bool:
    """True if two formulas have the same values at the sample points at which both are real, or defined. Raises UnreadableError."""
    symbols = a.symbols | b.symbols
    if not symbols:
        try:
            return equal_values(a.value(), b.value()) or is_rounded(a, b) or is_rounded(b, a)
        except UndefinedError:
            return False
    try:
        return _equal_at(a, b, sample_points(symbols))
    except UndecidedError:
        # With names instead of values, powers and logarithms of a variable can be compared with each other.
        points: list[dict[str, Value]] = [
            {name: number("variable", constant=(name, value)) for name, value in point.items()}
            for point in sample_points(symbols)
        ]
        return _equal_at(a, b, points)
    except UnreadableError:
        if a.symbols != b.symbols or not any(
            sign in one.source for sign in ("!", "\\binom") for one in (a, b)
        ):
            raise
        return _equal_at(a, b, integer_points(symbols))  # a factorial has values at integers only


def _equal_at(a: Formula, b: Formula, points: "list[dict[str, Value]]") -> bool:
    values: list[tuple[Value, Value]] = []
    for point in points:
        try:
            values.append((a.evaluate(point), b.evaluate(point)))
        except UndefinedError:
            continue
    if not (a.has_i or b.has_i):
        real = [pair for pair in values if is_real(pair[0]) and is_real(pair[1])]
        values = real if len(real) >= 3 else values
    return len(values) >= 3 and all(equal_values(x, y) for x, y in values)


def _terminates(value: Value) -> bool:
    """True if the value has a finite decimal notation."""
    return isinstance(value, Fraction) and pow(10, value.denominator.bit_length(), value.denominator) == 0


def is_rounded(short: Formula, exact: Formula) -> bool:
    """True if `short` is `exact`, rounded or cut to a decimal with at least six places and five significant digits."""
    if short.decimals is None or short.decimals < 6:
        return False
    exact_value, rounded = exact.value(), short.value()
    if _terminates(exact_value) or not is_real(exact_value):
        return False
    significant = len(str(abs(int(multiply(rounded, Fraction(10**short.decimals))))))  # type: ignore[arg-type]
    distance = call("abs", subtract(rounded, exact_value))
    return significant >= 5 and sign(subtract(distance, Fraction(1, 10**short.decimals))) < 0
