"""What a client asks for: reading and checking a chat or completions body as vLLM does.

Rules: unknown fields are ignored, as vLLM ignores them; a wrong one raises Refusal with vLLM's body and status, before
anything is computed. Does not know the engine.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec


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
    logprobs: bool = False
    echo: bool = False
    cache_salt: str | None = None
    thinking_token_budget: int | None = None
    include_reasoning: bool = True


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object; vLLM's answer to what is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = getattr(error, "args", [""])[0].rpartition("byte ")[2].rstrip(")")
        at = int(place) if place.isdigit() else len(body)
        detail = {
            "type": "json_invalid",
            "loc": f"body.{at}",
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
            "ctx": {"error": "Expecting value"},
        }
        raise Refusal(f"1 validation error:\n  {detail}", type_="Bad Request", param=f"body.{at}") from error
    if not isinstance(found, dict):
        raise Refusal(
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object to extract fields from'}",
            type_="Bad Request",
            param="body",
        )
    return found


TYPES: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,),
    "max_completion_tokens": (int,),
    "min_tokens": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": (int,),
    "n": (int,),
    "stream": (bool,),
    "ignore_eos": (bool,),
    "stop": (str, list),
    "stop_token_ids": (list,),
    "stream_options": (dict,),
    "return_token_ids": (bool,),
    "cache_salt": (str,),
    "thinking_token_budget": (int,),
    "echo": (bool,),
}
EXPECTED = {int: "integer", float: "number", str: "string", bool: "boolean", list: "list", dict: "dictionary"}


def _check_types(body: dict[str, Any]) -> None:
    for key, types in TYPES.items():
        value = body.get(key)
        wrong_bool = isinstance(value, bool) and bool not in types
        if value is not None and (not isinstance(value, types) or wrong_bool):
            wanted = EXPECTED[types[-1]]
            detail = {
                "type": f"{wanted}_type",
                "loc": f"body.{key}",
                "msg": f"Input should be a valid {wanted}",
                "input": value,
            }
            raise Refusal(f"1 validation error:\n  {detail}", type_="Bad Request", param=f"body.{key}")


def _check_values(body: dict[str, Any]) -> None:
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Refusal(
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            param="stream_options",
        )
    for key in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(key)
        if value is not None and value < 1:
            raise invalid(key, value, f"{key} must be at least 1, got {value}.")
    temperature = body.get("temperature")
    if temperature is not None and temperature < 0:
        raise invalid("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
    top_p = body.get("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise invalid("top_p", top_p, f"top_p must be in (0, 1], got {top_p}.")
    if (body.get("thinking_token_budget") or 0) < 0:
        raise invalid(
            "thinking_token_budget",
            body["thinking_token_budget"],
            "thinking_token_budget must be non-negative.",
        )
    if body.get("max_tokens") is not None and (body.get("min_tokens") or 0) > body["max_tokens"]:
        raise invalid(
            "min_tokens",
            body["min_tokens"],
            f"min_tokens must be less than or equal to max_tokens={body['max_tokens']}, got {body['min_tokens']}.",
        )


def _content(message: object) -> dict[str, str]:
    """One message with its content as text; list-typed parts are joined by newlines, as vLLM's string format does."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refusal(
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages.0.role', 'msg': 'Field required'}",
            type_="Bad Request",
            param="body.messages",
        )
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {"role": message["role"], "content": str(content)}


def _prompts(value: object) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return [value]
        if all(isinstance(item, (str, list)) for item in value):
            return value
    raise Refusal("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")


def read_ask(body: dict[str, Any], *, chat: bool) -> Ask:
    """Check one body."""
    _check_types(body)
    ask = Ask(chat=chat, model=str(body.get("model") or ""))
    _check_values(body)
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required'}",
                type_="Bad Request",
                param="body.messages",
            )
        ask.messages = [_content(message) for message in messages]
        ask.max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    else:
        ask.prompts = _prompts(body.get("prompt"))
        ask.max_tokens = body.get("max_tokens") or 16
        ask.echo = bool(body.get("echo"))
    stop = body.get("stop") or ()
    ask.stop = (stop,) if isinstance(stop, str) else tuple(s for s in stop if s)
    ask.stop_token_ids = frozenset(body.get("stop_token_ids") or ())
    ask.temperature = float(body["temperature"]) if body.get("temperature") is not None else 1.0
    ask.seed, ask.n, ask.min_tokens = body.get("seed"), body.get("n") or 1, body.get("min_tokens") or 0
    ask.ignore_eos, ask.include_stop = (
        bool(body.get("ignore_eos")),
        bool(body.get("include_stop_str_in_output")),
    )
    ask.skip_special_tokens = body.get("skip_special_tokens", True) is not False
    ask.stream, options = bool(body.get("stream")), body.get("stream_options") or {}
    ask.include_usage = bool(options.get("include_usage"))
    ask.continuous_usage = ask.include_usage and bool(options.get("continuous_usage_stats"))
    ask.return_token_ids = bool(body.get("return_token_ids"))
    ask.logprobs = body.get("logprobs") not in {None, False}
    ask.cache_salt, ask.thinking_token_budget = body.get("cache_salt"), body.get("thinking_token_budget")
    ask.include_reasoning = body.get("include_reasoning", True) is not False
    return ask
