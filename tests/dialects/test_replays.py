"""The reference server replays a file of events as it stands, at its times, with the habits of the first line."""

import json
import urllib.error
import urllib.request
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import replays
from tests.fixtures.replays import serving

EVENTS = ({"at_ms": 0, "raw": ": comment\n\n"}, {"at_ms": 20, "data": {"choices": []}}, {"at_ms": 20, "data": "[DONE]"})


def write(path: Path, **habits: object) -> Path:
    rows = [{"about": "a server", **habits}, {"right": {"outcome": "ok"}}, *EVENTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_events_of_one_time_are_one_write(tmp_path: Path) -> None:
    replay = replays.read(write(tmp_path / "a.jsonl", data_prefix="data:"))
    assert replay.writes() == ((0, b": comment\n\n"), (20, b'data:{"choices":[]}\n\ndata:[DONE]\n\n'))
    assert replay.right == {"outcome": "ok"}


@given(st.lists(st.tuples(st.integers(0, 50), st.text(max_size=40)), min_size=1, max_size=12), st.integers(1, 64))
def test_a_proxy_keeps_bytes_and_never_brings_them_forward(rows: list[tuple[int, str]], size: int) -> None:
    """Pieces of `size` bytes, the last one shorter, each written when its last byte is there."""
    events = [replays.Event(at_ms=at_ms, raw=text) for at_ms, text in sorted(rows)]
    plain = replays.Replay(habits=replays.Habits(about="x"), right={}, events=events).writes()
    held = replays.Replay(habits=replays.Habits(about="x", write_bytes=size), right={}, events=events).writes()
    assert b"".join(data for _, data in held) == b"".join(data for _, data in plain)
    assert all(len(data) == size for _, data in held[:-1])
    ends = list(zip(accumulate(len(data) for _, data in plain), (at_ms for at_ms, _ in plain), strict=True))
    for end, at_ms in zip(accumulate(len(data) for _, data in held), (at_ms for at_ms, _ in held), strict=True):
        assert at_ms >= next(due_ms for last, due_ms in ends if last >= end)


def test_habits_are_kept(tmp_path: Path) -> None:
    """Another status, a needed query, a refused field, a list of models, and a connection that is closed too early."""
    write(tmp_path / "plain.jsonl", models=[{"id": "m"}], refuses=["max_tokens"], needs_query="v=")
    write(tmp_path / "broken.jsonl", status=503, content_type="application/json", closes=True)

    def ask(url: str, body: object = None) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.fp.read(20)

    with serving(tmp_path) as url:
        assert ask(f"{url}/plain/v1/models")[0] == 404
        assert ask(f"{url}/plain/v1/models?v=1") == (200, b'[{"id": "m"}]')
        assert ask(f"{url}/plain/v1/version?v=1")[0] == 404
        assert ask(f"{url}/plain/v1/chat/completions?v=1", {"max_tokens": 4})[0] == 400
        assert ask(f"{url}/plain/v1/chat/completions?v=1", {})[1].endswith(b"data: [DONE]\n\n")
        assert ask(f"{url}/broken/v1/chat/completions", {}) == (503, b': comment\n\ndata: {"c')
        assert ask(f"{url}/none/v1/chat/completions", {})[0] == 404


def test_a_file_with_an_unknown_habit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sleeps"):
        replays.read(write(tmp_path / "a.jsonl", sleeps=True))
