"""The prompt styles: the text of the user's message, the raw template for `/completions`, and the forced answer.

prompts.toml has the styles that are known, with their sources. `--prompt` names a style; without this option, the model's id
decides, and any other model gets `chat`.

This module does not know how a reply is limited or graded.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from loadgen.errors import UsageError
from loadgen.exchange import ForcedAnswer
from loadgen.option_types import meant

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
BUDGET_REQUEST = "\nThink for maximum {budget} tokens."
"""Used in budget mode `prompt`. The sentence is that of L1; R1 and s1 were not trained to follow it."""


@dataclass(frozen=True)
class Style:
    """One way to ask a problem."""

    user: str = BOXED
    """The user's message."""
    raw: str | None = None
    """The prompt for `/completions`; `{user}` is the user's message."""
    force: ForcedAnswer | None = None
    """How budget mode `forced` ends the reasoning."""
    recommended: dict[str, float] = field(default_factory=dict)
    """Sampling parameters that the model card recommends; where empty, the server's defaults apply."""
    body: dict[str, Any] = field(default_factory=dict)
    """Fields that the style needs in every request."""
    raw_body: dict[str, Any] = field(default_factory=dict)
    """Further fields that the raw template needs."""

    @property
    def as_written(self) -> "Style":
        """The style for a problem without an answer: its text alone, because a boxed answer would not be graded."""
        return replace(self, user="{problem}")


STYLES = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes(), type=dict[str, Style])
BY_MODEL = ((r"r1-distill|deepseek-r1", "r1"), (r"(^|/)s1(\.1)?-", "s1"))


def style_of(model: str, asked: str | None) -> tuple[str, Style]:
    """Return the name and the style that was asked for, or else the one for the model's id. Raises UsageError."""
    found = (style for pattern, style in BY_MODEL if re.search(pattern, model, re.IGNORECASE))
    name = asked or next(found, "chat")
    if name not in STYLES:
        raise UsageError(f"--prompt {name!r} is not a prompt style{meant(name, STYLES)}")
    return name, STYLES[name]


def user_text(style: Style, problem: str, stated_budget: int | None = None) -> str:
    """Return the user's message, which states a token budget where one is given."""
    request = BUDGET_REQUEST.replace("{budget}", str(stated_budget)) if stated_budget else ""
    return style.user.replace("{problem}", problem) + request
