"""The published runs of the repository, analyzed with the suite's own commands."""

import re
from pathlib import Path

import numpy as np
import pytest

from analysis.claims import claims
from analysis.data.frame import read_study
from analysis.tables.pairs import per_problem, tensor_parallel
from benchmarks.studies import study_tables
from benchmarks.studies.tp_prediction import compare_with_measurements
from tests import ROOT

RESULTS = ROOT / "docs/results"
STUDY, SECOND, THIRD = (RESULTS / f"{gpus}-vllm-0.26.0" for gpus in ("h200", "h100", "h200x4"))


def test_claims_of_models_with_and_without_graded_text() -> None:
    """Models with random weights have no grades: claims about accuracy use the graded model, claims about time use all."""
    frame = read_study(STUDY / "cells").frame
    memo = (frame["model"].astype(str) == "memo-20m").to_numpy()
    frame["correct"] = np.where(memo, (frame["budget"] >= 1024).astype(float), np.nan)
    found = {claim.name: claim for claim in claims(frame)}
    assert found["accuracy-flattens"].effect.startswith("memo-20m: 256→2K +100.0 points")
    assert "14b" not in found["accuracy-flattens"].effect
    assert found["parallel-speeds-large"].verdict == "held"
    assert "memo-20m" in found["speculation-faster"].effect


def test_more_gpus_are_compared_between_like_configurations() -> None:
    """A synchronous server on two GPUs is not compared to an asynchronous one, because scheduling would explain the change."""
    parallel = tensor_parallel(per_problem(read_study(SECOND / "cells").frame))
    bases = {(str(row.config), str(row.base)) for row in parallel.itertuples()}
    assert bases == {("tp2", "tp1"), ("tp2-sync", "tp1-sync"), ("tp2-ngram", "tp1-ngram")}


@pytest.mark.parametrize(
    ("study", "name"),
    [(STUDY, "README.md"), (SECOND, "README.md"), (THIRD, "tables.md")],
    ids=["h200", "h100", "h200x4"],
)
def test_the_page_holds_the_tables_as_printed(study: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of the tables in the page is printed by the command."""
    study_tables.main([str(study)])
    printed = set(capsys.readouterr().out.splitlines())
    page = (study / name).read_text()
    tables = page.partition("<!-- benchmarks.studies.study_tables -->")[2].partition("<!-- end -->")[0]
    rows = [line for line in tables.splitlines() if line.startswith("|")]
    assert len(rows) > 100
    assert not [row for row in rows if row not in printed]


@pytest.mark.parametrize(
    ("gpu", "cells", "page", "rows"),
    [
        ("h100", SECOND / "cells", SECOND / "README.md", 36),
        ("h200", THIRD / "cells", RESULTS / "tp4-prediction.md", 99),  # less the 8 cells with an imposed acceptance
    ],
    ids=["h100", "h200"],
)
def test_the_prediction_is_judged_as_the_page_says(gpu: str, cells: Path, page: Path, rows: int) -> None:
    """The prediction that was committed before the measurement is compared to the cells; the page has the command's rows."""
    found = [f"| {row} |" for row in compare_with_measurements(RESULTS / f"tp4-prediction-{gpu}.csv", cells)]
    assert len(found) == rows
    assert not set(found) - set(page.read_text().splitlines())


def test_the_claims_on_four_gpus_are_those_of_the_page() -> None:
    """Every result at a load is a row of the page: the finding holds at some loads and acceptances, and not at others."""
    page = (THIRD / "README.md").read_text()
    found = {claim.name: claim for claim in claims(read_study(THIRD).frame)}
    lines = [line for claim in found.values() for line in claim.by_load.splitlines()]
    assert len(lines) == 23
    for line in lines:
        result, at, effect = re.fullmatch(r"(.+?) at (.+?): (.+)", line).groups()  # type: ignore[union-attr]
        assert f"| {result} | {at} | {effect} |" in page
    assert found["speculation-faster"].verdict == "not held"
    assert [line.split(" at ")[0] for line in found["parallel-slows-small"].by_load.splitlines()] == [
        "can't tell",
        "held",
        "can't tell",
        "not held",
    ]


@pytest.mark.parametrize("study", [STUDY, SECOND, THIRD], ids=["h200", "h100", "h200x4"])
def test_what_is_published_is_small_and_not_private(study: Path) -> None:
    """A published study has at most 12 MB, no text of a request or an answer, and no path of the machine that measured it."""
    files = [path for path in study.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    private = re.compile(r'"(text|reasoning|problem|messages)":|/root/|/home/|/tmp/')
    texts = [path for path in files if path.suffix in {".json", ".jsonl", ".prom", ".csv"}]
    assert not [path.name for path in texts if private.search(path.read_text())]
