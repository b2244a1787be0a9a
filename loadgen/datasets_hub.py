"""GSM8K and AIME 2024 from the Hugging Face Hub, as JSONL in MATH-500's schema; the answers are plain integers.

Rules: fetched once by huggingface_hub, converted once into its cache beside what was fetched. The Hub keeps both as
Parquet, which the generator alone does not read: where pyarrow is missing, one line says so.

Does not know: how problems are chosen or asked.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loadgen.datasets import from_hub
from loadgen.values import UsageError

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
        partial = path.with_suffix(".partial")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(path)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{parquet} can't be converted ({error!r}): delete it and retry") from None
    return path
