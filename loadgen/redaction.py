"""Removes secrets from what is stored or shown, in case a server repeats what it was sent.

A server may repeat a secret inside JSON, a Python literal, a URL or HTML, where some characters are escaped. The escaped forms
are removed too.

This module does not know where a text comes from or where it goes.
"""

import html
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

HIDDEN = "***"
LEAST = 4
"""A shorter value is not removed: it would be found in ordinary text."""
OURS = {"run_id", "problem_id", "budget_mode", "cut_at", "token_source", "outcome", "kind"}
"""Fields whose texts come from this suite or its data set, and not from the server."""


class Redactor:
    """Replaces secrets by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for value in secrets if len(value) >= LEAST for form in _forms(value)}
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
    """The value as it is, and as it can stand inside other text."""
    yield from (value, repr(value)[1:-1], quote(value, safe=""), html.escape(value))
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield once.replace("/", "\\/")
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]
