r"""Parse LaTeX into a `Formula`, with a recursive descent parser for the LaTeX subset that `normalize` produces.

Rules: either every character is read, or `UnreadableError` is raised. `\frac12` has one digit for each argument and `x^10` the whole number
as exponent, because that is what writers mean. Implicit products have the same precedence as explicit ones and are left-associative.

This module does not know relations, lists and units (see `answer_parser`).
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from analysis.grading.formula import (
    Env,
    Formula,
    Node,
    call,
    choose,
    divide,
    factorial,
    permutations,
    power,
    root,
    subtract,
    total,
)
from analysis.grading.numbers import PI, E, I, UndecidedError, UnreadableError, Value, add, multiply, negative

_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma",
    "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "ell",
])  # fmt: skip
_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "ln": "ln", "log": "log10", "lg": "log10", "exp": "exp", "cis": "cis",
}  # fmt: skip
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot"}
_FLOOR_CEILING = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
_TWO_ARGUMENTS = {"frac": divide, "binom": choose, "perm": permutations}
_CHOICES = {"C": choose, "P": permutations, "A": permutations}
_CHOICE = re.compile(r"\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)|\s*_\{?(\d{1,9})\}?\s*\^\{?(\d{1,9})\}?")
_CLOSE = {"(": ")", "[": "]", "{": "}"}


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> Formula:
    """Parse one formula. Raises UnreadableError."""
    if len(text) > 1_000:
        raise UnreadableError("longer than 1,000 characters")
    parser = _Parser(text.strip())
    try:
        node = parser.expression()
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    if parser.at < len(parser.text):
        raise UnreadableError(f"cannot read {parser.text[parser.at :]!r}")
    decimal = re.fullmatch(r"-?\s*\d*\.(\d+)", text.strip())
    return Formula(
        text, frozenset(parser.symbols), node, len(decimal[1]) if decimal else None, has_i=parser.has_i
    )


def _constant(value: Value) -> Node:
    return lambda _: value


def _binary(operation: object, a: Node, b: Node) -> Node:
    return lambda env: operation(a(env), b(env))  # type: ignore[operator]


class _Parser:
    """The text, the current position in it, and the variables found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.bars = 0
        self.symbols: set[str] = set()
        self.has_i = False
        self.bound: set[str] = set()

    def peek(self) -> str:
        """Skip spaces and return the next character without consuming it; the empty string at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def command(self) -> str | None:
        """Return the name of the command at the current position without consuming it."""
        self.peek()
        match = _COMMAND.match(self.text, self.at)
        return match[1] if match else None

    def take(self, token: str) -> bool:
        """Consume the token if it is next, and return whether it was."""
        self.peek()
        if not self.text.startswith(token, self.at):
            return False
        after = self.at + len(token)
        if token[-1].isalpha() and token[0] == "\\" and self.text[after : after + 1].isalpha():
            return False
        self.at = after
        return True

    def expect(self, token: str) -> None:
        """Consume the token. Raises UnreadableError if it is not next."""
        if not self.take(token):
            raise UnreadableError(f"expected {token} at {self.text[self.at :]!r}")

    def expression(self) -> Node:
        """Parse terms joined by + and -."""
        node = self.term()
        while True:
            if self.take("+"):
                node = _binary(add, node, self.term())
            elif self.take("-"):
                node = _binary(subtract, node, self.term())
            else:
                return node

    def term(self) -> Node:
        """Parse factors joined by multiplication and division signs, or by nothing."""
        node, integer = self.signed()
        while True:
            if self.take("*") or self.take("\\cdot") or self.take("\\times"):
                node, integer = _binary(multiply, node, self.signed()[0]), None
            elif self.take("/") or self.take("\\div"):
                node, integer = _binary(divide, node, self.signed()[0]), None
            elif integer is not None and (part := self.mixed(integer)) is not None:
                node, integer = _binary(add, node, _constant(part if integer >= 0 else -part)), None
            elif self.starts_factor() or self.digit_after_factor():
                node, integer = _binary(multiply, node, self.powered()[0]), None
            else:
                return node

    def digit_after_factor(self) -> bool:
        """True before the second factor of `2!3` or `i5`."""
        return self.peek().isdigit() and self.text[: self.at].rstrip().endswith(("!", "i"))

    def mixed(self, integer: int) -> Fraction | None:
        r"""Parse the fraction of a mixed number: `\frac{4}{5}` or ` 4/5` after an integer."""
        self.peek()
        pattern = r"\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))(?!\s*[\^!])|(?<=\s)(\d+)\s*/\s*(\d+)(?![\d\s]*[\^!.])"
        match = re.compile(pattern).match(self.text, self.at)
        if match is None:
            return None
        top, bottom = (int(group) for group in match.groups() if group is not None)
        if top >= bottom > 0 and abs(integer) > 0:
            raise UndecidedError("a mixed number or a product")
        if not 0 < top < bottom:
            return None
        self.at = match.end()
        return Fraction(top, bottom)

    def starts_factor(self) -> bool:
        """True if the next token starts a factor of an implicit product."""
        char = self.peek()
        if char == "|":
            return self.bars == 0
        if char == "\\":
            name = self.command() or ""
            return (
                name in _GREEK
                or name in _FUNCTIONS
                or name in _FLOOR_CEILING
                or name in {"frac", "sqrt", "pi", "binom", "perm", "sum", "prod"}
            )
        return char.isalpha() or char in set("([{") if char else False

    def signed(self) -> tuple[Node, int | None]:
        """Parse a factor with its signs. Also return its value if it is an integer literal."""
        if self.take("+"):
            return self.signed()
        if self.take("-"):
            node, integer = self.signed()
            return (lambda env: negative(node(env))), None if integer is None or integer == 0 else -integer
        return self.powered()

    def powered(self) -> tuple[Node, int | None]:
        r"""Parse an atom and the `^`, `!`, `%` and `^\circ` after it."""
        self.peek()
        start = self.at
        node = self.atom()
        literal = self.text[start : self.at].strip()
        integer = int(literal) if literal.isdigit() else None
        while True:
            if self.take("^\\circ"):
                node, integer = _binary(multiply, node, _constant(multiply(PI, Fraction(1, 180)))), None
            elif self.take("^"):
                node, integer = self.raised(node), None
            elif self.take("!"):
                node, integer = self.factorial(node), None
            elif self.take("\\%") or self.take("%"):
                node, integer = _binary(divide, node, _constant(Fraction(100))), None
            else:
                return node, integer

    def factorial(self, node: Node) -> Node:
        """Parse further signs after the first one: `n!!` is the double factorial."""
        step = 1
        while self.take("!"):
            step += 1
        if step > 2:
            raise UnreadableError("more than two factorial signs")
        return lambda env: factorial(node(env), step)

    def raised(self, node: Node) -> Node:
        """Parse an exponent and return the power."""
        exponent = self.exponent()

        return lambda env: power(node(env), exponent(env))

    def exponent(self) -> Node:
        """Parse an exponent: a group, a number, a letter or a command, with signs."""
        if self.take("-"):
            node = self.exponent()
            return lambda env: negative(node(env))
        return self.argument(whole_number=True)

    def argument(self, *, whole_number: bool = False) -> Node:
        r"""Parse the argument of a command: `{…}`, or one character as in `\frac12`, or with `whole_number` a number."""
        char = self.peek()
        if char == "{":
            return self.group("{")
        if char.isdigit() and not whole_number:
            self.at += 1
            return _constant(Fraction(char))
        return self.atom()

    def group(self, opening: str) -> Node:
        """Parse an expression in brackets."""
        self.expect(opening)
        bars, self.bars = self.bars, 0
        node = self.expression()
        self.bars = bars
        self.expect(_CLOSE[opening])
        return node

    def atom(self) -> Node:
        """Parse a number, a letter, a group or a command."""
        char = self.peek()
        if match := _NUMBER.match(self.text, self.at):
            return self.number(match)
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

    def number(self, match: re.Match[str]) -> Node:
        r"""Parse a number, also `0.1\overline{6}` and `0.333\ldots`."""
        self.at = match.end()
        value = Fraction(match[0] if not match[0].endswith(".") else match[0][:-1])
        if "." in match[0] and (
            tail := re.compile(r"\\(?:overline|bar|dot)\s*\{?(\d+)\}?").match(self.text, self.at)
        ):
            self.at = tail.end()
            places = len(match[0].partition(".")[2])
            value += Fraction(int(tail[1]), 10**places * (10 ** len(tail[1]) - 1))
        elif (same := re.search(r"\.\d*?((\d)\2\2+)$", match[0])) and self.take("\\ldots"):
            value += Fraction(int(same[2]), 9 * 10 ** len(match[0].partition(".")[2]))
        return _constant(value)

    def letter(self, name: str) -> Node:
        """Parse a constant, a variable with its index, or `C(5,2)`, `P(5,2)` and `C_5^2` for numbers of choices."""
        if name in _CHOICES and (choice := _CHOICE.match(self.text, self.at)):
            n, k = (Fraction(group) for group in choice.groups() if group is not None)
            if k <= n:
                self.at = choice.end()
                return lambda _: _CHOICES[name](n, k)
        if self.take("_"):
            name += self.index()
        if self.take("'"):
            name += "'"
        if name == "i" and name not in self.bound:
            self.has_i = True
            return _constant(I)
        if name == "e" and name not in self.bound:
            return _constant(E)
        self.symbols.add(name)
        return lambda env: env[name]

    def index(self) -> str:
        """Parse what follows `_`: letters and digits in braces, or one character."""
        self.peek()
        match = re.compile(r"\{\s*(?:\\text\{)?\s*([A-Za-z0-9,]+)\s*\}{1,2}|([A-Za-z0-9])").match(
            self.text, self.at
        )
        if match is None:
            raise UnreadableError("unreadable index")
        self.at = match.end()
        return f"_{match[1] or match[2]}"

    def absolute(self) -> Node:
        """Parse an absolute value between bars."""
        self.expect("|")
        self.bars += 1
        node = self.expression()
        self.bars -= 1
        self.expect("|")
        return lambda env: call("abs", node(env))

    def command_value(self) -> Node:
        """Parse a command: fraction, root, binomial, function, floor, ceiling or Greek letter."""
        name = self.command() or ""
        self.at += 1 + len(name)
        if name in _TWO_ARGUMENTS:
            top = self.argument()
            return _binary(_TWO_ARGUMENTS[name], top, self.argument())
        if name in {"sum", "prod"}:
            return self.total(add if name == "sum" else multiply)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _FLOOR_CEILING:
            return self.floor_or_ceiling(name)
        return self.root_value() if name == "sqrt" else self.symbol(name)

    def symbol(self, name: str) -> Node:
        """Return the value of a Greek letter, which is a constant or a variable."""
        if name == "pi":
            return _constant(PI)
        return self.letter(f"\\{name}") if name in _GREEK else self.named_set(name)

    def named_set(self, name: str) -> Node:
        r"""Parse the name of a set such as `\mathbb{Z}`, which is compared by its name."""
        letter = re.compile(r"\s*\{?\s*([A-Z])\s*\}?").match(self.text, self.at)
        if name != "mathbb" or letter is None:
            raise UnreadableError(f"unknown command \\{name}")
        self.at = letter.end()
        return self.letter(f"\\mathbb{{{letter[1]}}}")

    def total(self, operation: Callable[[Value, Value], Value]) -> Node:
        r"""Parse `\sum_{k=1}^{10} k^2` and `\prod`: the term is all factors that follow."""
        start = re.compile(r"\s*_\s*\{\s*([A-Za-z])\s*=").match(self.text, self.at)
        if start is None:
            raise UnreadableError("a sum without an index")
        self.at = start.end()
        low = self.expression()
        self.expect("}")
        self.expect("^")
        high = self.exponent()
        known, self.symbols = self.symbols, set()
        bound, self.bound = self.bound, self.bound | {start[1]}
        term = self.term()
        self.bound = bound
        self.symbols = known | (self.symbols - {start[1]})
        return lambda env: total(term, start[1], (low(env), high(env)), env, operation)

    def root_value(self) -> Node:
        r"""Parse `\sqrt{x}`, `\sqrt[3]{x}`, `\sqrt(x)` or `\sqrt13`."""
        degree = 2
        if match := re.compile(r"\s*\[\s*(\d{1,3})\s*\]").match(self.text, self.at):
            degree, self.at = int(match[1]), match.end()
        if degree == 0:
            raise UnreadableError("root of degree 0")
        node = self.argument(whole_number=True)
        return lambda env: root(node(env), degree)

    def floor_or_ceiling(self, name: str) -> Node:
        """Parse floor or ceiling brackets."""
        closing, function = _FLOOR_CEILING[name]
        node = self.expression()
        self.expect(f"\\{closing}")
        return lambda env: call(function, node(env))

    def function(self, name: str) -> Node:
        r"""Parse `\sin x`, `\sin^2 x`, `\sin^{-1} x` or `\log_2 x`."""
        base: Node | None = None
        exponent: Node | None = None
        function = _FUNCTIONS[name]
        self.has_i |= name == "cis"
        if name == "log" and self.take("_"):
            base, function = self.argument(whole_number=True), "ln"
        if self.take("^{-1}") or self.take("^-1"):
            if name not in _INVERSE:
                raise UnreadableError(f"no inverse of {name}")
            function = _INVERSE[name]
        elif self.take("^"):
            exponent = self.exponent()
        node = self.function_argument()

        def evaluate(env: Env) -> Value:
            value = call(function, node(env))
            value = value if base is None else divide(value, call("ln", base(env)))
            return value if exponent is None else power(value, exponent(env))

        return evaluate

    def function_argument(self) -> Node:
        """Parse the argument of a function: a group, or the simple factors up to the next sign, bracket or function."""
        if self.peek() in set("({["):
            return self.group(self.peek())
        node = self.powered()[0]
        while (char := self.peek()).isalnum() or (
            char == "\\" and (self.command() in _GREEK | {"pi", "frac", "sqrt"})
        ):
            if not char:
                break
            node = _binary(multiply, node, self.powered()[0])
        return node
