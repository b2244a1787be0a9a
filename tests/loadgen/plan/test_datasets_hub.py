"""GSM8K and AIME, from files in the layout of the Hub's cache. Nothing is fetched."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT

GSM8K = [
    {"question": "Ann has 1,000 pens and buys 250. How many?", "answer": "1000+250=<<1000+250=1250>>1250\n#### 1,250"},
    {"question": "Tom owes 3 and pays 5. Balance?", "answer": "He is 2 over.\n#### -2"},
]
AIME = [{"id": 60, "problem": "Find $x$.", "solution": r"\boxed{033}", "answer": "033", "url": "u", "year": "2024"}]


def cached(home: Path, repository: str, filename: str, rows: list[dict[str, object]]) -> None:
    folder = home / "hub" / f"datasets--{repository.replace('/', '--')}"
    path = folder / "snapshots" / "c0ffee" / filename
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")


def load(name: str, home: Path) -> "subprocess.CompletedProcess[str]":
    code = f"""
from loadgen.options import RunOptions
from loadgen.plan import datasets
for row in datasets.load(RunOptions(dataset={name!r})).problems:
    print(row.unique_id, row.answer, row.problem, sep="|")
"""
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(home)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "where", "rows", "lines"),
    [
        (
            "gsm8k", ("openai/gsm8k", "main/test-00000-of-00001.parquet"), GSM8K,
            ["gsm8k/test/0|1250|Ann has 1,000 pens and buys 250. How many?", "gsm8k/test/1|-2|Tom owes 3 and pays 5. Balance?"],
        ),
        ("aime", ("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet"), AIME, ["aime/2024/60|33|Find $x$."]),
    ],
)  # fmt: skip
def test_answers_are_plain_integers(
    name: str, where: tuple[str, str], rows: list[dict[str, object]], lines: list[str], tmp_path: Path
) -> None:
    """Thousands separators, the solution and leading zeros are removed; a second load reads the converted file."""
    cached(tmp_path, *where, rows)
    for _ in range(2):
        done = load(name, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == lines


def test_an_unreachable_hub_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the data set."""
    done = load("gsm8k", tmp_path)
    assert done.returncode != 0
    assert "UsageError: openai/gsm8k can't be fetched from the Hub" in done.stderr
