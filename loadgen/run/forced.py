"""Sends a request with a forced token budget in two calls, as R1 and s1 do: stop the thinking, then force an answer.

Rules: an answer that ends within its budget needs no second call. The two calls together count as one request.

This module does not know when a request is due or how it is recorded.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from loadgen.clock import RunClock
from loadgen.exchange import Exchange, Request
from loadgen.measure.formulas import completion_tokens

Send = Callable[[Request], Awaitable[Exchange]]


class Phase(NamedTuple):
    """One of the two calls of a request."""

    kind: str
    exchange: Exchange

    def row(self, clock: RunClock) -> dict[str, Any]:
        """The entry of this call in `Record.phases`."""
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
    """Send a request with a forced budget. Returns both calls as one Exchange, and each call by itself."""
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
    """The purpose of the second call (`answer` or `continue`), the text that ends the thinking, and the request.

    Returns None if the first call has failed or ended within its budget.
    """
    force = request.force
    if force is None or think.outcome != "ok" or think.finish_reason != "length":
        return None
    text = "".join(reasoning + content for reasoning, content in think.pieces)
    ended = force.ended in text
    tail = "" if ended else force.tail
    if text.endswith("\n"):
        tail = tail.removeprefix("\n")
    body = request.body | {"prompt": request.body["prompt"] + text + tail, "max_tokens": force.max_tokens}
    return ("continue" if ended else "answer"), tail, dataclasses.replace(request, body=body)


def joined(think: Exchange, tail: str, answer: Exchange) -> Exchange:
    """Both calls as one Exchange, which begins with the first and ends with the second. Its text contains `tail`."""
    pieces = list(answer.pieces)
    if pieces:
        pieces[0] = (pieces[0][0], tail + pieces[0][1])
    first, second = think.usage or {}, answer.usage or {}
    counts = [n for usage in (first, second) if isinstance(n := usage.get("completion_tokens"), int)]
    usage = {**first, "completion_tokens": sum(counts)} if len(counts) == 2 else None
    return dataclasses.replace(
        answer,
        sent_ns=think.sent_ns,
        connect_ns=think.connect_ns,
        reused=think.reused,
        headers_ns=think.headers_ns,
        arrival_ns=think.arrival_ns + answer.arrival_ns,
        tokens=think.tokens + answer.tokens,
        pieces=think.pieces + pieces,
        token_ids=None,
        first_answer_ns=think.first_answer_ns or (answer.arrival_ns[0] if answer.arrival_ns else None),
        usage=usage,
        token_source=think.token_source,
        hidden_tokens=think.hidden_tokens,
        counts_disagree=think.counts_disagree or answer.counts_disagree,
        other_choices=think.other_choices or answer.other_choices,
        server_timings=None,
    )
