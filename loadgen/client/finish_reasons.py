"""Says what a server's `finish_reason` means: the answer is complete, truncated, filtered, failed, or not finished.

Servers write the same reason in many ways. The words that end an answer well are listed one by one, because a reason that is
taken for `stop` by mistake makes a failure look like an answer. For the other meanings a part of the word is enough. A reason
that is in no row is kept as the server wrote it; the run is then SUSPECT.

This module does not know outcomes, events or text.
"""

import re
from typing import Literal

Meaning = Literal["complete", "truncated", "filtered", "failed", "unfinished", "unknown"]

MAX_REASON_CHARS = 64
"""The longest reason known has 27 characters."""

COMPLETE = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn"), "stop"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use"), "tool_calls"),
    "function_call": "function_call",
}
"""Words for a complete answer, and the OpenAI word for each."""
UNFINISHED = ("", "null", "none")
"""Some servers send these in every chunk before the last."""
UNKNOWN = ("parse_error", "malformed_function_call")
"""The tokens were generated, but the server could not read its own tool call: neither a failure nor a complete answer."""
PARTS: dict[Meaning, str] = {
    "filtered": "filter|safety|blocklist|prohibited|recitation|moderation|sensitive|guardrail|refusal|spii",
    "failed": "abort|error|fail|cancel|timeout|timed_out|insufficient|overload|unavailable|disconnect",
    "truncated": "length|max.*token|token.*limit|context_window|^limit$|^max_output$",
}
"""Parts of words, in the order in which they are looked for."""


def meaning_of(reason: str) -> tuple[Meaning, str | None]:
    """Return what a reason means, and the word to record: the OpenAI word where there is one."""
    word = reason[: 4 * MAX_REASON_CHARS].strip().lower()
    word = word.rpartition(".")[2].removeprefix("finish_reason_")  # an enumeration that was printed with its name
    if word in UNFINISHED:
        return "unfinished", None
    if word in COMPLETE:
        return "complete", COMPLETE[word]
    kept = reason.strip()[:MAX_REASON_CHARS]
    if word not in UNKNOWN:
        for meaning, part in PARTS.items():
            if re.search(part, word):
                return meaning, "length" if meaning == "truncated" else kept
    return "unknown", kept
