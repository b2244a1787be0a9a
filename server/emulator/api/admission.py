"""Checks that refuse a request before the engine sees it: unknown model, invalid ids or lengths, full queue.

Rules: every message is vLLM's, word for word as recorded. This module does not know how a request is executed or HTTP.
"""

from collections.abc import Iterable, Sequence

from server.config import Serving
from server.emulator.api.request_body import RequestError, invalid_parameter
from server.emulator.engine.sequence import TokenSequence

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."

MOST_PROMPT_TOKENS = 2**24
"""Prompt tokens of all choices of one request: 128 MiB of memory. vLLM has no such limit."""


def check_model(name: str, served: Sequence[str]) -> None:
    """Raise RequestError for a model that is not served. An empty name means the served model."""
    if name and name not in served:
        message = f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}."
        raise RequestError(message, type_="NotFoundError", param="model", code=404)


def check_ids(prompts: Iterable[str | list[int]], vocabulary: int) -> None:
    """Raise RequestError for a prompt that contains ids outside the vocabulary."""
    for prompt in prompts:
        if not isinstance(prompt, str) and prompt and max(prompt) >= vocabulary:
            raise RequestError(f"Token id {max(prompt)} is out of vocabulary")


def check_length(prompt: int, asked: int | None, limit: int) -> None:
    """Raise RequestError if the prompt fills the context or `asked` exceeds it; their sum may exceed it."""
    if asked is not None and asked > limit:
        message = (
            f"max_tokens={asked} cannot be greater than max_model_len={limit}. Please request fewer output tokens."
        )
        raise invalid_parameter("max_tokens", asked, message)
    if prompt < 1:
        raise RequestError("The decoder prompt cannot be empty")
    if prompt >= limit:
        counted = limit + 1  # vLLM stops tokenizing there
        message = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {counted} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt."
        )
        raise invalid_parameter("input_tokens", counted, message)


def check_memory(prompt_tokens: int, choices: int) -> None:
    """Raise RequestError if the copies of the prompts that the choices of one request need would take too much memory."""
    if prompt_tokens * choices > MOST_PROMPT_TOKENS:
        raise RequestError(
            f"n must be at most {MOST_PROMPT_TOKENS // prompt_tokens} for {prompt_tokens} prompt tokens, got {choices}."
        )


def check_thinking(budget: int | None, *, parsed: bool) -> None:
    """Raise RequestError for a thinking budget on a server without a reasoning parser."""
    if budget is not None and not parsed:
        raise RequestError(
            "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or "
            "--reasoning-config to use thinking_token_budget."
        )


def full_queue(serving: Serving, waiting: Iterable[TokenSequence], prompt_tokens: int) -> str | None:
    """The option whose limit a further request would exceed, or None."""
    prompts = [sequence.prompt for sequence in waiting]
    requests, tokens = serving.max_num_queued_reqs, serving.max_num_queued_tokens
    if requests is not None and len(prompts) >= requests:
        return "max_num_queued_reqs"
    if tokens is not None and sum(prompts) + prompt_tokens > tokens:
        return "max_num_queued_tokens"
    return None
