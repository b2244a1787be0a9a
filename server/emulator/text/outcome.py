"""How a model fares on a problem: right or wrong, how long, when it has found the answer, whether it loops.

Rules: everything follows from the model's name, the problem's id and the sample (a seed, or greedy decoding) by
hashes, so it is the same under every configuration; figures come from the preset's `text:` key, whose source each
value names there. Knows no words and no tokens, only numbers of them.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from server.config import ConfigError
from server.emulator.text.prompt import KnownProblem

NORMAL = NormalDist()
GREEDY = "greedy"
LEVELS = (0.086, 0.180, 0.210, 0.256, 0.268)  # MATH-500's problems by level
# Any would do; with this one of 24 the 500 problems of MATH-500 come nearest the published accuracies and curve.
SALT = 1
LEVEL_KEYS = {"accuracy", "length_mu", "length_sigma"}
LATEST_FIND = 0.95  # of its thinking: the answer is there before it stops,
LAST_WORDS = 80  # and before its last paragraphs, which end no more than so many tokens from the plan
LONGEST_THINKING = 32_000  # tokens; A7w of the measured sets: 99.8 % end within 32k


@dataclasses.dataclass(frozen=True)
class Figures:
    """A model's `text:` figures. The defaults are assumed ones (a 7B reasoning model's) for a preset without."""

    accuracy: tuple[float, ...] = (0.954, 0.967, 0.959, 0.912, 0.856)  # by level 1..5, finished outputs
    # ln of the tokens of a whole output by level 1..5
    length_mu: tuple[float, ...] = (7.47, 7.38, 7.69, 7.82, 8.20)
    length_sigma: tuple[float, ...] = (0.60, 0.63, 0.62, 0.65, 0.81)
    wrong_longer: float = 1.9  # a wrong output's length over a right one's
    answer_tokens: float = 330  # median of the part after the thinking
    answer_sigma: float = 0.33
    forced: Mapping[int, float] = dataclasses.field(
        default_factory=lambda: {
            0: 0.2,
            256: 0.4,
            717: 0.624,
            1010: 0.72,
            1339: 0.76,
            2000: 0.84,
            4000: 0.905,
            8000: 0.93,
        }
    )  # thinking tokens -> share right if the answer is forced there
    loops_right: float = 0.01  # share of greedy outputs that loop, among those that would be right
    loops_wrong: float = 0.3  # and wrong
    loop_onset: float = 2900  # median tokens before the loop
    loop_period: float = 322  # median tokens
    detours: Mapping[str, float] = dataclasses.field(  # set B, per 1000 tokens
        default_factory=lambda: {"Wait": 3.8, "Alternatively": 0.6, "Hmm": 0.7, "Let me": 4.0}
    )
    spread: float = 2.5  # of the problems' difficulty, in logits: how often samples of one problem agree

    @functools.cached_property
    def right_lengths(self) -> tuple[float, float]:
        """Middle and width of ln(thinking tokens) of the right outputs, all levels together."""
        extra = math.log(self.wrong_longer)
        mus = [mu + extra * (right - 1) for mu, right in zip(self.length_mu, self.accuracy, strict=True)]
        answer = math.log1p(-self.answer_tokens / math.exp(_over_levels(mus)))
        middle = _over_levels(mus)
        spread = _over_levels(
            [(mu - middle) ** 2 + sigma**2 for mu, sigma in zip(mus, self.length_sigma, strict=True)]
        )
        return middle + answer, math.sqrt(spread)

    @classmethod
    def of(cls, preset: Mapping[str, Any]) -> "Figures":
        """The figures of a preset; keys this version does not know are an error of the file."""
        text = dict(preset.get("text") or {})
        name = preset.get("id", "model")
        unknown = set(text) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ConfigError(f"{name}: text: unknown key {', '.join(sorted(unknown))}")
        for key in LEVEL_KEYS & set(text):
            levels = text[key]
            if not isinstance(levels, Mapping) or sorted(levels) != [1, 2, 3, 4, 5]:
                raise ConfigError(f"{name}: text: {key}: wants a value for each level 1 to 5")
            text[key] = tuple(float(levels[level]) for level in sorted(levels))
        if not all(0 < share < 1 for share in text.get("accuracy", ())):
            raise ConfigError(f"{name}: text: accuracy: wants shares between 0 and 1")
        return cls(**text)


@dataclasses.dataclass(frozen=True, slots=True)
class TraceOutline:
    """One output's fate."""

    right: bool
    thinking_tokens: int
    answer_tokens: int
    found_at: float  # thinking tokens after which a forced answer is the right one; inf: never
    loop_from: int | None  # thinking tokens after which it repeats itself for ever
    loop_period: int

    def right_after(self, thinking_tokens: int) -> bool:
        """Is an answer forced here right? Past its own thinking it is what it would be anyway."""
        return thinking_tokens >= self.found_at or (self.right and thinking_tokens >= self.thinking_tokens)


def draw(*key: object) -> float:
    """A number in (0, 1) that depends on the key alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, (SALT, *key))).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / 2**64


def normal(*key: object) -> float:
    """A standard normal number that depends on the key alone."""
    return NORMAL.inv_cdf(min(max(draw(*key), 1e-12), 1 - 1e-12))


def plan(model: str, figures: Figures, problem: KnownProblem, sample: str) -> TraceOutline:
    """The fate of one sample of one problem."""
    who = (model, problem.unique_id)
    one = (*who, sample)
    at = problem.level - 1
    right = draw("right", *one) < _chance(figures, problem, normal("difficulty", *who))
    # Lengths of samples of one problem are alike: about 70 % of the variance lies between problems.
    z = math.sqrt(0.7) * normal("length", *who) + math.sqrt(0.3) * normal("length", *one)
    extra = math.log(figures.wrong_longer)
    mu = figures.length_mu[at] + extra * (figures.accuracy[at] - 1 if right else figures.accuracy[at])
    answer = figures.answer_tokens * math.exp(figures.answer_sigma * normal("answer", *one))
    total = math.exp(mu + figures.length_sigma[at] * z)
    thinking = int(min(max(total - answer, 0.4 * total, 60), LONGEST_THINKING))
    loops = sample == GREEDY and draw("loop", *one) < (figures.loops_right if right else figures.loops_wrong)
    onset = figures.loop_onset * math.exp(0.48 * normal("onset", *one))
    return TraceOutline(
        right=right,
        thinking_tokens=thinking,
        answer_tokens=int(answer),
        found_at=_found_at(figures, thinking, normal("found", *one)) if right else math.inf,
        loop_from=int(onset) if loops else None,
        loop_period=int(min(max(figures.loop_period * math.exp(0.8 * normal("period", *one)), 30), 800)),
    )


def _chance(figures: Figures, problem: KnownProblem, difficulty: float) -> float:
    """The chance that a sample of this problem is right: logistic-normal around the level's accuracy."""
    accuracy = figures.accuracy[problem.level - 1]
    # E[sigmoid(mu + s z)] is close to sigmoid(mu / sqrt(1 + pi s^2 / 8)): so the mean comes out as asked.
    mu = math.log(accuracy / (1 - accuracy)) * math.sqrt(1 + math.pi * figures.spread**2 / 8)
    return 1 / (1 + math.exp(-(mu + figures.spread * difficulty)))


def _found_at(figures: Figures, thinking: int, z: float) -> float:
    """When a right output has found its answer: drawn from the budget curve, longer outputs later."""
    middle, width = figures.right_lengths
    rank = NORMAL.cdf(0.6 * (math.log(max(thinking, 1)) - middle) / width + 0.8 * z)
    # The curve counts all outputs, this one is among those that end up right.
    share = rank * _over_levels(figures.accuracy)
    latest = max(0.0, LATEST_FIND * thinking - LAST_WORDS)
    below = (0.0, 0.0)
    for budget, reached in sorted(figures.forced.items()):
        if share <= reached:
            part = (share - below[1]) / (reached - below[1])
            return min(below[0] + part * (budget - below[0]), latest)
        below = (float(budget), reached)
    return latest


def _over_levels(values: Sequence[float]) -> float:
    """The mean over MATH-500's mix of levels, on which the curves were measured."""
    return sum(share * value for share, value in zip(LEVELS, values, strict=True))
