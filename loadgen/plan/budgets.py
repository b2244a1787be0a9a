"""Four ways to hold a reply to a token budget, as fields of a request and, for `forced`, as two calls in one.

`cut`     max_tokens = budget: counts thinking and answer; a reply that hits it is truncated.
`forced`  max_tokens = budget on `/completions` with the raw template; a reply still thinking then is closed by the
          style's tail and answers in a second call, one whose answer was cut goes on without the tail.
`native`  vLLM's `thinking_token_budget` = budget; refused where the server ignores it (preflight asks it).
`prompt`  asked for in words; capped at twice the budget and the answer's room, so that overshooting shows.

`ignore_eos` is never set: output length is a result here.

Does not know: which budgets are worth asking for, or how a forced answer is graded.
"""

from typing import Any

from loadgen.errors import UsageError
from loadgen.exchange import ForcedAnswer
from loadgen.options import RunOptions
from loadgen.plan.prompts import STYLES, Style, user_text


def body(options: RunOptions, style: Style, problem: str, budget: int) -> dict[str, Any]:
    """Prompt and limits."""
    words = budget if options.budget_mode == "prompt" else None
    fields = limits(options, budget)
    if options.one_pass:
        fields["return_token_ids"] = True  # a chunk that straddles a smaller budget is cut by its ids
    user = user_text(style, problem, words)
    if not raw(options):
        return {"messages": [{"role": "user", "content": user}], **fields}
    return {"prompt": (style.raw or "").replace("{user}", user), **style.raw_body, **fields}


def limits(options: RunOptions, budget: int) -> dict[str, Any]:
    """The fields that hold a reply to its budget."""
    answer = options.answer_tokens
    if options.budget_mode == "native":
        return {"max_tokens": budget + answer, "thinking_token_budget": budget}
    if options.budget_mode == "prompt":
        return {"max_tokens": 2 * budget + answer}
    return {"max_tokens": budget}


def raw(options: RunOptions) -> bool:
    """True where the request goes to `/completions`."""
    return options.path == "completions" or options.budget_mode == "forced"


def path(options: RunOptions) -> str:
    """Endpoint below the target."""
    return "/completions" if raw(options) else "/chat/completions"


def force(options: RunOptions, style: Style) -> ForcedAnswer | None:
    """The second call of `forced`."""
    if options.budget_mode != "forced" or style.force is None:
        return None
    return ForcedAnswer(tail=style.force.tail, max_tokens=options.answer_tokens, ended=style.force.ended)


def check_style(options: RunOptions, name: str, style: Style) -> None:
    """Refuse a style without the template that the mode or the path needs. Raises UsageError."""
    if raw(options) and style.raw is None:
        able = ", ".join(n for n, s in STYLES.items() if s.raw)
        raise UsageError(
            f"--prompt {name} has no raw template, which /completions needs: say --prompt with one of {able}"
        )
    if options.budget_mode == "forced" and style.force is None:
        able = ", ".join(n for n, s in STYLES.items() if s.force)
        raise UsageError(f"--prompt {name} can't force an answer: say --prompt with one of {able}")


def run_for_real(options: RunOptions) -> tuple[int, ...]:
    """Budgets that are sent: all, or under --one-pass the largest and the one that checks the derived ones."""
    if not options.one_pass:
        return options.budgets
    largest = max(options.budgets)
    checked = min(options.budgets) if options.check_budget is None else options.check_budget
    return (largest,) if checked in (0, largest) else (largest, checked)
