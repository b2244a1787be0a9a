"""Tokens per step and acceptance by draft position, from the server's counters and from its timings of each request."""

import json
from pathlib import Path

import pytest

from analysis.data.frame import Study, read_study
from analysis.tables.acceptance_by_draft import acceptance_by_draft
from analysis.tables.speculation import acceptance
from loadgen.record import RUN
from tests.fixtures import make_records

SPECULATION = {
    "drafts": 40,
    "tokens_per_step": 1.6,
    "tokens_per_drafting_step": 2.5,
    "acceptance_rate": 0.3,
    "accepted_fraction": 0.37,
    "accepted_at_position": [0.75, 0.5, 0.25],
    "accepted_at_position_per_step": [0.3, 0.2, 0.1],
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """One configuration with speculation, whose run reports acceptance, and one without."""
    out = tmp_path / "study"
    small = ["--models", "r1-distill-qwen-1.5b", "--configs", "tp1,tp1-ngram", "--budgets", "1024"]
    assert make_records.main([str(out), *small, "--problems", "40"]) == 0
    for path in out.rglob(RUN):
        if "ngram" in path.parent.name:
            run = json.loads(path.read_text())
            run["summary"] = (run.get("summary") or {}) | {"speculation": SPECULATION}
            path.write_text(json.dumps(run))
    return read_study(out)


def test_each_draft_position_of_a_run_is_a_row(study: Study) -> None:
    table = acceptance_by_draft(study)
    assert table["draft_position"].tolist() == [1, 2, 3]
    assert table["accepted"].tolist() == [0.75, 0.5, 0.25]
    assert table["accepted_per_step"].tolist() == [0.3, 0.2, 0.1]
    assert set(table["config"]) == {"tp1-ngram"}
    assert set(table["tokens_per_step"]) == {1.6}
    assert set(table["tokens_per_drafting_step"]) == {2.5}


def test_tokens_per_step_count_the_steps_without_a_draft(study: Study) -> None:
    """A request's steps are its tokens less the accepted ones, whatever share of the steps had a draft."""
    frame = study.frame[study.frame["speculation"].astype(str) != "off"]
    steps = frame["completion_tokens"] - 1 - frame["num_accepted_draft_tokens"]
    expected = (frame["completion_tokens"] - 1).sum() / steps.sum()
    table = acceptance(study)
    assert (table["per_step"] * table["n"]).sum() / table["n"].sum() == pytest.approx(expected, rel=0.1)


def test_a_study_without_counters_has_no_rows(study: Study) -> None:
    for run in study.runs.values():
        run.summary.pop("speculation", None)
    assert acceptance_by_draft(study).empty
