"""Where problems come from: a name or a file in, checked rows and their hash out.

Rules: every loader returns the path of a JSONL file; one reader checks every file, and names a bad line as file:line.
Rows are `problem answer [subject level unique_id]`, MATH-500's schema; what else a line holds is left alone.

Does not know: how a problem is asked, or what makes an answer right.
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
from urllib.request import getproxies, proxy_bypass

from loadgen.errors import UsageError
from loadgen.files import write_atomically

SAMPLE = Path(__file__).parents[1] / "data" / "sample.jsonl"

MATH500_SHA256 = "bf0e84bdbc5184a626a5718f93a45ad73f84a7c067969c96289dd3f5dec707dd"
"""`canonical_hash` of MATH-500's 500 rows: from OpenAI's prm800k/math_splits/test.jsonl, byte-identical to the copies on
GitHub. It covers (unique_id, problem, answer) sorted by id, so that key order, escapes and further fields may differ."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row."""

    unique_id: str
    problem: str
    answer: str
    subject: str | None = None
    level: int | None = None


@dataclass(frozen=True)
class Dataset:
    """The problems of a run, and which they are."""

    name: str
    path: str
    sha256: str
    """Over all rows of the file, whatever --problems chose."""
    problems: list[Problem]


def load(name: str, count: int | None = None, seed: int = 0) -> Dataset:
    """Read a data set by name or path; `count` of its problems, the same ones for the same seed. Raises UsageError."""
    path = LOADERS[name]() if name in LOADERS else Path(name)
    rows = read(path)
    digest = canonical_hash(rows)
    if name == "math500" and digest != MATH500_SHA256:
        raise UsageError(
            f"{path} is not MATH-500 (hash {digest[:12]}…, not {MATH500_SHA256[:12]}…): delete it and retry"
        )
    if count is not None and count > len(rows):
        raise UsageError(f"--problems {count}: {path} has {len(rows)}")
    return Dataset(name if name in LOADERS else path.stem, str(path), digest, choose(rows, count, seed))


def choose(rows: list[Problem], count: int | None, seed: int) -> list[Problem]:
    """`count` rows in the file's order; a larger count holds every row of a smaller one."""
    if count is None:
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[:count])]


def canonical_hash(rows: list[Problem]) -> str:
    """SHA-256 over (unique_id, problem, answer), sorted by id, as compact JSON lines."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda r: r.unique_id):
        digest.update(
            json.dumps([row.unique_id, row.problem, row.answer], separators=(",", ":")).encode() + b"\n"
        )
    return digest.hexdigest()


def read(path: Path) -> list[Problem]:
    """Read and check one JSONL file. Raises UsageError naming file:line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--dataset {path}: {_why(error)}: write {', '.join(LOADERS)} or a JSONL file"
        ) from None
    rows = list(_rows(path, text))
    if not rows:
        raise UsageError(
            f"--dataset {path}: no problem in it: write one JSON object with `problem` and `answer` a line"
        )
    return rows


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "not UTF-8"


def _rows(path: Path, text: str) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _row(f"{path}:{number}", line, number)
        if row.unique_id in seen:
            raise UsageError(
                f"{path}:{number}: unique_id {row.unique_id!r} is already that of line {seen[row.unique_id]}"
            )
        seen[row.unique_id] = number
        yield row


def _row(where: str, line: str, number: int) -> Problem:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: no JSON ({error}): every line is one JSON object") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: no JSON object: every line is one")
    if not isinstance(row.get("problem"), str) or not row["problem"].strip():
        raise UsageError(f"{where}: `problem` is missing or no text: every line needs one")
    if not isinstance(row.get("answer"), str | int | float):
        raise UsageError(f'{where}: `answer` is missing (write "" where there is none to grade against)')
    level = row.get("level")
    return Problem(
        unique_id=str(row.get("unique_id") or f"line/{number}"),
        problem=row["problem"],
        answer=str(row["answer"]),
        subject=str(row["subject"]) if row.get("subject") is not None else None,
        level=level if isinstance(level, int) else None,
    )


def math500() -> Path:
    """MATH-500 from the Hugging Face Hub, fetched once and cached by its client."""
    return from_hub("HuggingFaceH4/MATH-500", "test.jsonl")


def from_hub(repository: str, filename: str) -> Path:
    """One file of a data set on the Hub; from the Hub's cache where it is there. Raises UsageError where it can't be had."""
    import huggingface_hub as hub  # noqa: PLC0415  0.4 s that no other data set should pay

    cached = hub.try_to_load_from_cache(repository, filename, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    try:
        with socket.create_connection(_gate(hub.constants.ENDPOINT), timeout=5):
            pass  # the Hub's client would try for half a minute
        return Path(hub.hf_hub_download(repository, filename, repo_type="dataset"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise UsageError(
            f"{repository} can't be fetched from the Hub ({type(error).__name__}: {reason}): "
            "give a file (--dataset FILE) or use --dataset sample, which needs no network"
        ) from None


def _gate(endpoint: str) -> tuple[str, int]:
    """Address that a way to the Hub begins at: its own, or a proxy's."""
    scheme = urlsplit(endpoint).scheme
    proxy = getproxies().get(scheme)
    parts = urlsplit(proxy if proxy and not proxy_bypass(urlsplit(endpoint).hostname or "") else endpoint)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


Rows = Iterator[dict[str, Any]]


def gsm8k() -> Path:
    """The 1,319 test problems; the answer is what follows `####` in the worked solution."""
    return _converted(from_hub("openai/gsm8k", "main/test-00000-of-00001.parquet"), _gsm8k)


def aime() -> Path:
    """The 30 problems of AIME 2024 I and II."""
    return _converted(from_hub("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet"), _aime)


def _gsm8k(rows: Rows) -> Rows:
    for number, row in enumerate(rows):
        worked, _, answer = row["answer"].rpartition("####")
        yield {
            "problem": row["question"],
            "solution": re.sub(r"<<[^<>]*>>", "", worked).strip(),
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
    """The same rows beside the Parquet file, written whole or not at all."""
    path = parquet.with_suffix(".jsonl")
    if path.exists():
        return path
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  no part of the generator alone
    except ImportError:
        raise UsageError(
            "gsm8k and aime are Parquet files: pip install pyarrow, or give a JSONL file (--dataset FILE)"
        ) from None
    try:
        lines = [json.dumps(row) + "\n" for row in convert(iter(pq.read_table(parquet).to_pylist()))]
        write_atomically(path, "".join(lines).encode())
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{parquet} can't be converted ({error!r}): delete it and retry") from None
    return path


LOADERS: dict[str, Callable[[], Path]] = {
    "math500": math500,
    "sample": lambda: SAMPLE,
    "gsm8k": gsm8k,
    "aime": aime,
}
