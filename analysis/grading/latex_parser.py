r"""Parse LaTeX into a `Formula`, with a recursive descent parser for the LaTeX subset that `normalize` produces.

Rules: either every character is read, or `UnreadableError` is raised. `\frac12` has one digit for each argument and `x^10` the whole number
as exponent, because that is what writers mean. Implicit products have the same precedence as explicit ones and are left-associative.

This module does not know relations, lists and units (see `answer_parser`).
"""

import operator
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial

from analysis.grading import formula as fx
from analysis.grading.formula import FUNCTIONS, Formula, apply, combine, constant
from analysis.grading.numbers import PI, E, I, UndecidedError, UnreadableError, Value
from analysis.grading.patterns import expressions, read_table

_TABLE = read_table("notation.toml")
_RE = expressions(_TABLE)
_GREEK = frozenset(_TABLE["greek"].split())
_CLOSING = {"lfloor": "rfloor", "lceil": "rceil"}
_TWO_ARGUMENTS = {"frac": fx.divide, "binom": fx.choose, "perm": fx.permutations}
_FIRST_OF_A_FACTOR = {*FUNCTIONS, *_GREEK, *_TWO_ARGUMENTS, "sqrt", "pi", "sum", "prod", "max", "min"}
_OPERATORS = {**dict.fromkeys(("*", "\\cdot", "\\times"), operator.mul), **dict.fromkeys(("/", "\\div"), fx.divide)}
_CHOICES = {"C": fx.choose, "P": fx.permutations, "A": fx.permutations}
_CLOSE = {"(": ")", "[": "]", "{": "}"}


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> Formula:
    """Parse one formula. Raises UnreadableError."""
    if len(text) > 1_000:
        raise UnreadableError("longer than 1,000 characters")
    parser = _Parser(text.strip())
    try:
        formula = parser.expression()
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    if parser.at < len(parser.text):
        raise UnreadableError(f"cannot read {parser.text[parser.at :]!r}")
    decimal = re.fullmatch(r"-?\s*\d*\.(\d+)", parser.text)
    return replace(formula, source=text, decimals=len(decimal[1]) if decimal else None)


class _Parser:
    """The text, the current position in it, the number of open bars `|`, and the indices of the sums around the position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.bars = 0
        self.bound: tuple[str, ...] = ()

    def peek(self) -> str:
        """Skip spaces and return the next character without consuming it; the empty string at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Consume the pattern if it matches at the current position."""
        if found := pattern.match(self.text, self.at):
            self.at = found.end()
        return found

    def command(self) -> str:
        """Return the name of the command at the current position without consuming it, or the empty string."""
        self.peek()
        match = _RE.command.match(self.text, self.at)
        return match[1] if match else ""

    def take(self, *tokens: str) -> str:
        """Consume one of the tokens if it is next, and return it, or the empty string."""
        self.peek()
        for token in tokens:
            after = self.at + len(token)
            is_longer = token[0] == "\\" and token[-1].isalpha() and self.text[after : after + 1].isalpha()
            if self.text.startswith(token, self.at) and not is_longer:
                self.at = after
                return token
        return ""

    def expect(self, token: str) -> None:
        """Consume the token. Raises UnreadableError if it is not next."""
        if not self.take(token):
            raise UnreadableError(f"expected {token} at {self.text[self.at :]!r}")

    def expression(self) -> Formula:
        """Parse terms joined by + and -."""
        formula = self.term()
        while sign := self.take("+", "-"):
            formula = combine(operator.add if sign == "+" else operator.sub, formula, self.term())
        return formula

    def term(self) -> Formula:
        """Parse factors joined by multiplication and division signs, or by nothing."""
        formula, integer = self.signed()
        while True:
            if sign := self.take(*_OPERATORS):
                formula = combine(_OPERATORS[sign], formula, self.signed()[0])
            elif integer is not None and (part := self.mixed(integer)) is not None:
                formula = combine(operator.add, formula, constant(part if integer >= 0 else -part))
            elif self.starts_factor():
                formula = combine(operator.mul, formula, self.powered()[0])
            else:
                return formula
            integer = None

    def mixed(self, integer: int) -> Fraction | None:
        r"""Parse the fraction of a mixed number: `\frac{4}{5}` or ` 4/5` after an integer."""
        start, match = self.at, self.match(_RE.fraction_of_mixed)
        if match is None:
            return None
        top, bottom = (int(group) for group in match.groups() if group is not None)
        if top >= bottom > 0 and integer != 0:
            raise UndecidedError("a mixed number or a product")
        if not 0 < top < bottom:
            self.at = start
            return None
        return Fraction(top, bottom)

    def starts_factor(self) -> bool:
        """True if the next token starts a factor of an implicit product."""
        char = self.peek()
        if char == "|":
            return self.bars == 0
        if char == "\\":
            return self.command() in _FIRST_OF_A_FACTOR
        return char.isalpha() or char in {*"([{"} or _RE.digit_of_factor.match(self.text, self.at) is not None

    def signed(self) -> tuple[Formula, int | None]:
        """Parse a factor with its signs. Also return its value if it is an integer literal."""
        if self.take("+"):
            return self.signed()
        if self.take("-"):
            formula, integer = self.signed()
            return apply(operator.neg, formula), -integer if integer else None
        return self.powered()

    def powered(self) -> tuple[Formula, int | None]:
        r"""Parse an atom and the `^`, `!`, `%` and `^\circ` after it."""
        self.peek()
        start = self.at
        formula = self.atom()
        literal = self.text[start : self.at].strip()
        integer = int(literal) if literal.isdigit() else None
        while sign := self.take("^\\circ", "^", "!", "\\%", "%"):
            integer = None
            if sign == "^":
                formula = combine(fx.power, formula, self.exponent())
            elif sign == "!":
                formula = self.factorial(formula)
            else:
                size = PI / 180 if sign == "^\\circ" else Fraction(1, 100)
                formula = combine(operator.mul, formula, constant(size))
        return formula, integer

    def factorial(self, formula: Formula) -> Formula:
        """Parse further signs after the first one: `n!!` is the double factorial."""
        step = 2 if self.take("!") else 1
        if self.take("!"):
            raise UnreadableError("more than two factorial signs")
        return apply(partial(fx.factorial, step=step), formula)

    def exponent(self) -> Formula:
        """Parse an exponent: a group, a number, a letter or a command, with signs."""
        if self.take("-"):
            return apply(operator.neg, self.exponent())
        return self.argument(whole_number=True)

    def argument(self, *, whole_number: bool = False) -> Formula:
        r"""Parse the argument of a command: `{…}`, or one character as in `\frac12`, or with `whole_number` a number."""
        char = self.peek()
        if char == "{":
            return self.group("{")
        if char.isdigit() and not whole_number:
            self.at += 1
            return constant(Fraction(char))
        return self.atom()

    def group(self, opening: str) -> Formula:
        """Parse an expression in brackets."""
        self.expect(opening)
        bars, self.bars = self.bars, 0
        formula = self.expression()
        self.bars = bars
        self.expect(_CLOSE[opening])
        return formula

    def atom(self) -> Formula:
        """Parse a number, a letter, a group or a command."""
        char = self.peek()
        if match := self.match(_RE.number):
            return self.number(match[0])
        if char and char in _CLOSE:
            return self.group(char)
        if char == "|":
            return self.absolute()
        if char == "\\":
            return self.command_value()
        if char.isalpha() and char.isascii():
            self.at += 1
            return self.letter(char)
        raise UnreadableError(f"unexpected {char!r}")

    def number(self, digits: str) -> Formula:
        r"""Parse what follows the digits of a number, as in `0.1\overline{6}` and `0.333\ldots`."""
        value = Fraction(digits.removesuffix("."))
        places = len(digits.partition(".")[2])
        if "." in digits and (tail := self.match(_RE.repeated)):
            value += Fraction(int(tail[1]), 10**places * (10 ** len(tail[1]) - 1))
        elif (same := re.search(r"\.\d*?((\d)\2\2+)$", digits)) and self.take("\\ldots"):
            value += Fraction(int(same[2]), 9 * 10**places)
        return constant(value)

    def letter(self, name: str) -> Formula:
        """Parse a constant, a variable with its index, or `C(5,2)`, `P(5,2)` and `C_5^2` for numbers of choices."""
        if name in _CHOICES and (choice := _RE.choice.match(self.text, self.at)):
            n, k = (Fraction(group) for group in choice.groups() if group is not None)
            if k <= n:
                self.at = choice.end()
                return combine(_CHOICES[name], constant(n), constant(k))
        if self.take("_"):
            name += self.index()
        name += self.take("'")
        if name in {"i", "e"} and name not in self.bound:
            return constant(I if name == "i" else E)
        return Formula(frozenset({name}), lambda env: env[name])

    def index(self) -> str:
        """Parse what follows `_`: letters and digits in braces, or one character."""
        self.peek()
        match = self.match(_RE.index)
        if match is None:
            raise UnreadableError("unreadable index")
        return f"_{match[1] or match[2]}"

    def absolute(self) -> Formula:
        """Parse an absolute value between bars."""
        self.expect("|")
        self.bars += 1
        formula = self.expression()
        self.bars -= 1
        self.expect("|")
        return apply(fx.absolute, formula)

    def command_value(self) -> Formula:
        """Parse a command: fraction, root, binomial, function, floor, ceiling or symbol."""
        name = self.command()
        self.at += 1 + len(name)
        if name in _TWO_ARGUMENTS:
            top = self.argument()
            return combine(_TWO_ARGUMENTS[name], top, self.argument())
        if name in {"sum", "prod"}:
            return self.total(operator.add if name == "sum" else operator.mul)
        if name in {"max", "min"}:
            return self.extreme(name)
        if name in _CLOSING:
            formula = self.expression()
            self.expect(f"\\{_CLOSING[name]}")
            return apply(FUNCTIONS[name], formula)
        if name in FUNCTIONS:
            return self.function(name)
        return self.root_value() if name == "sqrt" else self.symbol(name)

    def symbol(self, name: str) -> Formula:
        r"""Return a Greek letter, which is a constant or a variable, or a set such as `\mathbb{Z}`, which has only a name."""
        if name == "pi":
            return constant(PI)
        if name == "mathbb" and (letter := self.match(_RE.set)):
            return self.letter(f"\\mathbb{{{letter[1]}}}")
        if name not in _GREEK:
            raise UnreadableError(f"unknown command \\{name}")
        if _RE.argument.match(self.text, self.at):  # no product
            raise UnreadableError(f"the value of the function \\{name}")
        return self.letter(f"\\{name}")

    def total(self, operation: Callable[[Value, Value], Value]) -> Formula:
        r"""Parse `\sum_{k=1}^{10} k^2` and `\prod`: the term is all factors that follow."""
        start = self.match(_RE.sum)
        if start is None:
            raise UnreadableError("a sum without an index")
        index = start[1]
        low = self.expression()
        self.expect("}")
        self.expect("^")
        high = self.exponent()
        bound, self.bound = self.bound, (*self.bound, index)
        term = self.term()
        self.bound = bound
        return Formula(
            low.symbols | high.symbols | (term.symbols - {index}),
            lambda env: fx.total(term, index, (low.evaluate(env), high.evaluate(env)), env, operation),
            low.has_i or high.has_i or term.has_i,
        )

    def extreme(self, name: str) -> Formula:
        r"""Parse `\max(a, b)` and `\min\{a, b\}`."""
        closing = {"(": ")", "\\{": "\\}"}.get(self.take("(", "\\{"))
        if closing is None:
            raise UnreadableError(f"{name} without brackets")
        formula = self.expression()
        while self.take(","):
            formula = combine(fx.maximum if name == "max" else fx.minimum, formula, self.expression())
        self.expect(closing)
        return formula

    def root_value(self) -> Formula:
        r"""Parse `\sqrt{x}`, `\sqrt[3]{x}`, `\sqrt[n]{x}`, `\sqrt(x)` or `\sqrt13`."""
        match = self.match(_RE.degree)
        if match is None and self.peek() == "[":
            inverse = combine(fx.divide, constant(Fraction(1)), self.group("["))
            return combine(fx.power, self.argument(), inverse)
        degree = int(match[1]) if match else 2
        if degree == 0:
            raise UnreadableError("root of degree 0")
        return apply(partial(fx.root, degree=degree), self.argument(whole_number=True))

    def function(self, name: str) -> Formula:
        r"""Parse `\sin x`, `\sin^2 x`, `\sin^{-1} x` or `\log_2 x`."""
        base = exponent = None
        function = name
        if name == "log" and self.take("_"):
            base, function = self.argument(whole_number=True), "ln"
        if self.take("^{-1}", "^-1"):
            function = f"arc{name}"
            if function not in FUNCTIONS:
                raise UnreadableError(f"no inverse of {name}")
        elif self.take("^"):
            exponent = self.exponent()
        value = apply(FUNCTIONS[function], self.function_argument())
        if base is not None:
            value = combine(fx.divide, value, apply(FUNCTIONS["ln"], base))
        value = value if exponent is None else combine(fx.power, value, exponent)
        return replace(value, has_i=value.has_i or name == "cis")

    def function_argument(self) -> Formula:
        """Parse the argument of a function: a group, or the simple factors up to the next sign, bracket or function."""
        if self.peek() in set("({["):
            return self.group(self.peek())
        formula = self.powered()[0]
        while self.peek().isalnum() or self.command() in {*_GREEK, "pi", "frac", "sqrt"}:
            formula = combine(operator.mul, formula, self.powered()[0])
        return formula
