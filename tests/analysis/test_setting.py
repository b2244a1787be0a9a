"""Settings: different ones are kept apart, repeats are pooled, and the conclusions equal those calculated by hand."""

from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

import analysis
from analysis import claims, compare
from analysis.advice import Requirements
from analysis.recommend import recommend
from analysis.tables import optima, pairs
from analysis.tables import summary as tables
from loadgen.record import RECORDS, Record, RunInfo, write_run
from tests import ROOT

PUBLISHED = ROOT / "docs" / "results" / "h200-vllm-0.26.0" / "cells"


def write(folder: Path, e2e_s: list[float], *, budget: int = 1024, tokens: int = 100, **about: Any) -> None:
    """Write a run whose requests follow each other and take `e2e_s` seconds; a negative value is a failed request."""
    folder.mkdir(parents=True)
    known: dict[str, Any] = {
        "run_id": folder.name,
        "config": "tp1",
        "model": "m-7B",
        "target": "none",
        "started_at": "2026-01-01T00:00:00Z",
        "clock": {"wall_s": 0.0, "perf_s": 0.0},
        "load": {"kind": "closed", "concurrency": 1},
        "sampling": {"name": "greedy", "temperature": 0.0},
        "dataset": {"name": "sample"},
        "gpu": "h200",
        "verdict": "VALID",
    }
    run = RunInfo(**(known | about))
    write_run(folder, run)
    sent_s, lines = 0.0, []
    for seq, took_s in enumerate(e2e_s):
        end_s = sent_s + abs(took_s)
        record = Record(
            run_id=run.run_id,
            seq=seq,
            problem_id=f"p{seq}",
            budget=budget,
            budget_mode=run.budget_mode,
            due_s=sent_s,
            sent_s=sent_s,
            end_s=end_s,
            outcome="ok" if took_s > 0 else "server_error",
        )
        if took_s > 0:
            record.first_token_s = record.ttft_s = None
            record.last_token_s, record.e2e_s, record.completion_tokens = end_s, took_s, tokens
            record.prompt_tokens = 0
        lines.append(msgspec.json.encode(record) + b"\n")
        sent_s = end_s
    (folder / RECORDS).write_bytes(b"".join(lines))


def load(root: Path, correct: float = 1.0) -> pd.DataFrame:
    """The frame, with the accuracy `correct` for every successful request."""
    frame = analysis.load(root, grade=False)
    return frame.assign(correct=frame["ok"].astype(float) * correct)


DIFFERENCES: list[dict[str, Any]] = [
    {"sampling": {"name": "greedy", "temperature": 1.0}},
    {"sampling": {"name": "greedy", "temperature": 0.0, "top_p": 0.9}},
    {"sampling": {"name": "greedy", "temperature": 0.0, "prompt": "s1"}},
    {"options": {"extra_body": {"ignore_eos": True}}},
    {"options": {"path": "completions"}},
    {"load": {"kind": "closed", "concurrency": 8}},
    {"load": {"kind": "open", "rate": 2.0, "arrival": "poisson"}},
    {"load": {"kind": "open", "rate": 2.0, "arrival": "constant"}},
    {"load": {"kind": "open", "rate": 2.0, "arrival": "poisson", "ramp": [[1, 10], [3, 10]]}},
    {"budget_mode": "forced"},
    {"cache": "salt"},
    {"gpu": "h100"},
    {"dataset": {"name": "math500"}},
    {"config": "tp1-other"},
    {"tensor_parallel_size": 2, "num_gpus": 2},
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=str)
def test_every_option_that_changes_a_value_separates_settings(difference: dict[str, Any], tmp_path: Path) -> None:
    """Two runs that differ in one option are two rows, each with its own median."""
    write(tmp_path / "a", [1.0] * 6)
    write(tmp_path / "b", [3.0] * 6, **difference)
    summary = tables.summary(load(tmp_path), 3.5)
    assert sorted(summary["e2e_p50_s"]) == [1.0, 3.0]
    assert summary["n"].tolist() == [6, 6]


@pytest.mark.parametrize("difference", [d for d in DIFFERENCES if not {"config", "num_gpus"} & set(d)], ids=str)
def test_speculation_pairs_under_the_same_conditions_only(difference: dict[str, Any], tmp_path: Path) -> None:
    """A run with speculation is paired only where nothing else differs; here that run is twice as fast."""
    write(tmp_path / "plain", [2.0] * 6)
    write(tmp_path / "same", [1.0] * 6, config="tp1-ngram", speculation="ngram")
    write(tmp_path / "other", [9.0] * 6, config="tp1-ngram", speculation="ngram", **difference)
    found = pairs.speculation(pairs.per_problem(load(tmp_path)))
    assert found["speedup"].tolist() == [2.0]


def test_seeds_labels_and_counts_are_repeats(tmp_path: Path) -> None:
    """Runs that differ only in seeds, labels and counts, which do not change a measured value, are one row."""
    write(tmp_path / "a", [1.0] * 6, seed=0)
    write(
        tmp_path / "b",
        [1.0] * 4,
        seed=1,
        labels={"phase": "two"},
        load={"kind": "closed", "concurrency": 1, "requests": 4},
    )
    assert tables.summary(load(tmp_path), 3.5)["n"].tolist() == [10]


def test_published_cells_that_differ_in_temperature_are_two(tmp_path: Path) -> None:
    """The summary of published runs has the TPOT of their README: 0.582 ms with every draft accepted, 4.659 ms with none."""
    summary = tables.summary(analysis.load(PUBLISHED, grade=False), 3.5)
    rows = summary[(summary["model"] == "1.5b") & (summary["config"] == "tp1-ngram") & (summary["load"] == "c1")]
    assert dict(zip(rows["asked"], rows["tpot_p50_s"].mul(1e3).round(3), strict=True)) == {
        "greedy, ignore_eos": 0.582,
        "T 1, ignore_eos": 4.659,
    }


def study(root: Path) -> pd.DataFrame:
    """1.5B needs 4K tokens and 40 s; 14B needs 1K tokens and 20 s, or 8 s on four GPUs. Both are always correct."""
    write(root / "small", [40.0] * 30, model="m-1.5B", budget=4096, tokens=4000)
    write(root / "large", [20.0] * 30, model="m-14B", tokens=1000)
    write(root / "large4", [8.0] * 30, model="m-14B", tokens=1000, config="tp4", num_gpus=4, tensor_parallel_size=4)
    busy = {"load": {"kind": "closed", "concurrency": 32}}
    write(
        root / "busy", [1.0] * 30, model="m-1.5B", budget=4096, tokens=4000, **busy
    )  # not comparable, because the load differs
    return load(root)


def test_the_least_arithmetic_is_not_the_least_latency(tmp_path: Path) -> None:
    """1.5B is compute-optimal with 2 × 1.5e9 × 4,000 operations and 40 s; 14B on four GPUs is system-optimal with 8 s."""
    frame = study(tmp_path)
    at_one, at_busy = optima.optima(tables.summary(frame, 3.5))
    assert (at_one.compute["model"], at_one.compute["tflop_per_request"]) == ("m-1.5B", pytest.approx(12.0))
    assert (at_one.system["model"], at_one.system["config"]) == ("m-14B", "tp4")
    assert at_one.differ == ["model", "budget", "configuration"]
    assert at_busy.differ == []
    claim = next(one for one in claims.claims(frame, 0.0) if one.name == "compute-not-system-optimal")
    assert (claim.verdict, claim.estimate, claim.low, claim.high) == ("held", pytest.approx(5.0), 5.0, 5.0)
    assert "1 in flight" in claim.effect


def test_one_setting_is_both_optima(tmp_path: Path) -> None:
    """With a single setting both optima are the same, and the claim does not hold."""
    write(tmp_path / "only", [1.0] * 30)
    claim = next(one for one in claims.claims(load(tmp_path), 0.0) if one.name == "compute-not-system-optimal")
    assert (claim.verdict, claim.estimate) == ("not held", 1.0)


def test_tensor_parallel_claims(tmp_path: Path) -> None:
    """14B is 2.5 times as fast on four GPUs; 1.5B ran on one GPU only, so its claim is open."""
    found = {one.name: one for one in claims.claims(study(tmp_path))}
    large = found["parallel-speeds-large"]
    assert (large.verdict, large.estimate) == ("held", 2.5)
    assert "one run each: differences below 20 % are not shown" in large.effect
    assert found["parallel-slows-small"].verdict == "can't tell"


def test_a_required_p95_counts_failures(tmp_path: Path) -> None:
    """Where one request in ten fails, no p95 latency can be required, because it is infinite."""
    write(tmp_path / "a", ([1.0] * 9 + [-1.0]) * 10)
    requests = load(tmp_path)
    summary, evidence = tables.summary(requests, 3.5), pairs.Evidence(pairs.per_problem(requests))
    assert recommend(summary, Requirements(0.5), evidence).best is not None
    refused = recommend(summary, Requirements(0.5, 5.0), evidence)
    assert refused.best is None
    assert any("more than 5 % of its requests fail" in line for line in refused.sentences)


def test_energy_that_was_not_measured_recommends_nothing(tmp_path: Path) -> None:
    """Without joules in any run, nothing can be recommended by energy, and the headline says so."""
    write(tmp_path / "a", [1.0] * 30)
    requests = load(tmp_path)
    evidence = pairs.Evidence(pairs.per_problem(requests))
    found = recommend(tables.summary(requests, 3.5), Requirements(objective="energy"), evidence)
    assert "no run measured it" in found.headline


def test_latency_is_not_conclusive_where_requests_fail(tmp_path: Path) -> None:
    """NEW fails a tenth of its requests. The others are as fast as in BASE, but the data cannot tell."""
    write(tmp_path / "base" / "a", [1.0] * 100)
    write(tmp_path / "new" / "a", ([1.0] * 9 + [-1.0]) * 10)
    sides = [analysis.load(tmp_path / name, grade=False) for name in ("base", "new")]
    changes = compare.compare(*sides, compare.parse_gate("latency=3%,cost=3%"))
    assert compare.status(changes) == 2
    assert "failed 10.0% of requests more" in compare.markdown(changes, 2)


def test_settings_that_were_not_compared_are_named(tmp_path: Path) -> None:
    """A setting that only one side has is named, and a different temperature makes a different setting."""
    write(tmp_path / "base" / "a", [1.0] * 10)
    write(tmp_path / "base" / "b", [1.0] * 10, config="tp2")
    write(tmp_path / "new" / "a", [1.0] * 10, sampling={"temperature": 0.6})
    sides = [analysis.load(tmp_path / name, grade=False) for name in ("base", "new")]
    assert compare.compare(*sides, {"latency": 0.03}) == []
    notes = compare.unmatched(*sides)
    assert "m-7B on tp2" in notes[0]
    assert "T 0.6" in notes[1]
