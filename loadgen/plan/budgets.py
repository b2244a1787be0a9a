"""Limits a reply to a token budget, in one of four modes.

`cut`     max_tokens = budget. It counts reasoning and answer, so a reply that reaches it is truncated.
`forced`  max_tokens = budget, on `/completions` with the raw template. Where the reply is still reasoning at the budget, a
          second call ends the reasoning with the style's text and asks for the answer. Where the answer itself was cut, the
          second call continues it.
`native`  vLLM's `thinking_token_budget` = budget. A server that ignores it is refused before the run.
`prompt`  The prompt asks for the budget in words. The reply is limited to twice the budget plus the room for the answer, so
          that a reply that exceeds the budget is visible as such.

`ignore_eos` is set for synthetic prompts only. With all others, the output length is a result of the run.

This module does not know which budgets are worth asking for or how an answer is graded.
"""

import dataclasses
from typing import Any

from loadgen.errors import UsageError
from loadgen.exchange import ForcedAnswer
from loadgen.options import RunOptions, completions_route, open_loop
from loadgen.plan.prompts import STYLES, Style, user_text


def body(
    options: RunOptions, style: Style, problem: str, budget: int, limit_field: str = "max_tokens"
) -> dict[str, Any]:
    """Return the fields of a request's body that hold the prompt and the limits.

    `limit_field` is what the server calls the limit of a chat reply. In /completions it is always `max_tokens`.
    """
    fields = _limits(options, budget)
    if not uses_completions(options):
        fields[limit_field] = fields.pop("max_tokens")
    if options.one_pass:
        # Where a chunk holds tokens on both sides of a smaller budget, its text is cut with the help of the token ids.
        fields["return_token_ids"] = True
    user = user_text(style, problem, budget if options.budget_mode == "prompt" else None)
    if not uses_completions(options):
        return {"messages": [{"role": "user", "content": user}], **fields}
    return {"prompt": (style.raw or "").replace("{user}", user), **style.raw_body, **fields}


def _limits(options: RunOptions, budget: int) -> dict[str, Any]:
    answer = options.answer_tokens
    if options.budget_mode == "native":
        return {"max_tokens": budget + answer, "thinking_token_budget": budget}
    if options.budget_mode == "prompt":
        return {"max_tokens": 2 * budget + answer}
    return {"max_tokens": budget}


def uses_completions(options: RunOptions) -> bool:
    """Tell whether requests hold a prompt (/completions) instead of messages (/chat/completions)."""
    return completions_route(options.path) or options.budget_mode == "forced"


def path(options: RunOptions) -> str:
    """Return the path of the endpoint below the target."""
    if options.path.startswith("/"):
        return options.path
    return "/completions" if uses_completions(options) else "/chat/completions"


def forced_answer(options: RunOptions, style: Style) -> ForcedAnswer | None:
    """Return what the second call of mode `forced` needs, or None in the other modes."""
    if options.budget_mode != "forced" or style.force is None:
        return None
    return dataclasses.replace(style.force, max_tokens=options.answer_tokens)


def check_style(options: RunOptions, name: str, style: Style) -> None:
    """Check that the style has the template that the mode and the endpoint need. Raises UsageError."""
    if uses_completions(options) and style.raw is None:
        able = ", ".join(n for n, s in STYLES.items() if s.raw)
        raise UsageError(
            f"--prompt {name} has no raw template, which /completions needs: use --prompt with one of {able}"
        )
    if options.budget_mode == "forced" and style.force is None:
        able = ", ".join(n for n, s in STYLES.items() if s.force)
        raise UsageError(f"--prompt {name} can't force an answer: use --prompt with one of {able}")


def sent_budgets(options: RunOptions) -> tuple[int, ...]:
    """Return the budgets that are sent: all, or with --one-pass the largest and then those that check the derived ones.

    Without --check-budget these are the smallest and a middle one. With one request in flight a derived reply is exact, and the
    smallest is enough.
    """
    if not options.one_pass:
        return options.budgets
    *smaller, largest = sorted(options.budgets)
    if options.check_budget is not None:
        checked = [options.check_budget] if options.check_budget not in (0, largest) else []
    elif options.concurrency == 1 and not open_loop(options):
        checked = smaller[:1]
    else:
        checked = sorted({smaller[0], smaller[len(smaller) // 2]})
    return (largest, *checked)
