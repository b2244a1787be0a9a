"""What `python -m loadgen doctor` says of servers that count, deliver or end their answers in their own way."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import replays
from tests.fixtures.emulated import loadgen
from tests.fixtures.replays import serving

FOLDER = Path(__file__).parent
SAYS = {
    "vllm-0.33": ("token counts", "good", "exact for every chunk"),
    "azure": ("query", "good", "?api-version=2024-10-21 is kept on every request"),
    "openai-max-completion-tokens": ("limit", "good", "max_completion_tokens is sent"),
    "xai": ("token counts", "warn", "corrected by the server's other counts"),
    "gemini": ("answer", "bad", "completion_tokens is 50, but total_tokens − prompt_tokens is 90"),
    "buffering-proxy": ("answer", "bad", "arrived in clumps"),
    "lm-studio-no-usage": ("answer", "bad", "reports no number of tokens"),
    "vllm-repetition": ("answer", "bad", "unknown finish reasons ('repetition' 1)"),
    "overloaded": ("answer", "bad", "The model is overloaded"),
}
"""Check, state, and a part of the line."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(FOLDER) as url:
        yield url


@pytest.mark.parametrize("name", SAYS)
def test_doctor_says_what_is_special(server: str, name: str) -> None:
    """The line is there, and the exit code is 1 where a check is bad."""
    right = replays.read(FOLDER / f"{name}.jsonl").right
    done = loadgen(f"{server}/{name}{right.get('target', '/v1')}", *right.get("options", ()), verb="doctor")
    assert done.stdout, done.stderr
    checks = json.loads(done.stdout.splitlines()[-1])["checks"]
    check, state, words = SAYS[name]
    assert [c for c in checks if (c["name"], c["state"]) == (check, state) and words in c["detail"]], checks
    assert done.returncode == int(any(c["state"] == "bad" for c in checks))
