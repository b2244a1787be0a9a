"""With a limit, text from outside is printed on one line of bounded length (without one: tests/reliability/test_output.py)."""

from hypothesis import given
from hypothesis import strategies as st

from loadgen.terminal import printable


@given(st.text(), st.integers(2, 50))
def test_every_text_becomes_one_printable_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


def test_what_moves_a_cursor_or_forges_a_line_is_escaped() -> None:
    assert printable("m\x1b[2J\r\nVALID\u202e", 200) == r"m\x1b[2J VALID\u202e"
    assert printable("x" * 300, 10) == "x" * 9 + "…"
    assert printable("größe 🙂", 200) == "größe 🙂"
