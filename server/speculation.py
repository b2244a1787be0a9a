"""The settings of n-gram speculation, which the configuration and the emulated engine share.

This module does not know how they are read (config.py) or what they do (server/emulator/engine/ngram.py).
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Ngram:
    """Settings of n-gram speculation, under the names of vLLM's `speculative-config`."""

    num_speculative_tokens: Positive
    prompt_lookup_min: Positive
    prompt_lookup_max: Positive
    synthetic_acceptance_length: float | None = None
    """With synthetic rejection sampling: the imposed mean number of tokens of a step that has a draft."""
    method: str = "ngram"
    v2_runner: bool = False
    """Whether vLLM's V2 model runner serves it; server/emulator/engine/model_runner.py decides."""
