r"""How a problem is asked: the user's words, the raw template where the chat endpoint can't serve, and the forced answer.

Rules: a style is text alone, `{problem}`, `{user}` and `{budget}` are the only holes; `--prompt` names one, else the
model's id does, else `chat`. Raw templates are those of the models' own tokenizer files, with the turn of the assistant
opened and the thinking begun; the special tokens are in the text, so the server must not add them again.

Sources: R1's words and sampling from deepseek-ai/DeepSeek-R1's README; s1's markers and final-answer tail from
simplescaling/s1. s1 asks the bare question and is judged by a language model; here the boxed line is added to every
style but `bare`, so that a rule can grade it (a deviation, docs/guide.md).
"""

import re
from dataclasses import dataclass, field
from typing import Any

from loadgen.errors import UsageError
from loadgen.exchange import THINK_END, ForcedAnswer

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
THINK_WORDS = "\nThink for maximum {budget} tokens."
"""Budget mode `prompt` (L1's words); plain R1 and s1 were not trained to obey them."""


@dataclass(frozen=True)
class Style:
    """One way to ask."""

    user: str = BOXED
    raw: str | None = None
    """Prompt of `/completions`; `{user}` is the user's text."""
    force: ForcedAnswer | None = None
    recommended: dict[str, float] = field(default_factory=dict)
    """Sampling the model's card advises; empty leaves the server's defaults."""
    body: dict[str, Any] = field(default_factory=dict)
    """Fields the style needs in every request."""
    raw_body: dict[str, Any] = field(default_factory=dict)
    """Fields the raw template needs besides."""


CHATML = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think>\n"
QWEN_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
)
END_THINKING = ForcedAnswer(
    tail=f"\n{THINK_END}\n\n**Final Answer**\n\n\\boxed{{", max_tokens=0, ended=THINK_END
)
NO_SPECIALS = {"add_special_tokens": False}

STYLES = {
    "chat": Style(),
    "bare": Style(user="{problem}", raw="{user}"),
    "r1": Style(
        raw="<｜begin▁of▁sentence｜><｜User｜>{user}<｜Assistant｜><think>\n",
        force=END_THINKING,
        recommended={"temperature": 0.6, "top_p": 0.95},
        raw_body=NO_SPECIALS,
    ),
    "s1": Style(
        raw=QWEN_SYSTEM + "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<|im_start|>think\n",
        force=ForcedAnswer(
            tail="\n<|im_start|>answer\nFinal Answer:", max_tokens=0, ended="<|im_start|>answer"
        ),
        recommended={"temperature": 0.0},
        body={"skip_special_tokens": False},  # else the markers read as the words "think" and "answer"
        raw_body=NO_SPECIALS,
    ),
    "chatml": Style(raw=CHATML, force=END_THINKING, raw_body=NO_SPECIALS),
}

BY_MODEL = ((r"r1-distill|deepseek-r1", "r1"), (r"(^|/)s1(\.1)?-", "s1"))


def style_of(model: str, asked: str | None) -> tuple[str, Style]:
    """Name and style: as asked, else by the model's id. Raises UsageError."""
    found = (style for pattern, style in BY_MODEL if re.search(pattern, model, re.IGNORECASE))
    name = asked or next(found, "chat")
    if name not in STYLES:
        raise UsageError(f"--prompt {name!r} is no style: write one of {', '.join(STYLES)}")
    return name, STYLES[name]


def user_text(style: Style, problem: str, think_budget: int | None = None) -> str:
    """What the user says."""
    words = THINK_WORDS.replace("{budget}", str(think_budget)) if think_budget else ""
    return style.user.replace("{problem}", problem) + words
