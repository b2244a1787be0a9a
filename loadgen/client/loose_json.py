"""Reads the JSON that servers send beside the standard: NaN and infinities, lone surrogates, damaged UTF-8, huge numbers.

It is slower than msgspec and is used only for what msgspec has refused. NaN and infinities become None. A count of tokens is an integer from 0 to MAX_COUNT, however it is written (`6`, `6.0`, `"6"`).

This module does not know what the JSON means.
"""

import json
from typing import Any

MAX_COUNT = 10_000_000
"""The longest context of a model has about this many tokens. A larger count is a mistake of the server."""
MAX_INTEGER_DIGITS = 18
"""Longer integers become floats. Python refuses to read those of more than 4,300 digits, and no field needs them."""


class NotJSONError(ValueError):
    """The bytes are not JSON in any form that can be read, or are nested too deeply."""


def read_json(data: bytes) -> Any:
    """Return the decoded JSON. Raises NotJSONError."""
    try:
        return json.loads(
            data.decode("utf-8-sig", errors="replace"), strict=False, parse_int=_integer, parse_constant=lambda _: None
        )
    except (ValueError, RecursionError) as error:
        raise NotJSONError(str(error)) from error


def count_of(value: Any) -> int | None:
    """Return a value as a count of tokens, or None where it is none: negative, a truth value, a fraction, too large."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= MAX_INTEGER_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_COUNT and value == int(value) else None


def encodable(text: str) -> str:
    """Return the text with lone surrogates, which no file can hold, replaced."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)
