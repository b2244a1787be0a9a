"""What a client asks for: reading and checking a chat or completions body as vLLM does.

Rules: unknown fields are ignored, as vLLM ignores them; a wrong one raises Refusal with vLLM's body and status, before
anything is computed: first types (`Body`, as pydantic reads them), then values (`LIMITS`, as SamplingParams checks them).
Does not know the engine.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

MOST_CHOICES = 16_384  # VLLM_MAX_N_SEQUENCES
MOST_STOP_STRINGS = 4  # VLLM_MAX_STOP_STRINGS
MOST_LOGPROBS = 20  # --max-logprobs
DEFAULT_COMPLETION_TOKENS = 16
GREEDY_BELOW = 1e-5


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """An error answer: `{"error": {message, type, param, code}}`."""

    def __init__(
        self, message: str, *, type_: str = "BadRequestError", param: str | None = None, code: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def invalid(param: str, value: object, message: str) -> Refusal:
    """A 400 about one parameter, in vLLM's words' order."""
    return Refusal(f"{message} (parameter={param}, value={value})", param=param)


def mistyped(kind: str, place: str, message: str, given: object, **more: object) -> Refusal:
    """A 400 about the form of a body, as FastAPI and pydantic word it; vLLM sums up what was given."""
    many = isinstance(given, (list, dict))
    shown = f"<{type(given).__name__} of {len(given)} items>" if many else str(given)  # type: ignore[arg-type]
    detail = {"type": kind, "loc": place, "msg": message, "input": shown, **more}
    return Refusal(f"1 validation error:\n  {detail}", type_="Bad Request", param=place)


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request body, checked."""

    chat: bool
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)
    prompts: list[str | list[int]] = field(default_factory=list)
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special_tokens: bool = True
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    logprobs: int | None = None
    """How many alternatives are shown with each token; None: no logprobs."""
    echo: bool = False
    cache_salt: str | None = None
    thinking_token_budget: int | None = None
    include_reasoning: bool = True
    continues: bool = False
    """The last message is the answer's beginning."""


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Body(msgspec.Struct, kw_only=True):
    """The fields looked at, typed as vLLM types them; read as laxly ("5" is 5). What has a form of its own is Any."""

    model: str | None = None
    messages: Any = None
    prompt: Any = None
    max_tokens: int | UnsetType | None = UNSET
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = 1
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | Annotated[list[str], Meta(max_length=MOST_STOP_STRINGS)] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    echo: bool | None = False
    cache_salt: Any = None
    suffix: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    thinking_token_budget: int | None = None
    include_reasoning: bool = True
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None


HOW_TO_RAISE = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
LIMITS: tuple[tuple[str, Callable[[float], bool], str, bool], ...] = (
    # in SamplingParams' order; the last says whether its message names the parameter
    ("n", lambda n: n >= 1, "must be at least 1, got VALUE.", False),
    ("n", lambda n: n <= MOST_CHOICES, f"must be at most {MOST_CHOICES}, got VALUE. {HOW_TO_RAISE}", False),
    ("presence_penalty", lambda penalty: -2 <= penalty <= 2, "must be in [-2, 2], got VALUE.", False),
    ("frequency_penalty", lambda penalty: -2 <= penalty <= 2, "must be in [-2, 2], got VALUE.", False),
    ("repetition_penalty", lambda penalty: penalty > 0, "must be greater than zero, got VALUE.", False),
    ("temperature", lambda temperature: temperature >= 0, "must be non-negative, got VALUE.", True),
    ("temperature", lambda temperature: temperature <= 2, "must be in [0, 2], got VALUE.", True),
    ("top_p", lambda share: 0 < share <= 1, "must be in (0, 1], got VALUE.", True),
    ("top_k", lambda count: count >= -1, "must be 0 (disable), or at least 1, got VALUE.", False),
    ("min_p", lambda share: 0 <= share <= 1, "must be in [0, 1], got VALUE.", False),
    ("max_tokens", lambda tokens: tokens >= 1, "must be at least 1, got VALUE.", True),
    ("min_tokens", lambda tokens: tokens >= 0, "must be greater than or equal to 0, got VALUE.", False),
)


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object; vLLM's answer to what is none."""
    if not body:
        raise mistyped("missing", "body", "Field required", None)
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = getattr(error, "args", [""])[0].rpartition("byte ")[2].rstrip(")")
        at = int(place) if place.isdigit() else len(body)
        reason = {"error": "Expecting value"}
        raise mistyped("json_invalid", f"body.{at}", "JSON decode error", {}, ctx=reason) from error
    if not isinstance(found, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise mistyped("model_attributes_type", "body", message, found)
    return found


WORDS = {
    "int": ("int", "integer", ", unable to parse string as an integer"),
    "float": ("float", "number", ", unable to parse string as a number"),
    "bool": ("bool", "boolean", ", unable to interpret input"),
    "str": ("string", "string", ""),
    "array": ("list", "list", ""),
    "object": ("dict", "dictionary", ""),
}


def _read(body: dict[str, Any]) -> Body:
    try:
        return msgspec.convert(body, Body, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        wanted, key = what.partition(", got")[0], re.findall(r"\w+", where)[0]
        kind = next((kind for kind in WORDS if f"`{kind}" in wanted), "str")
        name, text, unread = WORDS[kind]
        form, given = "type", body[key]
        if isinstance(given, str) and unread:
            form, text = "parsing", text + unread
        elif isinstance(given, float) and kind == "int":
            form, text = "from_float", text + ", got a number with a fractional part"
        raise mistyped(f"{name}_{form}", f"body.{key}", f"Input should be a valid {text}", given) from error


def _check_values(body: Body) -> None:
    for key, holds, text, named in LIMITS:
        value = getattr(body, key)
        if value is not None and value is not UNSET and not holds(value):
            message = f"{key} {text}".replace("VALUE", str(value))
            raise invalid(key, value, message) if named else Refusal(message)
    if (body.thinking_token_budget or 0) < -1:
        message = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
        raise invalid("thinking_token_budget", body.thinking_token_budget, message)


def _check_together(body: Body, *, chat: bool) -> None:
    """What does not go with what else is asked: the first is told."""
    greedy = body.temperature is not None and body.temperature < GREEDY_BELOW
    auto = body.tool_choice is None or body.tool_choice == "auto"
    for wrong, message, param in (
        (
            body.stream_options is not None and not body.stream,
            "Stream options can only be defined when `stream=True`.",
            "stream_options",
        ),
        (
            body.cache_salt is not None and not (isinstance(body.cache_salt, str) and body.cache_salt),
            "Parameter 'cache_salt' must be a non-empty string if provided.",
            "cache_salt",
        ),
        (
            body.continue_final_message and body.add_generation_prompt,
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            "continue_final_message",
        ),
        (
            chat and body.top_logprobs and not body.logprobs,
            "when using `top_logprobs`, `logprobs` must be set to true.",
            "top_logprobs",
        ),
        (
            chat and not body.tools and body.tool_choice is not None and body.tool_choice != "none",
            "When using `tool_choice`, `tools` must be set.",
            "tool_choice",
        ),
        (
            chat and body.tools and auto,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            None,
        ),
        ((body.n or 1) > 1 and greedy, f"n must be 1 when using greedy sampling, got {body.n}.", None),
        ("" in _stops(body), "stop cannot contain an empty string.", None),
    ):
        if wrong:
            raise Refusal(f"{message} (parameter={param})" if param else message, param=param)


def _stops(body: Body) -> list[str]:
    return [body.stop] if isinstance(body.stop, str) else body.stop or []


def _message(message: object, number: int, model: str) -> dict[str, str]:
    """One message with its content as text; list-typed parts are joined by newlines, as vLLM's string format does."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise mistyped("missing", f"body.messages.{number}.role", "Field required", message)
    content = message.get("content") or ""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        if any(str(part.get("type")).startswith(("image", "audio", "video", "input_")) for part in parts):
            raise Refusal(f"{model} is not a multimodal model")
        content = "\n".join(str(part.get("text", "")) for part in parts)
    return {"role": message["role"], "content": str(content)}


def read_messages(body: dict[str, Any]) -> list[dict[str, str]]:
    """A chat, checked."""
    messages = body.get("messages")
    if messages is None:
        raise mistyped("missing", "body.messages", "Field required", body)
    if not isinstance(messages, list):
        raise mistyped("list_type", "body.messages", "Input should be a valid list", messages)
    if not messages:
        raise Refusal("Cannot apply chat template to an empty conversation. Provide at least one message.")
    return [_message(message, at, str(body.get("model") or "This")) for at, message in enumerate(messages)]


def _prompts(value: object) -> list[str | list[int]]:
    """One prompt or several, as text or as ids."""

    def is_ids(item: object) -> bool:
        return isinstance(item, list) and all(type(token) is int and token >= 0 for token in item)

    if value is None or value == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refusal(message, param="prompt")
    if value == []:
        raise Refusal("You must pass at least one prompt")
    if isinstance(value, str) or is_ids(value):
        return [value]  # type: ignore[list-item]  # is_ids says so
    if isinstance(value, list) and (all(isinstance(i, str) for i in value) or all(map(is_ids, value))):
        return value
    raise mistyped("string_type", "body.prompt", "Input should be a valid string", value)


def _logprobs(body: Body, *, chat: bool) -> int | None:
    """A chat says whether and, apart, how many; a completion says how many."""
    if body.logprobs is None or body.logprobs is False:
        return None
    count = (body.top_logprobs or 0) if chat else int(body.logprobs)
    if count > MOST_LOGPROBS:
        message = f"Requested sample logprobs of {count}, which is greater than max allowed: {MOST_LOGPROBS}"
        raise invalid("logprobs", count, message)
    return count


def read_ask(sent: dict[str, Any], *, chat: bool) -> Ask:
    """Check one body."""
    body = _read(sent)
    if chat and body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    _check_values(body)
    _check_together(body, chat=chat)
    if body.suffix and not chat:
        raise Refusal("suffix is only supported for models with FIM completion rendering", param="suffix")
    limit = body.max_tokens
    if limit is UNSET:
        limit = None if chat else DEFAULT_COMPLETION_TOKENS
    if limit is not None and body.min_tokens > limit:
        raise Refusal(f"min_tokens must be less than or equal to max_tokens={limit}, got {body.min_tokens}.")
    options = body.stream_options or StreamOptions()
    budget = body.thinking_token_budget
    return Ask(
        chat=chat,
        model=body.model or "",
        messages=read_messages(sent) if chat else [],
        prompts=[] if chat else _prompts(body.prompt),
        max_tokens=limit,
        min_tokens=body.min_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        seed=body.seed,
        n=body.n or 1,
        stop=tuple(_stops(body)),
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        return_token_ids=bool(body.return_token_ids),
        logprobs=_logprobs(body, chat=chat),
        echo=bool(body.echo) and not chat,
        cache_salt=body.cache_salt,
        thinking_token_budget=None if budget == -1 else budget,
        include_reasoning=body.include_reasoning,
        continues=body.continue_final_message,
    )
