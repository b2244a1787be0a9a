"""Tables that are kept between calls are those that would be computed, and they are never those of other results."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis import claims
from analysis.data import cache, frame
from analysis.data.cache import Tables
from analysis.data.frame import Study, read_study
from analysis.tables import kept
from loadgen.files import cache_folder
from tests.fixtures import make_records


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, in an environment whose cache keeps tables of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(frame, "LEAST_ROWS", 1)
    arguments = ["--models", "r1-distill-qwen-14b", "--configs", "tp1,tp1-ngram", "--budgets", "1024,4096"]
    assert make_records.main([str(tmp_path / "results"), *arguments, "--problems", "12"]) == 0
    return tmp_path / "results"


def tables_of(study: Study) -> list[pd.DataFrame]:
    """Everything that the commands keep."""
    problems = kept.problems(study)
    found = claims.of_study(study, claims.Evidence(problems, 0.06))
    return [study.frame, kept.settings(study, 3.5, {"e2e": 30.0}), problems, found]


def test_what_was_kept_is_what_would_be_computed(results: Path) -> None:
    """Every table, the notes of the reading, and what a command says about the categories of a column."""
    with (results / "tp1--r1-distill-qwen-14b" / "records.jsonl").open("a") as file:
        file.write("{}\n")
    first, again = read_study(results), read_study(results)
    for computed, stored in zip(tables_of(first), tables_of(again), strict=True):
        pd.testing.assert_frame_equal(computed, stored)
    names = [path.name.split("-")[0] for path in sorted((cache_folder() / "tables").rglob("*.arrow"))]
    assert names == ["claims", "frame", "problems", "summary"]
    assert first.notes == again.notes
    assert "1 damaged line" in " ".join(again.notes)
    assert first.runs == again.runs


def test_other_results_are_read_again(results: Path) -> None:
    """A record that was appended, a manifest that was judged again, and another folder with the same files."""
    n = len(read_study(results).frame)
    path = results / "tp1--r1-distill-qwen-14b" / "records.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps(line | {"seq": 1000}) + "\n")
    assert len(read_study(results).frame) == n + 1
    manifest = path.with_name("run.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"verdict": "INVALID", "reasons": ["x"]}))
    assert "INVALID" in set(read_study(results).frame["run_verdict"])
    other = results.with_name("other")
    shutil.copytree(results, other)
    shutil.rmtree(other / "tp1-ngram--r1-distill-qwen-14b")
    assert set(read_study(other).frame["config"]) == {"tp1"}


def test_a_damaged_or_unwritable_cache_is_none(results: Path) -> None:
    study = read_study(results)
    for path in (cache_folder() / "tables").rglob("*.arrow"):
        path.write_bytes(path.read_bytes()[:100])
    pd.testing.assert_frame_equal(read_study(results).frame, study.frame)
    shutil.rmtree(cache_folder() / "tables")
    (cache_folder() / "tables").write_text("a file in the place of the folder")
    pd.testing.assert_frame_equal(read_study(results).frame, study.frame)


def test_what_was_used_least_recently_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three keys of about 8 kB with room for two: the oldest goes, and the one that is being written stays."""
    monkeypatch.setattr(cache, "MOST_BYTES", 20_000)
    table = pd.DataFrame({"x": pd.Series(range(1000)).sample(frac=1, random_state=0).to_numpy()})
    for age, name in enumerate(("new", "old", "older")):
        Tables(tmp_path / name).write(table, {}, "frame")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    Tables(tmp_path / "newest").write(table, {}, "frame")
    assert {path.name for path in tmp_path.iterdir()} <= {"newest", "new", "old"}
    assert Tables(tmp_path / "newest").read("frame") is not None
    assert Tables(tmp_path / "older").read("frame") is None


def test_few_requests_are_not_kept(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "LEAST_ROWS", 1000)
    tables_of(read_study(results))
    assert not list(cache_folder().rglob("*.arrow"))
