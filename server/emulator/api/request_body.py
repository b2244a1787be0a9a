"""The form of a request's body: JSON, types as pydantic reads them, and the refusals of what has another form.

Rules: a refusal has vLLM's body and status; where a field may have several types, vLLM lists an error for each and we the
first. Unknown fields are ignored, as vLLM ignores them. What the values mean is ask.py's business.
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

MOST_STOP_STRINGS = 4  # VLLM_MAX_STOP_STRINGS


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


def read_body(body: dict[str, Any]) -> Body:
    """The fields, or a refusal of the first that is mistyped."""
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


def read_prompts(value: object) -> list[str | list[int]]:
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
