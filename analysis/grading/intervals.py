"""Sets of real numbers as sorted, disjoint intervals: from brackets, inequalities, unions and differences.

Rules: the ends are numbers (exact where rational); an inequality is solved only where it is linear in its one variable.

Does not know: tuples (whoever asks has decided that this row is an interval).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from analysis.grading.forms import Combined, Form, Inequality, Infinite, Listing, Row, real
from analysis.grading.formula import UnreadableError, Value, add, close, divide, mp, negate
from analysis.grading.latex_parser import formula

End = Value | Infinite


@dataclass(frozen=True, slots=True)
class NumberInterval:
    """From low to high, with its ends or without."""

    low: End
    high: End
    has_low: bool
    has_high: bool


def _below(a: End, b: End) -> bool:
    """Less, on the extended line."""
    if isinstance(a, Infinite) or isinstance(b, Infinite):
        return (a.sign if isinstance(a, Infinite) else 0) < (b.sign if isinstance(b, Infinite) else 0)
    return not close(a, b) and bool(mp(a) < mp(b))


def _same(a: End, b: End) -> bool:
    if isinstance(a, Infinite) or isinstance(b, Infinite):
        return a == b
    return close(a, b)


def ranges(form: Form) -> list[NumberInterval]:
    """The set of reals that a form describes. Raises UnreadableError."""
    if isinstance(form, Row) and len(form.items) == 2:
        low, high = (real(item) for item in form.items)
        return _merged([NumberInterval(low, high, form.opening == "[", form.closing == "]")])
    if isinstance(form, Inequality):
        return _solved(form)
    if isinstance(form, Combined):
        return _combined(form)
    if isinstance(form, Listing):
        points = [real(item) for item in form.items]
        return _merged([NumberInterval(point, point, has_low=True, has_high=True) for point in points])
    raise UnreadableError("not a set of reals")


def same_ranges(a: list[NumberInterval], b: list[NumberInterval]) -> bool:
    """The same intervals, ends included."""
    return len(a) == len(b) and all(
        _same(x.low, y.low) and _same(x.high, y.high) and (x.has_low, x.has_high) == (y.has_low, y.has_high)
        for x, y in zip(a, b, strict=True)
    )


def _merged(parts: list[NumberInterval]) -> list[NumberInterval]:
    """Sorted, without empty parts; parts that touch become one."""
    kept = [_open_at_infinity(part) for part in parts if not _empty(part)]
    kept.sort(key=lambda part: (_order(part.low), not part.has_low))
    out: list[NumberInterval] = []
    for part in kept:
        last = out[-1] if out else None
        if last and (
            _below(part.low, last.high) or (_same(part.low, last.high) and (part.has_low or last.has_high))
        ):
            out[-1] = _joined(last, part)
        else:
            out.append(part)
    return out


def _order(end: End) -> tuple[int, Value]:
    return (end.sign, Fraction(0)) if isinstance(end, Infinite) else (0, mp(end))


def _empty(part: NumberInterval) -> bool:
    return _below(part.high, part.low) or (
        _same(part.low, part.high) and not (part.has_low and part.has_high)
    )


def _open_at_infinity(part: NumberInterval) -> NumberInterval:
    return NumberInterval(
        part.low,
        part.high,
        part.has_low and not isinstance(part.low, Infinite),
        part.has_high and not isinstance(part.high, Infinite),
    )


def _joined(a: NumberInterval, b: NumberInterval) -> NumberInterval:
    if _same(a.high, b.high):
        return NumberInterval(a.low, a.high, a.has_low, a.has_high or b.has_high)
    later = b if _below(a.high, b.high) else a
    return NumberInterval(a.low, later.high, a.has_low, later.has_high)


def _complement(parts: list[NumberInterval]) -> list[NumberInterval]:
    out, low, has_low = [], Infinite(-1), False
    start: End = low
    for part in parts:
        out.append(NumberInterval(start, part.low, has_low, not part.has_low))
        start, has_low = part.high, not part.has_high
    out.append(NumberInterval(start, Infinite(1), has_low, has_high=False))
    return _merged(out)


def _combined(form: Combined) -> list[NumberInterval]:
    sets = [ranges(item) for item in form.items]
    if form.how == "or":
        return _merged([part for one in sets for part in one])
    if form.how == "minus":
        sets = [sets[0], *(_complement(one) for one in sets[1:])]
    outside = [part for one in sets for part in _complement(one)]
    return _complement(_merged(outside))


def _solved(form: Inequality) -> list[NumberInterval]:
    """Every link of the chain must hold; `|a| < b` is `-b < a < b`."""
    if len(form.sides) == 2 and (inside := re.fullmatch(r"\|([^|]*)\|", form.sides[0].strip())):
        both = [Inequality((f"{factor}({inside[1]})", form.sides[1]), form.signs) for factor in ("", "-")]
        return _combined(Combined("or" if form.signs[0] in {">", "\\ge"} else "and", tuple(both)))
    links = [_link(a, sign, b) for a, sign, b in zip(form.sides, form.signs, form.sides[1:], strict=False)]
    return _complement(_merged([part for link in links for part in _complement(link)]))


def _link(left: str, sign: str, right: str) -> list[NumberInterval]:
    """One linear inequality in one variable."""
    a, b = formula(left), formula(right)
    symbols = a.symbols | b.symbols
    if len(symbols) != 1:
        raise UnreadableError("not one variable")
    (symbol,) = symbols
    at = [
        add(a.evaluate({symbol: Fraction(x)}), negate(b.evaluate({symbol: Fraction(x)}))) for x in (0, 1, 2)
    ]
    slope = add(at[1], negate(at[0]))
    if close(slope, Fraction(0)) or not close(add(at[2], negate(at[1])), slope):
        raise UnreadableError("not linear")
    point = divide(negate(at[0]), slope)
    if sign == "\\ne":
        return _complement([NumberInterval(point, point, has_low=True, has_high=True)])
    closed = sign in {"\\le", "\\ge"}
    if (sign in {"<", "\\le"}) == bool(mp(slope) > 0):
        return [NumberInterval(Infinite(-1), point, has_low=False, has_high=closed)]
    return [NumberInterval(point, Infinite(1), closed, has_high=False)]


def variables(form: Form) -> frozenset[str]:
    """The variables of the inequalities inside; none in plain intervals."""
    if isinstance(form, Inequality):
        return frozenset().union(*(formula(side).symbols for side in form.sides))
    if isinstance(form, Combined):
        return frozenset().union(*(variables(item) for item in form.items))
    return frozenset()
