"""Converts the text of a command-line argument to a value.

A text that is not valid raises a UsageError that quotes it and shows a valid one.

This module does not know which option a value is for (argparse puts its name before the message) or which values can be
combined (see `loadgen.options`).
"""

import argparse
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from loadgen.errors import UsageError

Options = TypeVar("Options", bound=Any)
SLO_NAMES = ("ttft", "tpot", "e2e", "ttft_due", "e2e_due")
LATENCIES = (*SLO_NAMES, "itl")
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
SHARES = ("failed", "goodput")
RATES = ("requests_per_s", "tokens_per_s")
ABOVE_ZERO = r"0*[1-9]\d{0,8}"
"""A whole number from 1 to 999,999,999: a record could not hold a much larger one."""
MOST = 1e9
"""The largest value of a number that need not be whole. As seconds, it still fits into 64 bits of nanoseconds."""
AMBIGUOUS_S = {"tpot": 1.0, "itl": 1.0, "ttft": 10.0, "ttft_due": 10.0, "e2e": 1000.0, "e2e_due": 1000.0}
"""From this many seconds on, a number without a unit may have been meant in milliseconds."""


def meant(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: the one that was probably meant, or else those that are known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else f": choose from {', '.join(known)}"


class LoadgenParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the error as one line that refers to `--help`."""
        raise UsageError(f"{suggested(self, message)} (see {self.prog} --help)")


def suggested(parser: argparse.ArgumentParser, message: str) -> str:
    """Return argparse's message about a wrong option or choice, with the one that was probably meant."""
    message = message.removeprefix("argument ")
    choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    option = re.search(r"unrecognized arguments: (--[\w-]+)", message)
    if choice is not None:
        name, known = choice[1], re.findall(r"[^\s,']+", choice[2])
    elif option is not None:
        name, known = option[1], list(_options_of(parser))
    else:
        return message
    close = difflib.get_close_matches(name, known, n=1)
    return f"{message}: did you mean {close[0]}?" if close else message


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001  argparse has no public list of them
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _options_of(command)


def _matched(pattern: str, text: str, wrong: str) -> re.Match[str]:
    """Match the whole text. Raises UsageError with the text and what is `wrong` with it."""
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
        raise UsageError(f"{text!r}{wrong}")
    return match


def header(text: str) -> tuple[str, str]:
    """Parse `NAME: VALUE`. No message contains the value, which may be a key."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not name or not value.isprintable():
        raise UsageError("write 'NAME: VALUE', without a line break")
    if name.lower() in ("content-length", "transfer-encoding", "accept-encoding"):
        raise UsageError(f"{name} says how a request or its answer is sent, which is not a choice: leave it out")
    return name, value


def label(text: str) -> tuple[str, str]:
    """Parse `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r}: write KEY=VALUE")
    return key, value


FIELDS = ("problem", "answer", "id", "subject", "level")
"""What `--fields` can name in the rows of a data set."""


def fields(text: str) -> dict[str, str]:
    """Parse `problem=question,answer=answer` to names of fields. An empty name says that the rows have none."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    for what, equals, name in pairs:
        if what not in FIELDS or not equals or (what == "problem" and not name):
            raise UsageError(f"{what!r}: write {'|'.join(FIELDS)}=FIELD, for example problem=question,answer=target")
    if len(names := {what: name for what, _, name in pairs}) < len(pairs):
        raise UsageError(f"{text!r} has two names for one field: give one")
    return names


SYNTHETIC = "synthetic:"


class Length(NamedTuple):
    """A number of tokens from `mean` - `spread` to `mean` + `spread`."""

    mean: int
    spread: int = 0


class Synthetic(NamedTuple):
    """The lengths of synthetic prompts and of their replies."""

    input: Length
    output: Length


def synthetic(name: str) -> Synthetic | None:
    """Parse `synthetic:input=512±128,output=256`; None where the data set is not synthetic."""
    if not name.startswith(SYNTHETIC):
        return None
    pairs = [part.strip().partition("=")[::2] for part in name.removeprefix(SYNTHETIC).split(",")]
    if sorted(what for what, _ in pairs) != ["input", "output"]:
        raise UsageError(f"--dataset {name}: write synthetic:input=512,output=256, or with ranges input=512±128")
    return Synthetic(*(_length(name, text) for _, text in sorted(pairs)))


def _length(name: str, text: str) -> Length:
    match = re.fullmatch(r"([1-9]\d{0,6})(?:(?:±|\+-)(\d{1,7}))?", text.strip(), re.ASCII)
    if match is None or int(match[2] or 0) >= int(match[1]):
        raise UsageError(f"--dataset {name}: {text!r} is not a number of tokens: write 512, or 512±128 for 384 to 640")
    return Length(int(match[1]), int(match[2] or 0))


@dataclass(frozen=True)
class Proportion:
    """A number of requests in proportion to the load: its streams, or its requests per second."""

    per_unit: float
    least: int = 1
    most: int = 2**31

    def at(self, load: float) -> int:
        """Return the number at a load. The product is rounded up, but not because of a binary fraction (120 × 1.1)."""
        return max(self.least, min(self.most, math.ceil(round(self.per_unit * load, 6))))


def _proportion(text: str) -> Proportion:
    """Parse `2x`, `2x at least 4`, `1x at most 16`, or `2x at least 4 at most 16`."""
    pattern = r"(\d{1,6}(?:\.\d{1,6})?)x(?: at least (\d{1,9}))?(?: at most (\d{1,9}))?"
    match = _matched(pattern, text, " is not a number of requests: write 64, 2x, 2x at least 4, or 1x at most 16")
    return Proportion(positive(match[1]), int(match[2] or 1), int(match[3] or 2**31))


class Requests(argparse.Action):
    """Reads a number of requests: `200` in total, or a Proportion such as `8x` or `2x at least 4`."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Set `requests` and `requests_per_load`, or those of `warmup`; the last one that is given counts."""
        text, warmup = str(values), self.dest == "warmup"
        none, total = (0, whole) if warmup else (None, count)
        try:
            setattr(namespace, self.dest, none if "x" in text else total(text))
            setattr(namespace, f"{self.dest}_per_load", _proportion(text) if "x" in text else None)
        except UsageError as error:
            raise UsageError(f"{option}: {error}") from None


@dataclass(frozen=True)
class LoadPoint:
    """The load of a run: a closed loop of N streams, or an open loop of R requests per second."""

    kind: Literal["closed", "open"]
    value: float

    @property
    def name(self) -> str:
        """`c32` or `r2.5`, as part of the name of a run's folder."""
        return f"{'c' if self.kind == 'closed' else 'r'}{self.value:g}"

    def applied(self, options: Options) -> Options:
        """Return run options with this load, and with the numbers of requests that are in proportion to it."""
        closed = self.kind == "closed"
        load: dict[str, Any] = {"concurrency": int(self.value) if closed else None}
        load["rate"] = None if closed else self.value
        for name in ("requests", "warmup"):
            if proportion := getattr(options, f"{name}_per_load"):
                load[name] = proportion.at(self.value)
        return dataclasses.replace(options, **load)


def load_points(text: str) -> tuple[LoadPoint, ...]:
    """Parse `1,32` to closed loops and `0.5/s,2/s` to open loops."""
    return tuple(_load_point(part.strip()) for part in text.split(","))


def _load_point(text: str) -> LoadPoint:
    if text.endswith("/s"):
        return LoadPoint("open", rate(text))
    wrong = " is not a load point: write 1,32 for closed loops, or 2/s for an open loop"
    return LoadPoint("closed", int(_matched(ABOVE_ZERO, text, wrong)[0]))


def budgets(text: str) -> tuple[int, ...]:
    """Parse `1024,4096` or `1k,4k` to distinct numbers of tokens, in ascending order."""
    return tuple(sorted({_budget(part.strip()) for part in text.split(",")}))


def _budget(text: str) -> int:
    wrong = " is not a number of tokens: write for example 1024,4096 or 1k,4k"
    match = _matched(rf"({ABOVE_ZERO})([kK]?)", text, wrong)
    return int(match[1]) * (1024 if match[2] else 1)


def _number(text: str, least: float, kind: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value > MOST:
        raise UsageError(f"{text!r} is above {MOST:,.0f}")
    if not value >= least:
        raise UsageError(f"{text!r} is not a {kind}")
    return value


def number(text: str) -> float:
    """Parse a number that is zero or above."""
    return _number(text, 0.0, "number of zero or above")


def positive(text: str) -> float:
    """Parse a number above zero."""
    return _number(text, 1e-9, "number above zero")


def rate(text: str) -> float:
    """Parse a number of requests per second, such as `2` or `2/s`."""
    return positive(text.removesuffix("/s"))


def seconds(text: str) -> float:
    """Parse a time above zero, such as `30`, `30s`, `200ms` or `2m`, to seconds."""
    for unit, factor in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit) and text.removesuffix(unit)[-1:].isdigit():
            return _number(text.removesuffix(unit), 1e-9, "time above zero") * factor
    raise UsageError(f"{text!r} is not a time: write seconds, or for example 200ms or 2m")


def share(text: str) -> float:
    """Parse a number above zero and at most one."""
    if (value := positive(text)) > 1:
        raise UsageError(f"{text!r} is above one")
    return value


def whole(text: str) -> int:
    """Parse a whole number that is zero or above."""
    return int(_matched(r"\d{1,9}", text, " is not a whole number from 0 to 999,999,999")[0])


def count(text: str) -> int:
    """Parse a whole number above zero."""
    return int(_matched(ABOVE_ZERO, text, " is not a whole number from 1 to 999,999,999")[0])


def web(text: str) -> str:
    """Parse an http or https URL."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{text!r} is not an http(s) URL")
    return text


def route(text: str) -> str:
    """Parse the endpoint: `chat`, `completions`, or a path below the target that begins with a slash."""
    wrong = ": write chat, completions, or a path below --target such as /api/chat (a query belongs to --target)"
    return _matched(r"chat|completions|/[\w./~%:@+-]+", text, wrong)[0]


def port(text: str) -> int:
    """Parse a TCP port; `off` becomes -1."""
    if text == "off":
        return -1
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise UsageError(f"{text!r} is not a port: write for example 9464, or off")
    return int(text)


def workers(text: str) -> int | None:
    """Parse a number of processes; `auto` becomes None. This machine could not be used with thousands of them."""
    if text != "auto" and count(text) > 256:
        raise UsageError(f"{text!r} is above 256 processes: write for example 4, or auto for one on each core")
    return None if text == "auto" else count(text)


def arrival(text: str) -> str:
    """Check the name of an arrival process: `poisson`, `constant`, `gamma:B`, `burst:N` or `burst`."""
    wrong = ": write poisson, constant, gamma:B (for example gamma:0.5), burst or burst:N"
    match = _matched("poisson|constant|burst|gamma:(.+)|burst:(.+)", text, wrong)
    if match[1]:
        positive(match[1])
    if match[2]:
        count(match[2])
    return text


def ramp(text: str) -> tuple[tuple[float, float], ...]:
    """Parse `RATE:SECONDS,…` to (rate, seconds) steps."""
    steps = [part.partition(":") for part in text.split(",")]
    if not all(colon for _, colon, _ in steps):
        raise UsageError(f"{text!r}: write RATE:SECONDS steps, for example 1:30,2:30,4:30")
    return tuple((positive(rate), seconds(duration)) for rate, _, duration in steps)


def slo(text: str) -> dict[str, float]:
    """Parse `ttft=0.5,tpot=20ms,e2e=30` to seconds by metric."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    names = [name for name, _, _ in pairs]
    if wrong := [name for name, equals, _ in pairs if name not in SLO_NAMES or not equals]:
        raise UsageError(f"{wrong[0]!r}: write {'|'.join(SLO_NAMES)}=SECONDS, for example ttft=0.5,tpot=20ms")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is given twice: give one limit for each metric")
    return {name: latency(name, value) for name, _, value in pairs}


def latency(name: str, text: str) -> float:
    """Parse the limit of a latency to seconds."""
    value = seconds(text)
    if text[-1].isdigit() and value >= AMBIGUOUS_S[name]:
        raise UsageError(f"{name} {text} means {text} seconds: write {text}ms or {text}s")
    return value


class Requirement(NamedTuple):
    """A condition on the result of a run, such as `ttft.p95<200ms`."""

    metric: str
    statistic: str
    """Empty for shares and rates."""
    comparison: str
    limit: float
    """In seconds for a latency; a share is from 0 to 1."""


def requirement(text: str) -> str:
    """Check a requirement and return its text."""
    parse_requirement(text)
    return text.strip()


def parse_requirement(text: str) -> Requirement:
    """Parse `METRIC.STATISTIC<TIME`, `failed<1%`, `goodput>=0.95`, `requests_per_s>4` or `tokens_per_s>500`."""
    wrong = ": write METRIC, then <, <=, > or >=, then the limit, for example 'ttft.p95<200ms' or 'failed<1%'"
    name, comparison, limit = _matched(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*", text, wrong).groups()
    metric, _, statistic = name.partition(".")
    if name in SHARES:
        return Requirement(name, "", comparison, _share_or_percent(limit))
    if name in RATES:
        return Requirement(name, "", comparison, number(limit.removesuffix("/s")))
    if metric in LATENCIES and statistic in STATISTICS:
        return Requirement(metric, statistic, comparison, latency(metric, limit))
    raise UsageError(
        f"{name!r} is not known: write {'|'.join(LATENCIES)} with .{'|.'.join(STATISTICS)}, or {'|'.join(SHARES + RATES)}"
    )


def _share_or_percent(text: str) -> float:
    value = number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if value > 1:
        raise UsageError(f"{text!r} is above 100 %: write for example 5% or 0.05")
    return value


def failures(text: str) -> str:
    """Check a number of failures, such as `20`, or a share of the requests, such as `50%`."""
    wrong = ": write a number of failed requests such as 20, or a share such as 50%"
    return _matched(r"[1-9]\d*|(?!0+(\.0+)?%)(100|\d{1,2}(\.\d+)?)%", text, wrong)[0]


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # NaN and half a surrogate pair cannot be sent
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the text is not JSON ({error}): write for example '{{\"top_k\": 20}}'") from None
    if not isinstance(value, dict):
        raise UsageError("the text is not a JSON object: write for example '{\"top_k\": 20}'")
    return value
