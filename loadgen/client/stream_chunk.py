"""Decodes the JSON of one event of a stream, or of one whole answer, into a Chunk: the fields that the client needs.

The usual shape is decoded by msgspec with types. Where that is refused, for example because a field has another type than the
standard says, the event is read again without types, and every field that is needed is taken as far as it can be understood.
So a field that nobody needs never costs an answer. Text is looked for in `delta`, `message` and `text`; reasoning in the fields
of REASONING and the parts of a `content` that is a list.

This module does not know the order of events, timestamps or outcomes.
"""

import math
import re
from typing import Annotated, Any

import msgspec

from loadgen.client.finish_reasons import MAX_REASON_CHARS
from loadgen.client.loose_json import MAX_COUNT, count_of, encodable, read_json

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "reasoning_tokens", "prompt_cache_hit_tokens")
MAX_TIMINGS = 64
"""How many of a server's own timings are kept."""

REASONING = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "reasoning_details",
    "reasoning_text",
    "reasoning_summary",
    "reasoningContent",
    "thinking_content",
    "thinking_blocks",
    "thought",
    "thoughts",
)
"""Fields with the reasoning, of which the first one with text is read. The typed decoder reads only the first two (see Delta)."""
ELSEWHERE = re.compile(rf'"(?:{"|".join(REASONING[2:])}|tool_calls|function_call|refusal|message)"\s*:'.encode())
"""Fields that hold text which the typed decoder does not read."""


class TokenUsage(msgspec.Struct, gc=False):
    """The `usage` object."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    """SGLang writes it here; the standard puts it into `completion_tokens_details`."""
    prompt_cache_hit_tokens: Count | None = None
    """DeepSeek's name for `prompt_tokens_details.cached_tokens`."""
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None
    unusable: str | None = msgspec.field(name="<unusable>", default=None)
    """A count that is none, as `name value`. It is set only where the object was read without types."""

    def reasoning(self) -> int | None:
        """Return the number of reasoning tokens, if reported."""
        return count_of((self.completion_tokens_details or {}).get("reasoning_tokens")) or self.reasoning_tokens

    def cached(self) -> int | None:
        """Return the number of prompt tokens from the prefix cache, if reported."""
        details = self.prompt_tokens_details
        found = count_of(details.get("cached_tokens")) if details else None
        return self.prompt_cache_hit_tokens if found is None else found


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds to an answer."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(msgspec.Struct, gc=False):
    """One choice of a chunk."""

    index: Count | None = 0
    """Which answer of the request this is. A number that cannot be one is taken for the first."""
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[TokenId] | None = None
    usage: TokenUsage | None = None
    error: Any = None
    other_text: bool = msgspec.field(name="<other text>", default=False)
    """It holds text that is neither answer nor reasoning, such as the arguments of a tool."""


class _Groq(msgspec.Struct, gc=False):
    usage: TokenUsage | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream, or one whole answer."""

    choices: list[ChunkChoice] | None = None
    usage: TokenUsage | None = None
    error: Any = None
    metrics: dict[str, Any] | None = None
    x_groq: _Groq | None = None


decode_typed = msgspec.json.Decoder(Chunk).decode
TYPE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What `decode_typed` raises for another shape, and for bytes that are not JSON, not UTF-8 or nested too deeply."""


def decode_loosely(event: bytes) -> Chunk | None:
    """Return the chunk as far as it can be understood; None where the JSON is no object. Raises NotJSONError."""
    content = read_json(event)
    return chunk_of(content) if isinstance(content, dict) else None


def chunk_of(content: dict[str, Any]) -> Chunk:
    """Return the chunk in a JSON object of any shape."""
    choices = content.get("choices")
    groq = content.get("x_groq")
    if isinstance(choices, dict):
        choices = [choices]
    return Chunk(
        choices=[_choice(item) for item in choices if isinstance(item, dict)] if isinstance(choices, list) else None,
        usage=_usage(content.get("usage")),
        error=content.get("error"),
        metrics=metrics if isinstance(metrics := content.get("metrics"), dict) else None,
        x_groq=_Groq(_usage(groq.get("usage"))) if isinstance(groq, dict) else None,
    )


def timings_of(metrics: dict[str, Any]) -> dict[str, float] | None:
    """Return those of a server's timings that can be times: finite numbers that are not negative."""
    found = {
        encodable(name)[:MAX_REASON_CHARS]: value
        for name, value in list(metrics.items())[:MAX_TIMINGS]
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    }
    return found or None


def _choice(item: dict[str, Any]) -> ChunkChoice:
    content, reasoning, other = "", "", False
    for key in ("delta", "message"):
        if isinstance(part := item.get(key), dict):
            content, reasoning, other = _texts(part)
            if content or reasoning or other:
                break
    ids = item.get("token_ids")
    known = isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**31 for i in ids)
    index = item.get("index")
    return ChunkChoice(
        index=count_of(index) if index is not None else 0,
        delta=Delta(content or _string(item.get("text")), reasoning),
        finish_reason=_reason(item.get("finish_reason")),
        token_ids=ids if known else None,
        usage=_usage(item.get("usage")),
        error=item.get("error"),
        other_text=other,
    )


def _texts(part: dict[str, Any]) -> tuple[str, str, bool]:
    """Return answer text and reasoning text of a delta or message, and whether it holds any other text."""
    content = _flat(part.get("content"), thinking=False) or _string(part.get("refusal"))
    in_content = _flat(part.get("content"), thinking=True)
    fields = (part.get(name) for name in REASONING)
    reasoning = in_content or next((text for field in fields if (text := _flat(field, thinking=None))), "")
    return content, reasoning, bool(part.get("tool_calls") or part.get("function_call"))


def _flat(value: Any, thinking: bool | None, depth: int = 4) -> str:
    """Return the text in a string, an object or a list of parts: of thinking parts, of the others, or of all (None)."""
    if isinstance(value, list) and depth:
        return "".join(_flat(part, thinking, depth - 1) for part in value)
    if isinstance(value, dict):
        kind = str(value.get("type") or "")
        thinks = "thinking" in value or "think" in kind or "reason" in kind
        if thinking is not None and thinks != thinking:
            return ""
        inner = next((value[key] for key in ("thinking", "text", "summary", "content") if value.get(key)), "")
        return _flat(inner, None, depth - 1) if depth else ""
    return "" if thinking is True else _string(value)


def _string(value: Any) -> str:
    return encodable(value) if isinstance(value, str) else ""


def _reason(value: Any) -> str | None:
    """Return a finish reason as text. SGLang's own protocol writes an object with the word under `type`."""
    if isinstance(value, dict):
        value = value.get("type")
    if value is None or value is False or isinstance(value, list | dict):
        return None
    return encodable(str(value)[: 4 * MAX_REASON_CHARS])


def _usage(value: Any) -> TokenUsage | None:
    if not isinstance(value, dict):
        return None
    counts: dict[str, Any] = {name: count_of(value.get(name)) for name in COUNTS}
    wrong = [n for n in COUNTS if value.get(n) is not None and counts[n] is None]
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        counts[name] = part if isinstance(part := value.get(name), dict) else None
    return TokenUsage(**counts, unusable=f"{wrong[0]} {_short(value[wrong[0]])}" if wrong else None)


def _short(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite"
    return encodable(str(value))[:24]
