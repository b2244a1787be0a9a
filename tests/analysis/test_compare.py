"""Comparisons of percentiles, rates and imported runs, of several results, and across configurations."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import compare
from analysis.__main__ import main
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm
from tests.fixtures import make_records


def side(e2e_s: np.ndarray, **about: Any) -> pd.DataFrame:
    """One run, whose TTFT is a tenth of its latency and which has one request in flight."""
    part = frame([arm(e2e_s, **about)])
    return part.assign(ttft_s=part["e2e_s"] / 10, tpot_s=part["e2e_s"] / 100, prompt_tokens=np.arange(len(part)))


TIMES = np.linspace(1.0, 2.0, 400)


@pytest.mark.parametrize(
    ("gate", "base", "new", "percent"),
    [
        ("ttft=3%", 0.15, 0.18, 20.0),
        ("tpot=3%", 0.015, 0.018, 20.0),
        ("ttft.p50=3%", 0.14987, 0.17985, 20.0),
        ("e2e.p99=3%", 1.9900, 2.388, 20.0),
        ("throughput=3%", 1 / 1.5, 1 / 1.8, -100 / 6),
        ("goodput=3%", 1 / 1.5 * 0.5, 1 / 1.8 * 0.25, -58.3),
    ],
)
def test_each_measure_is_gated(gate: str, base: float, new: float, percent: float) -> None:
    """Every request takes 1.2 times as long; of those that took at most 1.5 s, half, only a quarter is within 1.5 s."""
    [change] = compare.compare(side(TIMES), side(TIMES * 1.2), compare.parse_gate(gate), None, {"e2e": 1.5})
    assert (change.base, change.new) == pytest.approx((base, new), rel=0.01)
    assert compare.status([change]) == 1
    line = next(line for line in compare.short_list([change], 1) if "worse" in line)
    assert f"{percent:+.1f} %"[:4] in line


def test_an_improvement_is_named() -> None:
    [change] = compare.compare(side(TIMES), side(TIMES / 1.2), compare.parse_gate("throughput=3%"))
    assert compare.status([change]) == 0
    assert any(line.startswith("  better       throughput") for line in compare.short_list([change], 0))


def test_a_percentile_of_too_few_requests_is_not_compared() -> None:
    few = side(TIMES[:50])
    assert compare.compare(few, few, compare.parse_gate("e2e.p99=3%")) == []


def test_configurations_are_compared_to_the_first_one() -> None:
    """tp10 comes after tp2; with one folder the arms are those of BASE, and a load is a condition that both share."""
    both = pd.concat(
        side(TIMES * factor, config=config, load=load, cell=f"{config}{load}")
        for config, factor in (("tp10", 3.0), ("tp2", 1.0), ("tp4", 2.0))
        for load in ("c1", "c8")
    )
    found = compare.compare(both, both, {"latency": 0.03}, "config")
    assert [(one.setting["config"], one.setting["versus"], one.setting["load"]) for one in found] == [
        ("tp4", "tp2", "c1"),
        ("tp10", "tp2", "c1"),
        ("tp4", "tp2", "c8"),
        ("tp10", "tp2", "c8"),
    ]
    lines = list(compare.short_list(found, 1))
    assert lines[1] == "latency: 4 worse"
    assert any("compared to tp2" in line for line in lines)


def test_an_imported_run_is_compared_with_an_own_run_of_the_same_workload() -> None:
    """The prompts have the same lengths in another order; sampling, GPU and budget are unknown on one side."""
    own = side(TIMES)
    theirs = side(TIMES[::-1] * 1.5, gpu="unknown", asked="unknown", budget=0.0, dataset="imported lengths 1")
    theirs = theirs.assign(prompt_tokens=np.arange(400)[::-1])
    theirs = theirs.assign(problem_id=[f"request-{n}" for n in range(400)])
    [change] = compare.compare(own, theirs, {"latency": 0.03})
    assert (change.n, change.worse) == pytest.approx((400, np.log(1.5)))
    assert compare.compare(own, theirs.assign(prompt_tokens=7), {"latency": 0.03}) == []
    mixed = pd.concat([own, own.assign(asked="T 0.6")])
    assert compare.compare(mixed, theirs, {"latency": 0.03}) == []


def test_several_results_are_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two results are compared to a third: the same one, and one that is twice as slow. A gate that was not measured does not pass."""
    arguments = ["--models", "r1-distill-qwen-14b", "--configs", "tp1", "--budgets", "1024", "--problems", "40"]
    assert make_records.main([str(tmp_path / "base"), *arguments]) == 0
    for name in ("same", "slow"):
        shutil.copytree(tmp_path / "base", tmp_path / name)
    path = next((tmp_path / "slow").rglob("records.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"e2e_s": row["e2e_s"] * 2}) + "\n" for row in rows))
    capsys.readouterr()
    paths = [str(tmp_path / name) for name in ("base", "same", "slow")]
    assert main(["compare", *paths, "--gate", "latency=3%"]) == 1
    shown = capsys.readouterr()
    assert [one["side"] for one in json.loads(shown.out)["regressions"]] == ["slow"]
    assert "[slow]" in shown.err
    for row in (tmp_path / "same").rglob("problems.jsonl"):
        row.unlink()
    assert main(["compare", *paths[:2], "--gate", "latency=3%"]) == 0
    assert main(["compare", *paths[:2], "--gate", "latency=3%,accuracy=1pt"]) == 2
    assert "not both results can show it: accuracy." in capsys.readouterr().err
    assert main(["compare", paths[0]]) == 2


def test_repeated_runs_may_be_too_small_for_a_percentile_of_their_own() -> None:
    """BASE is three runs of which none is large enough for a p99, NEW two that are: the noise between runs is that of NEW."""
    small = pd.concat(side(TIMES[number::3], cell=f"base{number}") for number in range(3))
    large = pd.concat(side(TIMES * factor, cell=f"new{factor}") for factor in (1.0, 1.1))
    base = small.assign(problem_id=large["problem_id"].to_numpy()[: len(small)])
    [change] = compare.compare(base, large, compare.parse_gate("e2e.p99=3%"))
    assert change.noise_floor == pytest.approx(np.log(1.1) / np.sqrt(2))
    assert change.error >= change.noise_floor * np.sqrt(1 / 3 + 1 / 2)
