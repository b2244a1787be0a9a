"""Removes secrets from what is stored or shown, in case a server repeats what it was sent.

Secrets are the API key and the values of headers that carry credentials. A server may repeat a secret inside JSON, where
quotes and backslashes are escaped, so the escaped forms are removed too.

This module does not know where a text comes from or where it goes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

HIDDEN = "***"
LEAST = 4
"""A shorter value is not removed: it would be found in ordinary text."""
OURS = {"run_id", "problem_id", "budget_mode", "cut_at", "token_source", "outcome", "kind"}
"""Fields whose texts come from this suite or its data set, and not from the server."""
_CREDENTIALS = ("auth", "key", "token", "secret", "cookie", "password")


class Redactor:
    """Replaces secrets by `***`."""

    def __init__(self, api_key: str | None, headers: Sequence[tuple[str, str]] = ()) -> None:
        values = [api_key or ""]
        for name, value in headers:
            if any(word in name.lower() for word in _CREDENTIALS):
                values += [value, value.rpartition(" ")[2]]  # `Bearer KEY` and KEY
        forms = {form for value in values if len(value) >= LEAST for form in _forms(value)}
        self._texts = sorted(forms, key=len, reverse=True)
        self._lines = [msgspec.json.encode(form)[1:-1] for form in self._texts]

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        for form in self._texts:
            text = text.replace(form, HIDDEN)
        return text

    def line(self, line: bytes) -> bytes:
        """Return a JSON object, as msgspec encodes it, without secrets in its texts. Numbers and names are kept."""
        if not any(form in line for form in self._lines):
            return line
        return msgspec.json.encode(self._without(msgspec.json.decode(line)))

    def _without(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._without(each) for each in value]
        if isinstance(value, dict):
            return {name: each if name in OURS else self._without(each) for name, each in value.items()}
        return value


def _forms(value: str) -> Iterator[str]:
    """The value as it is, and as it can stand inside one or two levels of JSON."""
    yield value
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield once.replace("/", "\\/")
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]
