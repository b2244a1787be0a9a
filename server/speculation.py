"""The settings of speculative decoding, under the names of vLLM's `speculative-config`, and how they are read.

`ngram` and `suffix` find their drafts in the text. `draft_model`, `eagle3` and `mtp` have a model of their own, whose drafts
the emulator does not know, so that their acceptance is imposed.

Rules: what would change drafts or times and is not emulated is refused with a ValueError that begins with the key. This module
does not know which curves of acceptance are published (server/emulator/engine/acceptance.py) or what a drafter costs.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Annotated, Any

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
MOST = 64
"""The largest number of draft tokens in a step, which also limits the length of a curve of acceptance."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How many draft tokens are accepted where this does not follow from the text."""

    name: str
    source: str
    spans: tuple[tuple[int, tuple[float, ...]], ...]
    """From which number of output tokens on, the share of drafts whose token at each position is accepted."""

    def accepted(self, draw: float, position: int) -> int:
        """How many draft tokens a step accepts after `position` output tokens; `draw` is uniform in [0, 1)."""
        rates = next(rates for start, rates in reversed(self.spans) if start <= position)
        return sum(rate > draw for rate in rates)


@dataclass(frozen=True, slots=True)
class Speculation:
    """What all methods have in common."""

    num_speculative_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    _: KW_ONLY
    method: str
    acceptance: Acceptance | None = None
    """None: it follows from the text."""

    def described(self) -> dict[str, Any]:
        """What an emulated server says of it. A reader of the acceptance always sees that it is not measured."""
        one = self.acceptance
        acceptance = f"{one.name} ({one.source})" if one else "that of the text"
        return {
            "speculation": self.method,
            "draft_tokens": self.num_speculative_tokens,
            "acceptance": f"emulated: {acceptance}",
        }


@dataclass(frozen=True, slots=True)
class Ngram(Speculation):
    """n-gram lookup."""

    prompt_lookup_min: Positive
    prompt_lookup_max: Positive
    _: KW_ONLY
    method: str = "ngram"
    v2_runner: bool = False
    """Whether vLLM's V2 model runner serves it; server/emulator/engine/model_runner.py decides."""


@dataclass(frozen=True, slots=True)
class Suffix(Speculation):
    """Suffix decoding."""

    _: KW_ONLY
    method: str = "suffix"
    suffix_decoding_max_tree_depth: Positive = 24
    suffix_decoding_max_spec_factor: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    suffix_decoding_min_token_prob: Share = 0.1


@dataclass(frozen=True, slots=True)
class Drafter(Speculation):
    """A drafter with weights of its own."""

    _: KW_ONLY
    model: str | None = None
    draft_tensor_parallel_size: Positive | None = None


METHODS: dict[str, type[Speculation]] = {"ngram": Ngram, "ngram_gpu": Ngram, "suffix": Suffix}
METHODS |= dict.fromkeys(("draft_model", "eagle3", "mtp"), Drafter)
CACHED = "suffix_decoding_max_cached_requests"
SAMPLING = "rejection_sample_method"
LENGTH, RATES = "synthetic_acceptance_length", "synthetic_acceptance_rates"
OWN = {"acceptance", "v2_runner"}
"""Fields that are no keys of vLLM."""


def speculation_of(value: Mapping[str, Any]) -> Speculation:
    """The settings in the mapping `speculative-config`. Raises ValueError."""
    method = value.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f".method: {method!r} is not emulated: choose from {', '.join(METHODS)}")
    kind = METHODS[method]
    keys = {field.name for field in fields(kind)} - OWN
    known = keys | {SAMPLING, LENGTH, RATES} | ({CACHED} if kind is Suffix else set())
    for key in value.keys() - known:
        raise ValueError(f".{key if str(key).isprintable() else repr(key)}: not emulated")
    given = {key: value[key] for key in keys if value.get(key) is not None}
    if kind is Ngram:  # vLLM copies the other bound, or uses 5 for both
        low, high = "prompt_lookup_min", "prompt_lookup_max"
        given = {low: given.get(high, 5), high: given.get(low, 5)} | given
    elif kind is Suffix:
        if value.get(CACHED) != 0:
            raise ValueError(f".{CACHED}: a tree of past responses is not emulated: set it to 0")
        given.setdefault("num_speculative_tokens", 24)  # vLLM's default
    try:
        found = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f": {error}") from error
    if isinstance(found, Ngram) and found.prompt_lookup_min > found.prompt_lookup_max:
        raise ValueError(
            f".prompt_lookup_min: {found.prompt_lookup_min} exceeds prompt_lookup_max {found.prompt_lookup_max}"
        )
    return replace(found, acceptance=_synthetic(value, found.num_speculative_tokens))


def _synthetic(value: Mapping[str, Any], tokens: int) -> Acceptance | None:
    """The acceptance that synthetic rejection sampling imposes; None without it. Raises ValueError."""
    sampling = value.get(SAMPLING, "standard")
    if sampling not in ("standard", "synthetic"):
        raise ValueError(f".{SAMPLING}: {sampling!r} is not emulated: choose from standard, synthetic")
    if sampling == "standard":
        return None
    length, given = value.get(LENGTH), value.get(RATES)
    if (length is None) == (given is None):
        raise ValueError(f".{SAMPLING}: synthetic needs either {LENGTH} or {RATES}")
    try:
        return _of_rates(given, tokens) if length is None else of_length(length, tokens)
    except ValueError as error:
        raise ValueError(f".{RATES if length is None else LENGTH}: {error}") from error


def _of_rates(given: object, tokens: int) -> Acceptance:
    if not isinstance(given, list) or len(given) != tokens:
        raise ValueError(f"must be {tokens} numbers, one for each draft token")
    return Acceptance("synthetic rates", "speculative-config", ((0, rates(given)),))


def of_length(length: object, tokens: int) -> Acceptance:
    """Steps that emit `length` tokens on average and differ by at most one, as with vLLM's synthetic sampling."""
    if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length <= tokens + 1:
        raise ValueError(f"must be a number from 1 to {tokens + 1}, not {length!r}")
    at = tuple(min(1.0, max(0.0, length - 1 - place)) for place in range(tokens))
    return Acceptance(f"{length:g} tokens a step", "imposed", ((0, at),))


def rates(given: object) -> tuple[float, ...]:
    """A list of the share of accepted drafts at each position. Raises ValueError."""
    try:
        found: tuple[float, ...] = msgspec.convert(
            given, Annotated[tuple[Share, ...], msgspec.Meta(min_length=1, max_length=MOST)]
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}: write shares from 0 to 1, one for each draft position") from error
    if list(found) != sorted(found, reverse=True):
        raise ValueError("a token is accepted only if those before it are: no share may exceed the one before it")
    return found
