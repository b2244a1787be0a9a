"""Text from outside is printed on one line, without control characters and without secrets."""

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.text import printable, without_secrets


@given(st.text(), st.integers(2, 50))
def test_every_text_becomes_one_printable_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


def test_what_moves_a_cursor_or_forges_a_line_is_replaced() -> None:
    assert (
        printable("m\x1b[2J\r\nVALID\u202e") == "m\N{REPLACEMENT CHARACTER}[2J VALID\N{REPLACEMENT CHARACTER}"
    )
    assert printable("x" * 300, 10) == "x" * 9 + "…"
    assert printable("größe 🙂") == "größe 🙂"


@pytest.mark.parametrize("key", ["sk-plain", 'sk-"quoted"', "sk-back\\slash", "sk-größe", "sk-'<&>/"])
@pytest.mark.parametrize("spelling", [str, json.dumps, repr, html.escape, lambda key: quote(key, safe="")])
def test_a_secret_is_struck_out_in_every_spelling(key: str, spelling: object) -> None:
    assert callable(spelling)
    shown = without_secrets(f"before {spelling(key)} after", [key])
    assert key not in shown
    assert shown.replace('"', "").replace("'", "") == "before *** after"


def test_a_short_value_is_no_secret() -> None:
    assert without_secrets("a b c", ["b"]) == "a b c"
