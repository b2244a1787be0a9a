"""docs/analysis.md agrees with the code."""

import re
from pathlib import Path

import pytest

import analysis
from analysis.__main__ import COMMANDS
from tests import ROOT
from tests.fixtures import make_records

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of 12 problems at two budgets."""
    out = tmp_path_factory.mktemp("tour") / "runs"
    small = ["--models", "r1-distill-qwen-1.5b", "--configs", "tp1,tp1-ngram", "--budgets", "1024,4096"]
    make_records.main([str(out), *small, "--problems", "12"])
    return out


def test_every_command_is_documented() -> None:
    """Each command of `python -m analysis` is in the page."""
    text = (DOCS / "analysis.md").read_text()
    assert [name for name in COMMANDS if not re.search(rf"python -m analysis {name}\b", text)] == []


def test_every_column_of_the_frame_is_documented(runs: Path) -> None:
    """Each column of the frame is in the page."""
    words = set(re.findall(r"\w+", (DOCS / "analysis.md").read_text()))
    assert [column for column in analysis.load(runs).columns if column not in words | {"schema"}] == []


def test_gpu_seconds_add_up_to_the_wall(runs: Path) -> None:
    """Over a run Σ gpu_s_whole is GPUs × wall time; with one request in flight each value is the paper's GPUs × e2e."""
    for _, rows in analysis.load(runs, grade=False).groupby("cell", observed=True):
        stop = rows["end_s"].fillna(rows["last_token_s"])
        assert rows["gpu_s_whole"].sum() == pytest.approx(
            (stop.max() - rows["sent_s"].min()) * rows["num_gpus"].iloc[0]
        )
        ok = rows[rows["ok"]]
        assert ok["gpu_s"].to_numpy() == pytest.approx(ok["gpu_s_paper"].to_numpy(), rel=0.01)
