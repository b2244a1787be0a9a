"""Makes text from outside fit to be printed: without control characters, without secrets, and of bounded length.

A server chooses its model ids, versions and error messages. Printed as they are, they could move the cursor of a terminal,
forge a line of output, or show the API key that the server was sent.

This module does not know which values are secret or where a text is printed.
"""

import html
import json
from collections.abc import Iterable
from urllib.parse import quote

SHORTEST_SECRET = 4
"""Replacing a shorter value would destroy the text around it and protect nothing."""


def printable(text: str, limit: int = 200) -> str:
    """Return the text on one line, with `\N{REPLACEMENT CHARACTER}` for what cannot be printed, and at most `limit` characters."""
    # The text may have megabytes, of which only the beginning is needed; white space may take most of it.
    line = " ".join(text[: 16 * limit].split())
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )
    return line if len(line) <= limit else line[: limit - 1] + "…"


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret by `***`, also where it is written as JSON, a Python literal, part of a URL, or HTML."""
    spellings = {
        spelling
        for secret in secrets
        if len(secret) >= SHORTEST_SECRET
        for spelling in (
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
            quote(secret, safe=""),
            html.escape(secret),
        )
    }
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, "***")
    return text
