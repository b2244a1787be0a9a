"""Makes problems of the rows of a data set: which field holds the problem, and which one the answer.

`--fields problem=question,answer=answer` says so; otherwise the first row decides, by the names in PROBLEM and ANSWER. An answer
is optional. A problem without one is asked as it is, and its reply is not graded. Shapes that are known:

- GSM8K: the answer is what follows `####` at the end of a solution.
- Conversations (ShareGPT, chat messages): the problem is the first turn of the user. A conversation without one is skipped.
- Instructions (Alpaca): the problem is `instruction`, and below it `input` where there is one.

This module does not know how a file is read, how a problem is asked or what makes an answer right.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loadgen.errors import UsageError
from loadgen.plan.data_files import Row
from loadgen.terminal import printable

PROBLEM = ("problem", "question", "prompt", "instruction", "conversations", "conversation", "messages")
ANSWER = ("answer", "final_answer", "expected_answer", "ground_truth", "target", "solution")
USER_TURNS = {"human", "user"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, which is one row of a data set."""

    unique_id: str
    problem: str
    answer: str = ""
    """Empty where there is none: then the reply is not graded."""
    subject: str | None = None
    level: int | None = None
    solution: str | None = None
    """What an emulated model thinks; no request contains it."""
    output_tokens: int | None = None
    """The length of the reply where the data set decides it (see synthetic.py)."""
    input_tokens: int | None = None
    """The length that the prompt should have."""


Names = Mapping[str, str]
"""The name of the field that holds each thing; empty for an answer that the data set does not have."""


def names_of(first: Row, given: Mapping[str, str]) -> Names:
    """Return the names of the fields: those that `--fields` gives, and otherwise those that the first row has. Raises UsageError."""
    actual = {name.lower(): name for name in reversed(first.fields) if isinstance(name, str)}
    if wrong := [name for name in given.values() if name and name not in first.fields]:
        raise UsageError(f"{first.where}: --fields names {wrong[0]!r}, {_has(first.fields)}")
    found = {"id": "unique_id", "subject": "subject", "level": "level"}
    for what, known in (("problem", PROBLEM), ("answer", ANSWER)):
        found[what] = next((actual[name] for name in known if name in actual), "")
    found |= given
    if not found["problem"]:
        hint = "name it with --fields problem=FIELD"
        raise UsageError(f"{first.where}: no field holds the problem, {_has(first.fields)}: {hint}")
    return found


def problems(rows: Iterable[Row], names: Names) -> Iterator[Problem | None]:
    """Yield the problem of each row, or None for a conversation without a turn of the user. Raises UsageError."""
    place_of: dict[str, str] = {}
    for where, key, row in rows:
        if (text := _problem(where, row, names["problem"])) is None:
            yield None
            continue
        unique_id = str(row.get(names["id"]) or key)
        if unique_id in place_of:
            raise UsageError(f"{where}: the id {unique_id!r} is already used at {place_of[unique_id]}")
        place_of[unique_id] = where
        answer, solution = _answer(where, row, names["answer"])
        subject, level = row.get(names["subject"]), row.get(names["level"])
        yield Problem(
            unique_id=unique_id,
            problem=text,
            answer=answer,
            subject=None if subject is None else str(subject),
            level=level if isinstance(level, int) else None,
            solution=solution,
        )


def _problem(where: str, row: Mapping[str, Any], name: str) -> str | None:
    """The text of the problem, or None for a conversation without a turn of the user. Raises UsageError."""
    value = row.get(name)
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        value = _first_turn(value)
        if value is None:
            return None
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: `{name}` is missing, empty or not text, {_has(row)}")
    more = row.get("input") if name.lower() == "instruction" else None
    return f"{value}\n\n{more}" if isinstance(more, str) and more.strip() else value


def _first_turn(turns: list[dict[str, Any]]) -> str | None:
    """The first turn of the user in a conversation of ShareGPT (`from`, `value`) or of a chat (`role`, `content`)."""
    turn = next((turn for turn in turns if turn.get("from", turn.get("role")) in USER_TURNS), {})
    said = turn.get("value", turn.get("content"))
    if isinstance(said, list):
        said = "\n".join(part["text"] for part in said if isinstance(part, dict) and isinstance(part.get("text"), str))
    return said if isinstance(said, str) and said.strip() else None


def _answer(where: str, row: Mapping[str, Any], name: str) -> tuple[str, str | None]:
    """The reference answer, empty where there is none, and the solution that leads to it. Raises UsageError."""
    solution = row.get("solution")
    shown = solution if isinstance(solution, str) else None
    if not name:
        return "", shown
    if name not in row:
        raise UsageError(
            f'{where}: `{name}` is missing, {_has(row)}: write "" where there is no answer to grade against'
        )
    value = row[name]
    if value is None or value != value:  # noqa: PLR0124  Parquet has NaN for a number that is missing.
        return "", shown
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where}: `{name}` is not a text or a number: name another field with --fields answer=FIELD")
    steps, mark, final = str(value).rpartition("####")
    if mark:
        return final.strip().replace(",", ""), re.sub(r"<<[^<>]*>>", "", steps).strip()
    return str(value).strip() and str(value), shown


def _has(row: Mapping[str, Any]) -> str:
    names = ", ".join(printable(str(name), 40) for name in list(row)[:12])
    return f"and the row has {f'the fields {names}' if names else 'no field'}"
