"""What is refused at the door: a model that is not served, ids and lengths that do not fit, a full queue.

Rules: each refusal is vLLM's, word for word as recorded. Does not know the engine or HTTP.
"""

from collections.abc import Iterable, Sequence

from server.config import Serving
from server.emulator.api.request_body import Refusal, invalid
from server.emulator.engine.sequence import TokenSequence

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."


def check_model(name: str, served: Sequence[str]) -> None:
    """A model that is not served; none named is the one that is."""
    if name and name not in served:
        message = f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}."
        raise Refusal(message, type_="NotFoundError", param="model", code=404)


def check_ids(prompts: Iterable[str | list[int]], vocabulary: int) -> None:
    """A prompt given as ids of which one is none."""
    for prompt in prompts:
        if not isinstance(prompt, str) and prompt and max(prompt) >= vocabulary:
            raise Refusal(f"Token id {max(prompt)} is out of vocabulary")


def check_length(prompt: int, asked: int | None, limit: int) -> None:
    """A prompt that leaves no room, or more output asked for than the model's context; both together may exceed it."""
    if asked is not None and asked > limit:
        message = f"max_tokens={asked} cannot be greater than max_model_len={limit}. Please request fewer output tokens."
        raise invalid("max_tokens", asked, message)
    if prompt < 1:
        raise Refusal("The decoder prompt cannot be empty")
    if prompt >= limit:
        seen = limit + 1  # vLLM stops tokenising there
        message = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {seen} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt."
        )
        raise invalid("input_tokens", seen, message)


def check_thinking(budget: int | None, *, parsed: bool) -> None:
    """A thinking budget where nothing tells thinking from the rest."""
    if budget is not None and not parsed:
        raise Refusal(
            "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or "
            "--reasoning-config to use thinking_token_budget."
        )


def full_queue(serving: Serving, waiting: Iterable[TokenSequence], prompt_tokens: int) -> str | None:
    """The option whose limit a further request would break, if any."""
    prompts = [stream.prompt for stream in waiting]
    requests, tokens = serving.max_num_queued_reqs, serving.max_num_queued_tokens
    if requests is not None and len(prompts) >= requests:
        return "max_num_queued_reqs"
    if tokens is not None and sum(prompts) + prompt_tokens > tokens:
        return "max_num_queued_tokens"
    return None
