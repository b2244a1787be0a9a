r"""LaTeX → Formula: a recursive descent over the cleaned dialect of `clean`.

Rules: every character is read or the text is `UnreadableError`. `\frac12` and `x^10` mean what their writers mean: one digit
each after `\frac`, the whole number after `^`. Implicit products bind like explicit ones, from the left.

Does not know: relations, lists, units (see `answer`).
"""

import re
from fractions import Fraction
from functools import lru_cache

from analysis.grading.formula import (
    MAX_SYMBOLIC_POWER,
    Env,
    Formula,
    Node,
    UnreadableError,
    Value,
    _context,
    add,
    call,
    divide,
    factorial,
    multiply,
    negate,
    power,
    root,
)

_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma",
    "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "ell",
])  # fmt: skip
_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "ln": "ln", "log": "log10", "lg": "log10", "exp": "exp",
}  # fmt: skip
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot"}
_FENCES = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
_CLOSE = {"(": ")", "[": "]", "{": "}"}


@lru_cache(maxsize=4096)
def formula(text: str) -> Formula:
    """Read one formula. Raises UnreadableError."""
    if len(text) > 1_000:
        raise UnreadableError("long")
    reader = _Reader(text.strip())
    try:
        node = reader.expression()
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    if reader.at < len(reader.text):
        raise UnreadableError(f"stops at {reader.text[reader.at :]!r}")
    decimal = re.fullmatch(r"-?\s*\d*\.(\d+)", text.strip())
    return Formula(
        text, frozenset(reader.symbols), node, len(decimal[1]) if decimal else None, has_i=reader.has_i
    )


def _constant(value: Value) -> Node:
    return lambda _: value


def _binary(operation: object, a: Node, b: Node) -> Node:
    return lambda env: operation(a(env), b(env))  # type: ignore[operator]


class _Reader:
    """A position in the text, and the variables met so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.bars = 0
        self.symbols: set[str] = set()
        self.has_i = False

    def skip(self) -> str:
        """The next character that is not a space, or the empty string."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def command(self) -> str | None:
        """Name of the command that stands here, without taking it."""
        self.skip()
        match = _COMMAND.match(self.text, self.at)
        return match[1] if match else None

    def take(self, token: str) -> bool:
        """Take the token if it stands here."""
        self.skip()
        if not self.text.startswith(token, self.at):
            return False
        after = self.at + len(token)
        if token[-1].isalpha() and token[0] == "\\" and self.text[after : after + 1].isalpha():
            return False
        self.at = after
        return True

    def expect(self, token: str) -> None:
        """Take the token. Raises UnreadableError."""
        if not self.take(token):
            raise UnreadableError(f"no {token} at {self.text[self.at :]!r}")

    def expression(self) -> Node:
        """Terms with signs between them."""
        node = self.term()
        while True:
            if self.take("+"):
                node = _binary(add, node, self.term())
            elif self.take("-"):
                right = self.term()
                node = _binary(lambda a, b: add(a, negate(b)), node, right)
            else:
                return node

    def term(self) -> Node:
        """Factors with or without a sign between them."""
        node, integer = self.signed()
        while True:
            if self.take("*") or self.take("\\cdot") or self.take("\\times"):
                node, integer = _binary(multiply, node, self.signed()[0]), None
            elif self.take("/") or self.take("\\div"):
                node, integer = _binary(divide, node, self.signed()[0]), None
            elif integer is not None and (part := self.mixed()) is not None:
                node, integer = _binary(add, node, _constant(part if integer >= 0 else -part)), None
            elif self.starts_factor() or (self.text[self.at - 1] == "!" and self.skip().isdigit()):
                node, integer = _binary(multiply, node, self.powered()[0]), None
            else:
                return node

    def mixed(self) -> Fraction | None:
        r"""The fraction of a mixed number, `\frac{4}{5}` or ` 4/5` after an integer."""
        self.skip()
        pattern = r"\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))(?!\s*[\^!])|(?<=\s)(\d+)\s*/\s*(\d+)(?![\d\s]*[\^!.])"
        match = re.compile(pattern).match(self.text, self.at)
        if match is None:
            return None
        top, bottom = (int(group) for group in match.groups() if group is not None)
        if not 0 < top < bottom:
            return None
        self.at = match.end()
        return Fraction(top, bottom)

    def starts_factor(self) -> bool:
        """Can what comes next multiply what came before."""
        char = self.skip()
        if char == "|":
            return self.bars == 0
        if char == "\\":
            name = self.command() or ""
            return (
                name in _GREEK
                or name in _FUNCTIONS
                or name in _FENCES
                or name in {"frac", "sqrt", "pi", "binom"}
            )
        return char.isalpha() or char in set("([{") if char else False

    def signed(self) -> tuple[Node, int | None]:
        """A factor with its signs; the integer that it is, if it is one."""
        if self.take("+"):
            return self.signed()
        if self.take("-"):
            node, integer = self.signed()
            return (lambda env: negate(node(env))), None if integer is None or integer == 0 else -integer
        return self.powered()

    def powered(self) -> tuple[Node, int | None]:
        r"""An atom, then any of `^`, `!`, `%`, `^\circ`."""
        simple = self.skip().isalnum() or self.text.startswith("\\pi", self.at)
        start = self.at
        node = self.atom()
        literal = self.text[start : self.at].strip()
        integer = int(literal) if literal.isdigit() else None
        while True:
            if self.take("^\\circ"):
                node, integer = _binary(multiply, node, _constant(_context.pi / 180)), None
            elif self.take("^"):
                node, integer = self.raised(node, simple=simple), None
            elif self.take("!"):
                inner = node
                node, integer = (lambda env, inner=inner: factorial(inner(env))), None  # type: ignore[misc]
            elif self.take("\\%") or self.take("%"):
                node, integer = _binary(divide, node, _constant(Fraction(100))), None
            else:
                return node, integer

    def raised(self, node: Node, *, simple: bool) -> Node:
        """Raise to the exponent that follows."""
        exponent = self.exponent()

        def evaluate(env: Env) -> Value:
            b = exponent(env)
            if env and not simple and isinstance(b, Fraction) and abs(b) > MAX_SYMBOLIC_POWER:
                raise UnreadableError("huge power")
            return power(node(env), b)

        return evaluate

    def exponent(self) -> Node:
        """A group, a number, a letter or a command, with signs."""
        if self.take("-"):
            node = self.exponent()
            return lambda env: negate(node(env))
        return self.argument(whole_number=True)

    def argument(self, *, whole_number: bool = False) -> Node:
        r"""What a command takes: `{…}`, or one character (`\frac12`), or a whole number where told so."""
        char = self.skip()
        if char == "{":
            return self.group("{")
        if char.isdigit() and not whole_number:
            self.at += 1
            return _constant(Fraction(char))
        return self.atom()

    def group(self, opening: str) -> Node:
        """A bracketed expression."""
        self.expect(opening)
        bars, self.bars = self.bars, 0
        node = self.expression()
        self.bars = bars
        self.expect(_CLOSE[opening])
        return node

    def atom(self) -> Node:
        """A number, a letter, a bracket or a command."""
        char = self.skip()
        if match := _NUMBER.match(self.text, self.at):
            return self.number(match)
        if char and char in _CLOSE:
            return self.group(char)
        if char == "|":
            return self.absolute()
        if char == "\\":
            return self.commanded()
        if char.isalpha() and char.isascii():
            self.at += 1
            return self.letter(char)
        raise UnreadableError(f"{char!r}")

    def number(self, match: re.Match[str]) -> Node:
        r"""A number, also `0.1\overline{6}` and `0.333\ldots`."""
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
        """A constant or a variable, with its index."""
        if self.take("_"):
            name += self.index()
        if self.take("'"):
            name += "'"
        if name == "i":
            self.has_i = True
            return _constant(_context.mpc(0, 1))
        if name == "e":
            return _constant(+_context.e)
        self.symbols.add(name)
        return lambda env: env[name]

    def index(self) -> str:
        """What follows `_`: a braced word or one character."""
        self.skip()
        match = re.compile(r"\{\s*([A-Za-z0-9,]+)\s*\}|([A-Za-z0-9])").match(self.text, self.at)
        if match is None:
            raise UnreadableError("index")
        self.at = match.end()
        return f"_{match[1] or match[2]}"

    def absolute(self) -> Node:
        """Absolute value between bars."""
        self.expect("|")
        self.bars += 1
        node = self.expression()
        self.bars -= 1
        self.expect("|")
        return lambda env: call("abs", node(env))

    def commanded(self) -> Node:
        """A command: fraction, root, binomial, function, fence or Greek letter."""
        name = self.command() or ""
        self.at += 1 + len(name)
        if name in {"frac", "binom"}:
            top = self.argument()
            return _binary(divide if name == "frac" else _choose, top, self.argument())
        if name == "sqrt":
            return self.rooted()
        if name == "pi":
            return _constant(+_context.pi)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _FENCES:
            return self.fenced(name)
        if name in _GREEK:
            return self.letter(f"\\{name}")
        raise UnreadableError(f"\\{name}")

    def rooted(self) -> Node:
        r"""`\sqrt{x}`, `\sqrt[3]{x}`, `\sqrt(x)`, `\sqrt13`."""
        degree = 2
        if match := re.compile(r"\s*\[\s*(\d{1,3})\s*\]").match(self.text, self.at):
            degree, self.at = int(match[1]), match.end()
        if degree == 0:
            raise UnreadableError("root of degree 0")
        node = self.argument(whole_number=True)
        return lambda env: root(node(env), degree)

    def fenced(self, name: str) -> Node:
        """Floor and ceiling."""
        closing, function = _FENCES[name]
        node = self.expression()
        self.expect(f"\\{closing}")
        return lambda env: call(function, node(env))

    def function(self, name: str) -> Node:
        r"""`\sin x`, `\sin^2 x`, `\sin^{-1} x`, `\log_2 x`."""
        base: Node | None = None
        exponent: Node | None = None
        function = _FUNCTIONS[name]
        if name == "log" and self.take("_"):
            base, function = self.argument(whole_number=True), "ln"
        if self.take("^{-1}") or self.take("^-1"):
            function = _INVERSE.get(name) or self.refuse("inverse")
        elif self.take("^"):
            exponent = self.exponent()
        node = self.function_argument()

        def evaluate(env: Env) -> Value:
            value = call(function, node(env))
            value = value if base is None else divide(value, call("ln", base(env)))
            return value if exponent is None else power(value, exponent(env))

        return evaluate

    def refuse(self, why: str) -> str:
        """Raises UnreadableError."""
        raise UnreadableError(why)

    def function_argument(self) -> Node:
        """A bracket, or the simple factors up to the next sign, bracket or function."""
        if self.skip() in set("({["):
            return self.group(self.skip())
        node = self.powered()[0]
        while (char := self.skip()).isalnum() or (
            char == "\\" and (self.command() in _GREEK | {"pi", "frac", "sqrt"})
        ):
            if not char:
                break
            node = _binary(multiply, node, self.powered()[0])
        return node


def _choose(n: Value, k: Value) -> Value:
    if isinstance(n, Fraction) and n > 1_000:
        raise UnreadableError("huge binomial")
    return divide(factorial(n), multiply(factorial(k), factorial(add(n, negate(k)))))
