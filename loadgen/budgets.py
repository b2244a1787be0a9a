"""Four ways to hold a reply to a token budget, as fields of a request and, for `forced`, as two calls in one.

`cut`     max_tokens = budget: counts thinking and answer; a reply that hits it is truncated.
`forced`  max_tokens = budget on `/completions` with the raw template; a reply still thinking then is closed by the
          style's tail and answers in a second call, one whose answer was cut goes on without the tail.
`native`  vLLM's `thinking_token_budget` = budget; refused where the server ignores it (preflight asks it).
`prompt`  asked for in words; capped at twice the budget and the answer's room, so that overshooting shows.

`ignore_eos` is never set: output length is a result here.

Does not know: which budgets are worth asking for, or how a forced answer is graded.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from loadgen.exchange import Exchange, Force, Request
from loadgen.measure import Clock, completion_tokens
from loadgen.options import RunOptions
from loadgen.prompts import STYLES, Style, user_text
from loadgen.values import UsageError

Send = Callable[[Request], Awaitable[Exchange]]


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


def force(options: RunOptions, style: Style) -> Force | None:
    """The second call of `forced`."""
    if options.budget_mode != "forced" or style.force is None:
        return None
    return Force(tail=style.force.tail, max_tokens=options.answer_tokens, ended=style.force.ended)


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


class Phase(NamedTuple):
    """One call of a forced request."""

    kind: str
    exchange: Exchange

    def row(self, clock: Clock) -> dict[str, Any]:
        """For `Record.phases`."""
        exchange = self.exchange
        return {
            "kind": self.kind,
            "sent_s": clock.at_s(exchange.sent_ns),
            "first_token_s": clock.at_s(exchange.arrival_ns[0] if exchange.arrival_ns else None),
            "last_token_s": clock.at_s(exchange.arrival_ns[-1] if exchange.arrival_ns else None),
            "end_s": clock.at_s(exchange.end_ns),
            "prompt_tokens": (exchange.usage or {}).get("prompt_tokens"),
            "completion_tokens": completion_tokens(exchange),
            "outcome": exchange.outcome,
            "finish_reason": exchange.finish_reason,
            **({"server_timings": exchange.server_timings} if exchange.server_timings else {}),
        }


async def send_forced(send: Send, request: Request) -> tuple[Exchange, list[Phase]]:
    """Both calls of a `forced` request as one Exchange; a reply that ended within its budget needs no second call."""
    think = await send(request)
    phases = [Phase("think", think)]
    second = second_call(request, think)
    if second is None:
        return think, phases
    kind, tail, follow_up = second
    answer = await send(follow_up)
    phases.append(Phase(kind, answer))
    return joined(think, tail, answer), phases


def second_call(request: Request, think: Exchange) -> tuple[str, str, Request] | None:
    """What the second call is for (`answer` | `continue`), the text put in between, and the call."""
    force = request.force
    if force is None or think.outcome != "ok" or think.finish_reason != "length":
        return None
    text = "".join(reasoning + content for reasoning, content in think.pieces)
    ended = bool(force.ended) and force.ended in text
    tail = "" if ended else force.tail
    if text.endswith("\n"):
        tail = tail.removeprefix("\n")
    stop = {"stop": list(force.stop)} if force.stop else {}
    body = (
        request.body | {"prompt": request.body["prompt"] + text + tail, "max_tokens": force.max_tokens} | stop
    )
    return ("continue" if ended else "answer"), tail, dataclasses.replace(request, body=body)


def joined(think: Exchange, tail: str, answer: Exchange) -> Exchange:
    """Two calls as one: sent with the first, ended with the second, tokens and latency of both, the tail in the text."""
    pieces = list(answer.pieces)
    if pieces:
        pieces[0] = (pieces[0][0], tail + pieces[0][1])
    first, second = think.usage or {}, answer.usage or {}
    counts = [n for usage in (first, second) if isinstance(n := usage.get("completion_tokens"), int)]
    usage = {**first, "completion_tokens": sum(counts)} if len(counts) == 2 else None
    return dataclasses.replace(
        answer,
        sent_ns=think.sent_ns,
        headers_ns=think.headers_ns,
        arrival_ns=think.arrival_ns + answer.arrival_ns,
        tokens=think.tokens + answer.tokens,
        pieces=think.pieces + pieces,
        token_ids=None,
        first_answer_ns=think.first_answer_ns or (answer.arrival_ns[0] if answer.arrival_ns else None),
        usage=usage,
        token_source=think.token_source,
        server_timings=None,
    )
