"""What a server's log says about why it did not start: one line for the operator, pure text in, text out.

Rules: the root cause before its consequences (vLLM prints the cause in the engine's process, then again that the engine
died), so the table is in order of preference, not of appearance. Patterns are vLLM's own words, 0.26 to 0.33; each has a
log in `tests/logs/`. Does not know: how the server was started.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A kind of failure, how the log shows it, and what to tell the operator ({0}, {1}: the pattern's groups)."""

    kind: str
    pattern: str
    advice: str


CAUSES: tuple[Cause, ...] = ()


def explain(log: str) -> tuple[str, str] | None:
    """(kind, one line) of the first cause that the log shows, or None."""
    for cause in CAUSES:
        if match := re.search(cause.pattern, log):
            groups = [(group or "").strip() for group in match.groups()]
            return cause.kind, cause.advice.format(*groups)
    return None
