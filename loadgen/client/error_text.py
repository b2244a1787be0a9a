"""Finds the error that a server reports, in any of the shapes that servers use, and the text to keep of it.

Shapes: `{"error": …}` with an object, a string or a list; flat objects with `message`, `detail` or `errors`; an array of such
objects; and plain text. An `error` that is empty (`null`, `""`, `{}`) is none. At most MAX_ERROR_CHARS of a text are kept,
with its length, because records are written for every request and a server can send the same page each time.

This module does not know when an error makes a request fail.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from loadgen.client.loose_json import NotJSONError, encodable, read_json
from loadgen.exchange import Outcome

MAX_ERROR_CHARS = 2_000
MAX_BODY_CHARS = 200
"""How much is kept of a body in which no error message was found, such as a page of HTML."""
FLAT = ("message", "detail", "errors", "error_message", "error_msg", "msg")
"""Where the message of an error object is, at its top level or inside `error`."""
CODES = ("code", "status_code", "http_status_code", "status")
RATE_LIMITS = ("429", "rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests")


def clip(text: str) -> str:
    """Return a text that can be written to a file, shortened to MAX_ERROR_CHARS, with its length where it is longer."""
    text = encodable(text)
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}… ({len(text):,} characters)"


def is_error(value: Any) -> bool:
    """Return whether the value of an `error` key reports an error: an object with nothing in it does not."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def find_error(content: Any) -> Any:
    """Return the error that decoded JSON reports, or None.

    An object with `choices` reports an error only under `error`. One with `usage` can also say by its `object` or `type` that it
    is one, but a `message` in it is none.
    """
    if isinstance(content, list):
        return next((error for item in content[:8] if (error := find_error(item)) is not None), None)
    if not isinstance(content, dict):
        return None
    if is_error(content.get("error")):
        return content["error"]
    if content.get("choices"):
        return None
    said = not content.get("usage") and any(isinstance(content.get(key), str | list) and content[key] for key in FLAT)
    return content if said or "error" in (content.get("object"), content.get("type")) else None


def describe_error(error: Any) -> tuple[Outcome, str]:
    """Return outcome and text of an error: `rate_limited` where its code says so, and `server_error` otherwise."""
    if isinstance(error, list) and error and isinstance(error[0], dict):
        error = error[0]
    if not isinstance(error, dict):
        return "server_error", clip(error if isinstance(error, str) else _json(error))
    text = next((value for key in (*FLAT, "error") if (value := error.get(key))), error)
    if isinstance(text, list) and text and isinstance(text[0], dict):
        text = text[0].get("msg") or text[0].get("message") or text
    text = text if isinstance(text, str) else _json(text)
    code = next((value for key in CODES if isinstance(value := error.get(key), str | int) and value), None)
    words = {str(word).lower() for word in (code, error.get("type"), error.get("status"))}
    outcome: Outcome = "rate_limited" if words & set(RATE_LIMITS) else "server_error"
    return outcome, clip(text if code is None else f"{text} (code {str(code)[:64]})")


def refusal_text(body: bytes, headers: Mapping[bytes, bytes]) -> str:
    """Return the error text of a response whose status is an error: its message, and where a redirect leads."""
    text = ""
    if b"location" in headers:
        text = f"redirected to {_text(headers[b'location'])}; give that as the target. "
    if b"retry-after" in headers:
        text += f"retry after {_text(headers[b'retry-after'])}. "
    if encoding := compression(headers):
        body = f"the body is in {encoding}".encode()
    error = _error_in(body)
    said = _text(body[:MAX_BODY_CHARS]) if error is None else describe_error(error)[1]
    return clip((text + said).strip() or "no body")


def compression(headers: Mapping[bytes, bytes]) -> str:
    """Return the encoding of a body that was compressed, although that was not asked for; empty where it was not."""
    encoding = _text(headers.get(b"content-encoding", b"")).lower()
    return "" if encoding == "identity" else encoding


def not_a_stream(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[Outcome, str]:
    """Return outcome and error text of a successful response that is neither an event stream nor an answer in JSON."""
    error = _error_in(body)
    if error is not None:
        return describe_error(error)
    kind = _text(headers.get(b"content-type", b"no content type"))
    return "malformed", clip(f"not an event stream but {kind}: {_text(body[:MAX_BODY_CHARS])}")


def _error_in(body: bytes) -> Any:
    try:
        content = read_json(body)
    except NotJSONError:
        return None
    error = find_error(content)
    return content if error is None and isinstance(content, str) and content else error


def _json(value: Any) -> str:
    """Return a value as JSON, of which a reader needs only the start."""
    try:
        return msgspec.json.encode(value).decode(errors="replace")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)


def _text(value: bytes) -> str:
    return value.decode(errors="replace").strip()
