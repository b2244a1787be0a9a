r"""Holds the prompt styles: the text of the user's message, the raw template for `/completions`, and the forced answer.

A style is text with the placeholders `{problem}`, `{user}` and `{budget}`. `--prompt` names it; without this option, the
model's id decides, and any other model gets `chat`. Raw templates are those of the models' tokenizer files, up to the start of
the reasoning. They contain the special tokens, so the server must not add them again.

Sources: R1's instruction and sampling parameters are from the README of deepseek-ai/DeepSeek-R1; s1's markers and
final-answer text are from simplescaling/s1. The authors of s1 ask the question alone and let a language model grade the
answer. Here every style but `bare` asks for a boxed answer, so that it can be graded by rules (docs/guide.md names this
deviation).

This module does not know how a reply is limited or graded.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from loadgen.errors import UsageError
from loadgen.exchange import THINK_END, ForcedAnswer
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


CHATML = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think>\n"
QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
END_THINKING = ForcedAnswer(tail=f"\n{THINK_END}\n\n**Final Answer**\n\n\\boxed{{", ended=THINK_END)
NO_SPECIAL_TOKENS = {"add_special_tokens": False}

STYLES = {
    "chat": Style(),
    "bare": Style(user="{problem}", raw="{user}"),
    "r1": Style(
        raw="<｜begin▁of▁sentence｜><｜User｜>{user}<｜Assistant｜><think>\n",
        force=END_THINKING,
        recommended={"temperature": 0.6, "top_p": 0.95},
        raw_body=NO_SPECIAL_TOKENS,
    ),
    "s1": Style(
        raw=QWEN_SYSTEM + "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<|im_start|>think\n",
        force=ForcedAnswer(tail="\n<|im_start|>answer\nFinal Answer:", ended="<|im_start|>answer"),
        recommended={"temperature": 0.0},
        body={"skip_special_tokens": False},  # Otherwise the markers become the words "think" and "answer".
        raw_body=NO_SPECIAL_TOKENS,
    ),
    "chatml": Style(raw=CHATML, force=END_THINKING, raw_body=NO_SPECIAL_TOKENS),
}

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
