"""Reads what a client requests: the body's fields, with values checked as vLLM's SamplingParams checks them.

Rules: an invalid value raises RequestError before anything is computed. This module does not know the engine.
"""

from collections.abc import Callable
from typing import Any

from server.emulator.api.request_body import (
    RequestBody,
    RequestError,
    StreamOptions,
    invalid_parameter,
    read_body,
    read_messages,
    read_prompts,
)

MOST_CHOICES = 16_384  # VLLM_MAX_N_SEQUENCES
MOST_LOGPROBS = 20  # --max-logprobs
DEFAULT_COMPLETION_TOKENS = 16
GREEDY_BELOW = 1e-5


TOO_MANY = (
    f"must be at most {MOST_CHOICES}, got {{value}}. "
    "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
)
LIMITS: tuple[tuple[str, Callable[[float], bool], str, bool], ...] = (
    # in the order of SamplingParams: field, condition, message, and whether the message names the parameter
    ("n", lambda n: n >= 1, "must be at least 1, got {value}.", False),
    ("n", lambda n: n <= MOST_CHOICES, TOO_MANY, False),
    ("presence_penalty", lambda penalty: -2 <= penalty <= 2, "must be in [-2, 2], got {value}.", False),
    ("frequency_penalty", lambda penalty: -2 <= penalty <= 2, "must be in [-2, 2], got {value}.", False),
    ("repetition_penalty", lambda penalty: penalty > 0, "must be greater than zero, got {value}.", False),
    ("temperature", lambda temperature: temperature >= 0, "must be non-negative, got {value}.", True),
    ("temperature", lambda temperature: temperature <= 2, "must be in [0, 2], got {value}.", True),
    ("top_p", lambda p: 0 < p <= 1, "must be in (0, 1], got {value}.", True),
    ("top_k", lambda count: count >= -1, "must be 0 (disable), or at least 1, got {value}.", False),
    ("min_p", lambda p: 0 <= p <= 1, "must be in [0, 1], got {value}.", False),
    ("max_tokens", lambda tokens: tokens >= 1, "must be at least 1, got {value}.", True),
    ("min_tokens", lambda tokens: tokens >= 0, "must be greater than or equal to 0, got {value}.", False),
)


def _check_values(body: RequestBody) -> None:
    for key, holds, text, named in LIMITS:
        value = getattr(body, key)
        if value is not None and not holds(value):
            message = f"{key} {text.format(value=value)}"
            raise invalid_parameter(key, value, message) if named else RequestError(message)
    if (body.thinking_token_budget or 0) < -1:
        message = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
        raise invalid_parameter("thinking_token_budget", body.thinking_token_budget, message)


def _conflict(message: str, param: str) -> RequestError:
    return RequestError(f"{message} (parameter={param})", param=param)


def _check_together(body: RequestBody, *, chat: bool) -> None:
    """Raise RequestError for the first combination of fields that vLLM refuses."""
    if body.stream_options is not None and not body.stream:
        raise _conflict("Stream options can only be defined when `stream=True`.", "stream_options")
    if body.cache_salt is not None and not (isinstance(body.cache_salt, str) and body.cache_salt):
        raise _conflict("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if body.continue_final_message and body.add_generation_prompt:
        both = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise _conflict(both, "continue_final_message")
    if chat and body.top_logprobs and not body.logprobs:
        raise _conflict("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if chat and not body.tools and body.tool_choice not in (None, "none"):
        raise _conflict("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if chat and body.tools and body.tool_choice in (None, "auto"):
        needs = "requires --enable-auto-tool-choice and --tool-call-parser to be set"
        raise RequestError(f'"auto" tool choice {needs}')
    if body.n > 1 and body.temperature < GREEDY_BELOW:
        raise RequestError(f"n must be 1 when using greedy sampling, got {body.n}.")
    if "" in body.stop:
        raise RequestError("stop cannot contain an empty string.")


def _logprobs(body: RequestBody, *, chat: bool) -> int | None:
    """The number of logprobs. A chat has two fields for it (`logprobs`, `top_logprobs`), a completion one."""
    if body.logprobs is None or body.logprobs is False:
        return None
    count = (body.top_logprobs or 0) if chat else int(body.logprobs)
    if count > MOST_LOGPROBS:
        message = f"Requested sample logprobs of {count}, which is greater than max allowed: {MOST_LOGPROBS}"
        raise invalid_parameter("logprobs", count, message)
    return count


def read_sampling_params(sent: dict[str, Any], *, chat: bool) -> RequestBody:
    """Read and check one body. Raises RequestError."""
    body = read_body(sent)
    if chat and body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    elif not chat and "max_tokens" not in sent:
        body.max_tokens = DEFAULT_COMPLETION_TOKENS
    if isinstance(body.stop, str):
        body.stop = [body.stop]
    _check_values(body)
    _check_together(body, chat=chat)
    if body.suffix and not chat:
        message = "suffix is only supported for models with FIM completion rendering"
        raise RequestError(message, param="suffix")
    limit = body.max_tokens
    if limit is not None and body.min_tokens > limit:
        message = f"min_tokens must be less than or equal to max_tokens={limit}, got {body.min_tokens}."
        raise RequestError(message)
    body.prompt = [] if chat else read_prompts(body.prompt)
    # vLLM limits the choices of each prompt. The emulator creates all of a request at once, and meanwhile answers nobody else.
    if body.n * len(body.prompt) > MOST_CHOICES:
        message = (
            f"n must be at most {MOST_CHOICES} for all prompts together, got {body.n} for each of {len(body.prompt)}."
        )
        raise RequestError(message)
    options = body.stream_options or StreamOptions()
    body.chat, body.messages = chat, read_messages(sent) if chat else []
    body.include_usage = bool(options.include_usage)
    body.continuous_usage = body.include_usage and bool(options.continuous_usage_stats)
    body.logprobs = _logprobs(body, chat=chat)
    body.echo = body.echo and not chat
    if body.thinking_token_budget == -1:
        body.thinking_token_budget = None
    return body
