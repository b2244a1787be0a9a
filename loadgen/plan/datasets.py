"""Loads the problems of a run from a named data set or a file, checks them and computes their hash.

Every loader returns the path of a JSONL file, and one reader checks every file. Rows have the fields of MATH-500, `problem
answer [subject level unique_id]`; other fields are ignored. Errors name the file and the line.

This module does not know how a problem is asked or what makes an answer right.
"""

import hashlib
import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadgen import network
from loadgen.errors import UsageError
from loadgen.files import write_atomically

SAMPLE = Path(__file__).parents[1] / "data" / "sample.jsonl"

MATH500_SHA256 = "bf0e84bdbc5184a626a5718f93a45ad73f84a7c067969c96289dd3f5dec707dd"
"""`canonical_hash` of the 500 rows of MATH-500, from OpenAI's prm800k/math_splits/test.jsonl."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, which is one row of a data set."""

    unique_id: str
    problem: str
    answer: str
    subject: str | None = None
    level: int | None = None


@dataclass(frozen=True)
class Dataset:
    """The problems of a run and where they come from."""

    name: str
    path: str
    sha256: str
    """Hash of all rows of the file, not only of those that --problems selects."""
    problems: list[Problem]


def load(name: str, count: int | None = None, seed: int = 0) -> Dataset:
    """Load a data set by name or path. `count` selects some of its problems, by the seed. Raises UsageError."""
    path = LOADERS[name]() if name in LOADERS else Path(name)
    rows = read(path)
    digest = canonical_hash(rows)
    if name == "math500" and digest != MATH500_SHA256:
        raise UsageError(
            f"{path} is not MATH-500 (its hash is {digest[:12]}…, not {MATH500_SHA256[:12]}…): delete it and try again"
        )
    if count is not None and count > len(rows):
        raise UsageError(f"--problems {count}: {path} has only {len(rows)} problems")
    return Dataset(name if name in LOADERS else path.stem, str(path), digest, choose(rows, count, seed))


def choose(rows: list[Problem], count: int | None, seed: int) -> list[Problem]:
    """Select `count` rows, in the order of the file. A larger count includes every row of a smaller one."""
    if count is None:
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[:count])]


def canonical_hash(rows: list[Problem]) -> str:
    """Return the SHA-256 of (unique_id, problem, answer) as compact JSON lines, sorted by id.

    The order of rows and keys, the escapes and further fields have no influence on it.
    """
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda r: r.unique_id):
        digest.update(
            json.dumps([row.unique_id, row.problem, row.answer], separators=(",", ":")).encode() + b"\n"
        )
    return digest.hexdigest()


def read(path: Path) -> list[Problem]:
    """Read and check one JSONL file. Raises UsageError with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Editors on Windows put a byte-order mark at the start.
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--dataset {path}: {_reason(error)}: use {', '.join(LOADERS)} or a JSONL file"
        ) from None
    rows = list(_rows(path, text))
    if not rows:
        raise UsageError(
            f"--dataset {path}: the file has no problem: write one JSON object with `problem` and `answer` per line"
        )
    return rows


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "not UTF-8"


def _rows(path: Path, text: str) -> Iterator[Problem]:
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _row(f"{path}:{number}", line, number)
        if row.unique_id in line_of:
            raise UsageError(
                f"{path}:{number}: unique_id {row.unique_id!r} is already used in line {line_of[row.unique_id]}"
            )
        line_of[row.unique_id] = number
        yield row


def _row(where: str, line: str, number: int) -> Problem:
    try:
        row: Any = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: the line is not JSON ({error}): every line must be one JSON object"
        ) from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: the line is not a JSON object: every line must be one")
    if not isinstance(row.get("problem"), str) or not row["problem"].strip():
        raise UsageError(f"{where}: `problem` is missing or is not text: every line needs it")
    if not isinstance(row.get("answer"), str | int | float):
        raise UsageError(f'{where}: `answer` is missing: write "" if there is none to grade against')
    level = row.get("level")
    return Problem(
        unique_id=str(row.get("unique_id") or f"line/{number}"),
        problem=row["problem"],
        answer=str(row["answer"]),
        subject=str(row["subject"]) if row.get("subject") is not None else None,
        level=level if isinstance(level, int) else None,
    )


def math500() -> Path:
    """Return MATH-500 from the Hugging Face Hub, whose client caches it."""
    return from_hub("HuggingFaceH4/MATH-500", "test.jsonl")


def from_hub(repository: str, filename: str) -> Path:
    """Return one file of a data set on the Hub, from the cache where possible. Raises UsageError where the Hub can't be reached."""
    import huggingface_hub as hub  # noqa: PLC0415  The import takes 0.4 s.

    cached = hub.try_to_load_from_cache(repository, filename, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    try:
        first_hop = network.proxy_url(hub.constants.ENDPOINT) or urlsplit(hub.constants.ENDPOINT)
        with socket.create_connection(network.address(first_hop), timeout=5):
            pass  # the Hub's client would try for half a minute
        return Path(hub.hf_hub_download(repository, filename, repo_type="dataset"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise UsageError(
            f"{repository} can't be fetched from the Hub ({type(error).__name__}: {reason}): "
            "use a file (--dataset FILE) or --dataset sample, which needs no network"
        ) from None


Rows = Iterator[dict[str, Any]]


def gsm8k() -> Path:
    """Return the 1,319 test problems of GSM8K. The answer is the text after `####` in the solution."""
    return _converted(from_hub("openai/gsm8k", "main/test-00000-of-00001.parquet"), _gsm8k)


def aime() -> Path:
    """Return the 30 problems of AIME 2024 I and II."""
    return _converted(from_hub("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet"), _aime)


def _gsm8k(rows: Rows) -> Rows:
    for number, row in enumerate(rows):
        solution, _, answer = row["answer"].rpartition("####")
        yield {
            "problem": row["question"],
            "solution": re.sub(r"<<[^<>]*>>", "", solution).strip(),
            "answer": answer.strip().replace(",", ""),
            "subject": "Grade School Math",
            "unique_id": f"gsm8k/test/{number}",
        }


def _aime(rows: Rows) -> Rows:
    for row in rows:
        yield {
            "problem": row["problem"],
            "solution": row["solution"],
            "answer": str(int(row["answer"])),
            "subject": "AIME",
            "unique_id": f"aime/2024/{row['id']}",
        }


def _converted(parquet: Path, convert: Callable[[Rows], Rows]) -> Path:
    """Return a JSONL file with the rows, beside the Parquet file; it is written once."""
    path = parquet.with_suffix(".jsonl")
    if path.exists():
        return path
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  It is not among the dependencies of the load generator.
    except ImportError:
        raise UsageError(
            "gsm8k and aime are Parquet files: pip install pyarrow, or use a JSONL file (--dataset FILE)"
        ) from None
    try:
        lines = [json.dumps(row) + "\n" for row in convert(iter(pq.read_table(parquet).to_pylist()))]
        write_atomically(path, "".join(lines).encode())
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{parquet} can't be converted ({error!r}): delete it and try again") from None
    return path


LOADERS: dict[str, Callable[[], Path]] = {
    "math500": math500,
    "sample": lambda: SAMPLE,
    "gsm8k": gsm8k,
    "aime": aime,
}
