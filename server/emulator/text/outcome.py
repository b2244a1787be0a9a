"""Decides the outcome of a problem: right or wrong, how long, when the answer is found, and whether the output loops.

Rules: every decision is a hash of the model's name, the problem's id and the sample (a seed, or greedy decoding), so it
is the same under every configuration. The statistics come from the `text` key of the model preset, which names the
source of each value. This module does not know words or tokens, only their numbers.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import msgspec
import yaml

from server.config import ConfigError
from server.emulator.text.problems import KnownProblem

NORMAL = NormalDist()
GREEDY = "greedy"
LEVEL_SHARES = (0.086, 0.180, 0.210, 0.256, 0.268)  # of MATH-500's problems, by level
# Any number works. Of 24 numbers tried, this one brings MATH-500 closest to the published accuracies and curve.
SALT = 1
LEVEL_KEYS = ("accuracy", "length_mu", "length_sigma")
DEFAULTS: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
# The answer is found at the latest after this share of the thinking and this many tokens before its end, because the
# last paragraphs can end up to that far from the planned length.
LATEST_FIND = 0.95
CLOSING_TOKENS = 80
LONGEST_THINKING = 32_000  # tokens; in the measured set A7w 99.8 % of the outputs end within 32k
# The limits keep every exponential of a preset's numbers within the range of a float.
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Exponent = Annotated[float, msgspec.Meta(gt=0, le=15)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


@dataclasses.dataclass(frozen=True)
class TextStatistics:
    """Statistics of a model's outputs. outcome.yaml has the values that a preset does not give."""

    # share of right answers among finished outputs, by level 1..5
    accuracy: tuple[Share, ...]
    # mean and standard deviation of ln(tokens of the whole output), by level 1..5
    length_mu: tuple[Exponent, ...]
    length_sigma: tuple[Exponent, ...]
    wrong_longer: Positive  # length of a wrong output divided by that of a right one
    answer_tokens: Positive  # median tokens after the thinking
    answer_sigma: Exponent
    forced: Mapping[Count, Share]  # thinking tokens -> share of right answers if the answer is forced after them
    loops_right: Share  # share of greedy outputs that loop, of those that would be right
    loops_wrong: Share  # the same, of those that would be wrong
    loop_onset: Positive  # median tokens before the loop
    loop_period: Positive  # median tokens
    detours: Mapping[str, Rate]  # occurrences per 1000 tokens
    spread: Exponent  # of the difficulty in logits; it decides how often samples of one problem agree

    @functools.cached_property
    def right_lengths(self) -> tuple[float, float]:
        """Mean and standard deviation of ln(thinking tokens) of the right outputs over all levels."""
        extra = math.log(self.wrong_longer)
        mus = [mu + extra * (right - 1) for mu, right in zip(self.length_mu, self.accuracy, strict=True)]
        answer = math.log1p(-self.answer_tokens / math.exp(_over_levels(mus)))
        mean = _over_levels(mus)
        spread = _over_levels([(mu - mean) ** 2 + sigma**2 for mu, sigma in zip(mus, self.length_sigma, strict=True)])
        return mean + answer, math.sqrt(spread)

    @classmethod
    def of(cls, preset: Mapping[str, Any]) -> "TextStatistics":
        """Read the statistics of a model preset. Raises ConfigError for unknown keys and invalid values."""
        text, name = preset.get("text") or {}, preset.get("id", "model")
        if not isinstance(text, Mapping):
            raise ConfigError(f"{name}: text: must be a mapping of names to values")
        unknown = set(text) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError(f"{name}: text: unknown key {', '.join(sorted(map(str, unknown)))}")
        found: dict[str, Any] = {**DEFAULTS, **text}
        for key in LEVEL_KEYS:
            levels = found[key]
            if not isinstance(levels, Mapping) or set(levels) != {1, 2, 3, 4, 5}:
                raise ConfigError(f"{name}: text: {key}: must have a value for each level from 1 to 5")
            found[key] = [levels[level] for level in sorted(levels)]
        try:
            read = msgspec.convert(found, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name}: text: {error}") from None
        if not all(0.001 <= share <= 0.999 for share in read.accuracy):
            raise ConfigError(f"{name}: text: accuracy: must be shares between 0.001 and 0.999")
        try:
            _ = read.right_lengths
        except ValueError:
            raise ConfigError(
                f"{name}: text: answer_tokens: must be fewer than the tokens of a whole output (length_mu)"
            ) from None
        return read


@dataclasses.dataclass(frozen=True, slots=True)
class TraceOutline:
    """The decisions for one output."""

    right: bool
    thinking_tokens: int
    answer_tokens: int
    found_at: float  # thinking tokens after which a forced answer is right; infinity: never
    loop_from: int | None  # thinking tokens after which the output repeats itself without end
    loop_period: int

    def right_after(self, thinking_tokens: int) -> bool:
        """Whether an answer forced after `thinking_tokens` is right. After the planned thinking it is as planned."""
        return thinking_tokens >= self.found_at or (self.right and thinking_tokens >= self.thinking_tokens)


def draw(*key: object) -> float:
    """A uniform random number in (0, 1) that depends on the key alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, (SALT, *key))).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / 2**64


def normal(*key: object) -> float:
    """A standard normal random number that depends on the key alone."""
    return NORMAL.inv_cdf(min(max(draw(*key), 1e-12), 1 - 1e-12))


def outline(model: str, stats: TextStatistics, problem: KnownProblem, sample: str) -> TraceOutline:
    """Decide the output of one sample of one problem."""
    problem_key = (model, problem.unique_id)
    key = (*problem_key, sample)
    level = problem.level - 1
    right = draw("right", *key) < _probability_right(stats, problem, normal("difficulty", *problem_key))
    # Samples of one problem have similar lengths: about 70 % of the variance lies between problems.
    z = math.sqrt(0.7) * normal("length", *problem_key) + math.sqrt(0.3) * normal("length", *key)
    extra = math.log(stats.wrong_longer)
    mu = stats.length_mu[level] + extra * (stats.accuracy[level] - 1 if right else stats.accuracy[level])
    answer = stats.answer_tokens * math.exp(stats.answer_sigma * normal("answer", *key))
    total = math.exp(mu + stats.length_sigma[level] * z)
    thinking = int(min(max(total - answer, 0.4 * total, 60), LONGEST_THINKING))
    loops = sample == GREEDY and draw("loop", *key) < (stats.loops_right if right else stats.loops_wrong)
    onset = stats.loop_onset * math.exp(0.48 * normal("onset", *key))
    return TraceOutline(
        right=right,
        thinking_tokens=thinking,
        answer_tokens=int(answer),
        found_at=_found_at(stats, thinking, normal("found", *key)) if right else math.inf,
        loop_from=int(onset) if loops else None,
        loop_period=int(min(max(stats.loop_period * math.exp(0.8 * normal("period", *key)), 30), 800)),
    )


def _probability_right(stats: TextStatistics, problem: KnownProblem, difficulty: float) -> float:
    """The probability that a sample of this problem is right: logistic-normal around the accuracy of its level."""
    accuracy = stats.accuracy[problem.level - 1]
    # E[sigmoid(mu + s z)] is close to sigmoid(mu / sqrt(1 + pi s^2 / 8)), so this mu gives the wanted mean.
    mu = math.log(accuracy / (1 - accuracy)) * math.sqrt(1 + math.pi * stats.spread**2 / 8)
    return 1 / (1 + math.exp(-(mu + stats.spread * difficulty)))


def _found_at(stats: TextStatistics, thinking: int, z: float) -> float:
    """Thinking tokens after which a right output finds its answer: drawn from the budget curve, later for longer outputs."""
    mean, deviation = stats.right_lengths
    rank = NORMAL.cdf(0.6 * (math.log(max(thinking, 1)) - mean) / deviation + 0.8 * z)
    # The curve counts all outputs, whereas this one is known to end right.
    share = rank * _over_levels(stats.accuracy)
    latest = max(0.0, LATEST_FIND * thinking - CLOSING_TOKENS)
    below = (0.0, 0.0)
    for budget, reached in sorted(stats.forced.items()):
        if share <= reached:
            part = (share - below[1]) / (reached - below[1])
            return min(below[0] + part * (budget - below[0]), latest)
        below = (float(budget), reached)
    return latest


def _over_levels(values: Sequence[float]) -> float:
    """The mean over the levels of MATH-500, on which the curves were measured."""
    return sum(share * value for share, value in zip(LEVEL_SHARES, values, strict=True))
