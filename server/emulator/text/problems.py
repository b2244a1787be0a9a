"""Problems that an emulated model knows: rows of a JSONL dataset in MATH-500's schema.

Rules: only `problem` must be present; missing fields get defaults. A prompt without a known problem becomes an unknown
problem, which has no solution. This module does not know prompts' formats, tokens or models.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

SPECIAL_TOKEN = re.compile(r"<[|｜][^<>]*[|｜]>|</?think>")


@dataclasses.dataclass(frozen=True, slots=True)
class KnownProblem:
    """One problem with its solution."""

    unique_id: str
    problem: str
    solution: str
    answer: str
    level: int = 3
    subject: str = ""


def read_problems(path: Path) -> list[KnownProblem]:
    """Read a JSONL dataset. Raises ValueError that names file and line."""
    rows: list[KnownProblem] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("problem"), str):
            raise ValueError(f"{path}:{number}: has no `problem`")  # noqa: TRY004 - one error type for a bad line
        rows.append(known_problem(row, len(rows)))
    return rows


def known_problem(row: Mapping[str, object], number: int = 0) -> KnownProblem:
    """One row of a dataset. A level such as "Level 5" is read from its digit. Raises KeyError without `problem`."""
    level = re.search(r"\d", str(row.get("level", 3)))
    return KnownProblem(
        unique_id=str(row.get("unique_id", number)),
        problem=str(row["problem"]).strip(),
        solution=str(row.get("solution", "")),
        answer=str(row.get("answer", "")),
        level=min(5, max(1, int(level.group()))) if level else 3,
        subject=str(row.get("subject", "")),
    )


def unknown_problem(prompt: str) -> KnownProblem:
    """A problem made of the prompt's own words. Its answer is a number that depends on the prompt alone."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8)
    words = SPECIAL_TOKEN.sub(" ", prompt)[-2000:].strip()
    answer = str(int.from_bytes(digest.digest()) % 100)
    # The id decides what is drawn for the problem, so its prefix must not change.
    return KnownProblem(unique_id=f"stranger/{digest.hexdigest()}", problem=words, solution="", answer=answer)
