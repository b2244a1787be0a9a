"""The published data sets that have a name of their own: where they are on the Hub, how their rows are read, and their hash.

A hash is either written here, for data that was compared with its source, or it is that of the first use on this machine. A data
set whose content differs from it is refused, because results on the two could not be compared.

This module does not know how the data is fetched.
"""

import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.errors import UsageError
from loadgen.files import cache_folder, write_atomically

MATH500_SHA256 = "bf0e84bdbc5184a626a5718f93a45ad73f84a7c067969c96289dd3f5dec707dd"
"""`datasets.canonical_hash` of the 500 rows of MATH-500, from OpenAI's prm800k/math_splits/test.jsonl."""
LETTERS = "ABCD"

Fields = Mapping[str, Any]


class Published(NamedTuple):
    """One data set on the Hub."""

    repository: str
    filename: str
    convert: Callable[[int, Fields], dict[str, Any]] | None = None
    """Makes the fields of a problem of the fields of a row; None where they are those of MATH-500."""
    sha256: str | None = None


def _gsm8k(number: int, row: Fields) -> dict[str, Any]:
    return {
        "problem": row["question"],
        "answer": row["answer"],
        "subject": "Grade School Math",
        "unique_id": f"gsm8k/test/{number}",
    }


def _aime(year: int) -> Callable[[int, Fields], dict[str, Any]]:
    def convert(number: int, row: Fields) -> dict[str, Any]:
        return {
            "problem": row["problem"],
            "answer": str(int(row["answer"])),
            "solution": row.get("solution"),
            "subject": "AIME",
            "unique_id": f"aime/{year}/{row.get('id', number)}",
        }

    return convert


def _gpqa(number: int, row: Fields) -> dict[str, Any]:
    """A question with four choices, whose order depends on the number of the row alone."""
    right = str(row["Correct Answer"]).strip()
    choices = [right, *(str(row[f"Incorrect Answer {n}"]).strip() for n in (1, 2, 3))]
    random.Random(number).shuffle(choices)
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return {
        "problem": f"{str(row['Question']).strip()}\n\n{lines}\n\nAnswer with the letter of the correct choice.",
        "answer": LETTERS[choices.index(right)],
        "subject": row.get("High-level domain"),
        "unique_id": f"gpqa/diamond/{number}",
    }


PUBLISHED = {
    "math500": Published("HuggingFaceH4/MATH-500", "test.jsonl", sha256=MATH500_SHA256),
    "gsm8k": Published("openai/gsm8k", "main/test-00000-of-00001.parquet", _gsm8k),
    "aime": Published("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet", _aime(2024)),
    "aime2025": Published("math-ai/aime25", "test.jsonl", _aime(2025)),
    "gpqa": Published("Idavidrein/gpqa", "gpqa_diamond.csv", _gpqa),
}


def check_hash(name: str, path: Path, digest: str) -> None:
    """Raise UsageError where the content is not that of the hash. The first hash of a data set without one is written down."""
    file, hint = cache_folder() / "datasets.json", "delete it and try again"
    known, title = PUBLISHED[name].sha256, "MATH-500" if name == "math500" else name
    if known is None:
        try:
            seen = json.loads(file.read_text())
        except (OSError, ValueError):
            seen = {}
        known = str(seen.setdefault(name, digest)) if isinstance(seen, dict) else digest
        title, hint = f"{name} of its first use", f"{hint}, or delete {file} if the new content is right"
        with suppress(OSError):  # without a cache, there is no first use to compare with
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(seen, indent=1).encode())
    if digest != known:
        raise UsageError(f"{path} is not {title} (its hash is {digest[:12]}…, not {known[:12]}…): {hint}")
