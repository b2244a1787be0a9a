"""Tokens per step and acceptance by draft position, from the server's counters and from its timings of each request."""

import json
from pathlib import Path

import pytest

from analysis.data.frame import Study, read_study
from analysis.tables.speculation import acceptance, acceptance_by_draft
from loadgen.chunks import CHUNKS, encode_frame
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
    table = acceptance(study)["acceptance"]
    assert (table["per_step"] * table["n"]).sum() / table["n"].sum() == pytest.approx(expected, rel=0.1)


def test_the_histogram_counts_the_steps_of_each_budget_and_position(study: Study) -> None:
    """The events of each request have 1, 3, 1, 6 and 250 tokens. The first one comes from prefill and is no step.

    The others accepted 2, 0, 5 and 249 draft tokens, of which the histogram distinguishes 64.
    """
    frame = study.frame[study.frame["speculation"].astype(str) != "off"]
    (cell,) = frame["cell"].unique()
    frames = [encode_frame(int(seq), [1, 2, 3, 4, 5], [1, 3, 1, 6, 250]) for seq in frame["seq"]]
    study.runs[str(cell)].server["draft_tokens"] = 300
    (study.folder(str(cell)) / CHUNKS).write_bytes(b"".join(frames))
    tables = acceptance(study)
    found = tables["accepted_drafts"]
    assert set(found["budget"]) == {1024}
    assert set(found["n"]) == {40}
    first = found[found["bin"] == found["bin"].min()].set_index("accepted")["share"]
    assert first[first > 0].to_dict() == pytest.approx({0: 0.25, 2: 0.25, 5: 0.25, 64: 0.25})
    assert found["steps"].iloc[0] == 4 * 40
    by_budget = tables["acceptance_by_budget"].iloc[0]
    assert (by_budget["budget"], by_budget["n"]) == (1024, 40)
    assert by_budget["per_step"] == pytest.approx((3 + 1 + 6 + 250) / 4)


def test_a_study_without_chunks_has_no_histogram(study: Study) -> None:
    tables = acceptance(study)
    assert tables["accepted_drafts"].empty
    assert len(tables["acceptance_by_budget"]) == 1


def test_a_study_without_counters_has_no_rows(study: Study) -> None:
    for run in study.runs.values():
        run.summary.pop("speculation", None)
    assert acceptance_by_draft(study).empty
