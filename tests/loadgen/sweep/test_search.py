"""`sweep --search` finds the capacity of every cell, simulated and on servers that it starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.cli import main
from loadgen.measure.dependence import kind_of
from loadgen.record import find_runs, read_records, read_run
from loadgen.search.decision import Evidence
from loadgen.sweep.manifest import Manifest
from tests.fixtures.emulated import loadgen

SMALL = ("--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--dataset", "sample", "--progress", "none")
CELL = "tp1_r1-distill-qwen-1.5b_search_o{}"
SEARCH = ("--search", "--slo", "tpot=2.5ms", "--to", "64")


def searched(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "search.json").read_text()))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two budgets, which are two searches."""
    out = tmp_path_factory.mktemp("simulated") / "s"
    budgets = ("--budgets", "8,16")
    assert main(["sweep", *SMALL, *SEARCH, *budgets, "--backend", "simulate", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("budget", [8, 16])
def test_each_budget_has_its_own_search(simulated: Path, budget: int) -> None:
    """The limit is where the SLO is met and one stream more does not meet it, by the records of the runs themselves."""
    folder = simulated / CELL.format(budget)
    found = searched(folder)
    assert (found["stopped"], found["simulated"], found["target"]) == ("resolved", True, "simulated")
    limit = int(found["limit"]["load"])
    assert found["limit"]["interval"] == [limit, limit + 1]
    for load, decision in ((limit, "pass"), (limit + 1, "fail")):
        evidence = Evidence(kind_of({"kind": "closed", "concurrency": load}))
        last = [probe for probe in found["probes"] if probe["load"] == load][-1]
        for name in last["runs"]:
            run = read_run(folder / name)
            assert (run.simulated, run.load["concurrency"]) == (True, load)
            rows = list(read_records(folder / name / "records.jsonl"))
            assert {row.budget for row in rows} == {budget}
            evidence.add(rows, run.load, {"tpot": 0.0025})
        assert evidence.decide(0.95) == decision


def test_a_finished_search_is_kept_and_another_one_is_repeated(
    simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that was interrupted is searched again, and no reader finds what it left."""
    kept, again = (simulated / CELL.format(budget) for budget in (8, 16))
    manifest = Manifest.read(simulated)
    next(entry for entry in manifest.cells if entry.name == again.name).state = "running"
    manifest.write()
    before, limit = (kept / "search.json").stat().st_mtime_ns, searched(again)["limit"]
    assert main(["sweep", "--resume", str(simulated)]) == 0
    said = capsys.readouterr().err
    assert (kept / "search.json").stat().st_mtime_ns == before
    assert searched(again)["limit"] == limit
    assert not find_runs(simulated / "discarded")
    assert not list((simulated / "discarded").rglob("search.json"))
    for folder in (kept, again):
        assert f"sweep: {folder.name}: limit {searched(folder)['limit']['load']:g} streams" in said


def test_a_server_that_the_sweep_starts_is_searched(tmp_path: Path) -> None:
    """No answer of eight tokens takes less than a millisecond, so that one stream fails, whatever the machine does beside."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "configs: [tp1]\nmodels: [r1-distill-qwen-1.5b]\nsearch: {over: streams, to: 2}\n"
        "run: {dataset: sample, budgets: 8, slo: e2e=1ms, metrics-port: 'off', progress: none}\n"
    )
    out = tmp_path / "s"
    done = loadgen("--plan", str(plan), "--speed", "20", "--out", str(out), verb="sweep")
    assert done.returncode == 0, done.stderr
    folder = out / CELL.format(8)
    found = searched(folder)
    assert (found["stopped"], found["limit"], found["emulated"]) == ("failed at the lowest load", None, True)
    assert {probe["fails"] for probe in found["probes"]} == {"e2e"}
    for name in found["probes"][0]["runs"]:
        assert read_run(folder / name).server["backend"] == "emulator"
    assert Manifest.read(out).cells[0].state == "done"
    assert f"{folder.name}: 1 stream: the objectives are not met" in done.stderr


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--loads", "1,8"), "leave out --loads"),
        (("--requests", "8x"), "chooses the number of requests"),
        (("--concurrency", "4"), "sets the load"),
        (("--from", "3", "--to", "2"), "--from 3 is above --to 2"),
        (("--repeats", "2"), "leave them out"),
        (("--axes", '{"duration": ["20s"]}'), "chooses the number of requests"),
    ],
)
def test_options_that_a_search_sets_itself_are_refused(
    more: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    assert main(["sweep", *SMALL, "--search", "--slo", "e2e=9s", *more, "--out", str(out)]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_a_search_needs_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *SMALL, "--search"]) == 2
    assert "needs objectives" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["[1, 2]", "{loads: 3}", "rate", ""])
def test_a_wrong_key_search_of_a_plan_is_refused(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"configs: [tp1]\nmodels: [s1.1-7b]\nsearch: {value}\n")
    assert main(["sweep", "--plan", str(plan)]) == 2
    assert "search: write true, or a mapping" in capsys.readouterr().err
