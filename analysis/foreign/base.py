"""What the readers of other tools' files share: their result, and records made from durations and counts.

A field is taken only where its definition is the same as ours or can be converted. What a tool does not keep stays null and is
never guessed. A value that is no number is an error of the file, NaN and null are values that are not known.

This module does not know any tool.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from loadgen.record import Record

Outcome = Literal["ok", "http_error", "rate_limited", "server_error", "refused", "reset", "timeout", "cut", "cancelled"]

MOST_BYTES = 1 << 30
MARK = "-emulated"
"""The emulated server's `system_fingerprint` ends with it."""
_NOTES = msgspec.toml.decode((Path(__file__).parent / "notes.toml").read_bytes(), type=dict[str, list[str]])


@dataclass(slots=True)
class Foreign:
    """One benchmark of a tool's file, converted to records of this suite."""

    tool: str
    model: str
    load: dict[str, Any]
    records: list[Record]
    notes: list[str]
    prompts: list[str] = field(default_factory=list)
    """The prompts, where the file has them."""
    emulated: bool = False

    def workload(self) -> str:
        """What was asked: a hash of the prompts in any order, or of their lengths where the file has no prompts."""
        lengths = [str(record.prompt_tokens) for record in self.records if not record.warmup]
        asked = "\n".join(sorted(self.prompts or lengths))
        kind = "prompts" if self.prompts else "lengths"
        return f"{kind} {hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def notes(tool: str) -> list[str]:
    """What the fields of a tool's file mean, from notes.toml."""
    return list(_NOTES[tool])


def number(value: Any) -> float | None:
    """A number, or None where the tool has none or writes NaN. Raises TypeError or ValueError for anything else."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


def open_load(rate: Any, arrival: str = "poisson") -> dict[str, Any]:
    """The load of an open loop. With an infinite rate all requests are sent at once; a rate of 0 or less is none."""
    try:
        known = float(rate)
    except (TypeError, ValueError):
        return {"kind": "open"}
    if math.isinf(known):
        return {"kind": "open", "arrival": "burst"}
    return {"kind": "open", "rate": known, "arrival": arrival} if known > 0 else {"kind": "open"}


def closed_load(streams: Any) -> dict[str, Any]:
    """The load of a closed loop, whose number of requests in flight may not be known."""
    known = number(streams)
    return {"kind": "closed"} | ({"concurrency": int(known)} if known else {})


def new_record(seq: int, sent_s: float | None) -> Record:
    """A record whose `sent_s` is still a time of the tool's clock. The budget is 0, because no tool keeps it for each request."""
    return Record(
        run_id="imported", seq=seq, problem_id=f"request-{seq}", budget=0, due_s=0.0, sent_s=sent_s, outcome="ok"
    )


def failed(record: Record, outcome: Outcome, error: Any) -> Record:
    """Complete the record of a request that failed."""
    record.outcome, record.error = outcome, str(error)[:500]
    return record


def outcome_of(status: Any, words: str, *, began: bool = False) -> Outcome:
    """The outcome of a failure, from its HTTP status where there is one, or else from the name of its error.

    `began` says that the answer had begun, so that a lost connection cut it.
    """
    if isinstance(status, int) and 400 <= status < 600 and status != CANCELLED:
        return "rate_limited" if status == 429 else "server_error" if status >= 500 else "http_error"
    name = words.casefold()
    if status == CANCELLED or "cancel" in name:
        return "cancelled"
    if "timeout" in name or "timed out" in name:
        return "timeout"
    if "refused" in name or "connectorerror" in name:
        return "refused"
    if began or "payload" in name or "incomplete" in name:
        return "cut"
    return "reset" if "reset" in name or "disconnected" in name else "http_error"


CANCELLED = 499
"""The status by which a client says that it has cancelled the request itself."""


def answered(
    record: Record, latency_s: tuple[float | None, float | None], prompt: float | None, tokens: float | None
) -> Record:
    """Complete a record with ttft and e2e, and the numbers of tokens, as far as they are known."""
    record.ttft_s, record.e2e_s = latency_s
    record.prompt_tokens = None if prompt is None else int(prompt)
    record.completion_tokens = None if tokens is None else int(tokens)
    if (
        record.ttft_s is not None
        and record.e2e_s is not None
        and record.e2e_s > record.ttft_s
        and tokens
        and tokens > 1
    ):
        record.tpot_s = (record.e2e_s - record.ttft_s) / (tokens - 1)
    return record


def beside(path: Path, name: str) -> dict[str, Any]:
    """A JSON object in a file beside another one; empty where there is none."""
    try:
        with (path.parent / name).open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find(value: Any, names: tuple[str, ...], depth: int = 6) -> Any:
    """The first value under one of several names, however deep; lists are not searched, because they hold the requests."""
    if not isinstance(value, dict) or depth == 0:
        return None
    for name in names:
        if value.get(name) not in (None, "", [], {}):
            return value[name]
    return next((found for one in value.values() if (found := find(one, names, depth - 1)) is not None), None)
