"""Reads the JSON body of a request: fields with the types that pydantic accepts, and errors for bodies of another form.

Rules: an error has vLLM's body and status. If a field may have several types, vLLM lists an error for each type and the
emulator only the first. Unknown fields are ignored, as in vLLM. This module does not know what values mean
(sampling_params.py checks them).
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

MOST_STOP_STRINGS = 4  # VLLM_MAX_STOP_STRINGS


class RequestError(Exception):
    """A request that is refused, with the response body `{"error": {message, type, param, code}}`."""

    def __init__(
        self, message: str, *, type_: str = "BadRequestError", param: str | None = None, code: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def invalid_parameter(param: str, value: object, message: str) -> RequestError:
    """An error 400 about one parameter, worded as by vLLM."""
    return RequestError(f"{message} (parameter={param}, value={value})", param=param)


def validation_error(kind: str, location: str, message: str, given: object, **more: object) -> RequestError:
    """An error 400 about the form of a body, worded as by FastAPI and pydantic; vLLM shortens long values."""
    many = isinstance(given, (list, dict))
    shown = f"<{type(given).__name__} of {len(given)} items>" if many else str(given)  # type: ignore[arg-type]
    detail = {"type": kind, "loc": location, "msg": message, "input": shown, **more}
    return RequestError(f"1 validation error:\n  {detail}", type_="Bad Request", param=location)


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class RequestBody(msgspec.Struct, kw_only=True):
    """The fields that are read, with vLLM's types and tolerance ("5" is 5). Fields that other functions check are Any."""

    model: str = ""
    messages: Any = None
    prompt: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | Annotated[list[str], Meta(max_length=MOST_STOP_STRINGS)] = []
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    echo: bool = False
    cache_salt: Any = None
    suffix: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    thinking_token_budget: int | None = None
    include_reasoning: bool = True
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    # Never the client's: read_sampling_params sets these.
    chat: Any = False
    include_usage: Any = False
    continuous_usage: Any = False


NULL_IS_DEFAULT = {"model", "n", "temperature", "stop", "stop_token_ids", "stream", "return_token_ids", "echo"}
"""Fields for which null means the same as no value."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object of the body. Raises RequestError for anything else, and RecursionError for too many levels."""
    if not body:
        raise validation_error("missing", "body", "Field required", None)
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = getattr(error, "args", [""])[0].rpartition("byte ")[2].rstrip(")")
        at = int(place) if place.isdigit() else len(body)
        reason = {"error": "Expecting value"}
        raise validation_error("json_invalid", f"body.{at}", "JSON decode error", {}, ctx=reason) from error
    if not isinstance(found, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise validation_error("model_attributes_type", "body", message, found)
    return found


TYPE_NAMES = {
    "int": ("int", "integer", ", unable to parse string as an integer"),
    "float": ("float", "number", ", unable to parse string as a number"),
    "bool": ("bool", "boolean", ", unable to interpret input"),
    "str": ("string", "string", ""),
    "array": ("list", "list", ""),
    "object": ("dict", "dictionary", ""),
}


def read_body(body: dict[str, Any]) -> RequestBody:
    """Read the fields. Raises RequestError for the first field of a wrong type."""
    try:
        given = {key: body[key] for key in body if body[key] is not None or key not in NULL_IS_DEFAULT}
        return msgspec.convert(given, RequestBody, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        wanted, key = what.partition(", got")[0], re.findall(r"\w+", where)[0]
        kind = next((kind for kind in TYPE_NAMES if f"`{kind}" in wanted), "str")
        name, text, unread = TYPE_NAMES[kind]
        form, value = "type", body[key]
        if isinstance(value, str) and unread:
            form, text = "parsing", text + unread
        elif isinstance(value, float) and kind == "int":
            form, text = "from_float", text + ", got a number with a fractional part"
        message = f"Input should be a valid {text}"
        raise validation_error(f"{name}_{form}", f"body.{key}", message, value) from error


def _message(message: object, number: int, model: str) -> dict[str, str]:
    """One message with its content as text. Parts of a list are joined by newlines, as in vLLM's string format."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise validation_error("missing", f"body.messages.{number}.role", "Field required", message)
    content = message.get("content") or ""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        if any(str(part.get("type")).startswith(("image", "audio", "video", "input_")) for part in parts):
            raise RequestError(f"{model} is not a multimodal model")
        content = "\n".join(str(part.get("text", "")) for part in parts)
    return {"role": message["role"], "content": str(content)}


def read_messages(body: dict[str, Any]) -> list[dict[str, str]]:
    """The messages of a chat. Raises RequestError."""
    messages = body.get("messages")
    if messages is None:
        raise validation_error("missing", "body.messages", "Field required", body)
    if not isinstance(messages, list):
        raise validation_error("list_type", "body.messages", "Input should be a valid list", messages)
    if not messages:
        raise RequestError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    return [_message(message, at, str(body.get("model") or "This")) for at, message in enumerate(messages)]


def read_prompts(value: object) -> list[str | list[int]]:
    """One or several prompts, as text or as ids. Raises RequestError."""

    def is_ids(item: object) -> bool:
        return isinstance(item, list) and all(type(token) is int and token >= 0 for token in item)

    if value is None or value == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise RequestError(message, param="prompt")
    if value == []:
        raise RequestError("You must pass at least one prompt")
    if isinstance(value, str) or is_ids(value):
        return [value]  # type: ignore[list-item]  # checked by is_ids
    if isinstance(value, list) and (all(isinstance(i, str) for i in value) or all(map(is_ids, value))):
        return value
    raise validation_error("string_type", "body.prompt", "Input should be a valid string", value)
