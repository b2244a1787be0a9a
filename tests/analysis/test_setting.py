"""A setting's identity: what differs is kept apart everywhere, what repeats is pooled, and conclusions follow by hand."""

from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

import analysis
from analysis import claims, compare
from analysis.recommend import Requirements, recommend
from analysis.tables import optima, pairs
from analysis.tables import summary as tables
from loadgen.record import RECORDS, Record, RunInfo, write_run
from tests import ROOT

PUBLISHED = ROOT / "docs" / "results" / "h200-vllm-0.26.0" / "cells"


def write(folder: Path, e2e_s: list[float], *, budget: int = 1024, tokens: int = 100, **about: Any) -> None:
    """A run whose requests, one after another, take `e2e_s` (negative: it fails)."""
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
    """The frame, every success graded `correct`."""
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
def test_whatever_an_operator_changes_keeps_settings_apart(
    difference: dict[str, Any], tmp_path: Path
) -> None:
    """Two runs that differ in one thing are two rows, each with its own median; no pair joins them unless meant to."""
    write(tmp_path / "a", [1.0] * 6)
    write(tmp_path / "b", [3.0] * 6, **difference)
    summary = tables.summary(load(tmp_path), 3.5)
    assert sorted(summary["e2e_p50_s"]) == [1.0, 3.0]
    assert summary["n"].tolist() == [6, 6]


@pytest.mark.parametrize(
    "difference", [d for d in DIFFERENCES if not {"config", "num_gpus"} & set(d)], ids=str
)
def test_speculation_pairs_under_the_same_conditions_only(difference: dict[str, Any], tmp_path: Path) -> None:
    """A run with speculation that differs in anything else has no partner; the one that does not is twice as fast."""
    write(tmp_path / "plain", [2.0] * 6)
    write(tmp_path / "same", [1.0] * 6, config="tp1-ngram", speculation="ngram")
    write(tmp_path / "other", [9.0] * 6, config="tp1-ngram", speculation="ngram", **difference)
    found = pairs.speculation(pairs.per_problem(load(tmp_path)))
    assert found["speedup"].tolist() == [2.0]


def test_seeds_labels_and_counts_are_repeats(tmp_path: Path) -> None:
    """Runs that differ in what no number can feel are one row."""
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
    """The page of real runs shows what its README says: 0.582 ms a token with every draft accepted, 4.659 with none."""
    summary = tables.summary(analysis.load(PUBLISHED, grade=False), 3.5)
    rows = summary[
        (summary["model"] == "1.5b") & (summary["config"] == "tp1-ngram") & (summary["load"] == "c1")
    ]
    assert dict(zip(rows["asked"], rows["tpot_p50_s"].mul(1e3).round(3), strict=True)) == {
        "greedy, ignore_eos": 0.582,
        "T 1, ignore_eos": 4.659,
    }


def study(root: Path) -> pd.DataFrame:
    """1.5B needs 4K tokens and 40 s for what 14B does in 1K and 20 s, or 8 s on four GPUs; both are always right."""
    write(root / "small", [40.0] * 30, model="m-1.5B", budget=4096, tokens=4000)
    write(root / "large", [20.0] * 30, model="m-14B", tokens=1000)
    write(
        root / "large4",
        [8.0] * 30,
        model="m-14B",
        tokens=1000,
        config="tp4",
        num_gpus=4,
        tensor_parallel_size=4,
    )
    busy = {"load": {"kind": "closed", "concurrency": 32}}
    write(
        root / "busy", [1.0] * 30, model="m-1.5B", budget=4096, tokens=4000, **busy
    )  # another load competes with none
    return load(root)


def test_least_arithmetic_is_not_least_waiting_by_hand(tmp_path: Path) -> None:
    """2 × 1.5e9 × 4,000 < 2 × 14e9 × 1,000: compute-optimal 1.5B at 40 s, system-optimal 14B on four GPUs at 8 s."""
    frame = study(tmp_path)
    at_one, at_busy = optima.optima(tables.summary(frame, 3.5))
    assert (at_one.compute["model"], at_one.compute["tflop_per_answer"]) == ("m-1.5B", pytest.approx(12.0))
    assert (at_one.system["model"], at_one.system["config"]) == ("m-14B", "tp4")
    assert at_one.differ == ["model", "budget", "configuration"]
    assert at_busy.differ == []
    claim = next(one for one in claims.claims(frame) if one.name == "compute-not-system-optimal")
    assert (claim.verdict, claim.estimate, claim.low, claim.high) == ("held", 5.0, 5.0, 5.0)
    assert "1 in flight" in claim.effect


def test_one_setting_is_both_optima(tmp_path: Path) -> None:
    """Nothing to choose between: the claim does not hold."""
    write(tmp_path / "only", [1.0] * 30)
    claim = next(one for one in claims.claims(load(tmp_path)) if one.name == "compute-not-system-optimal")
    assert (claim.verdict, claim.estimate) == ("not held", 1.0)


def test_tensor_parallel_claims_by_hand(tmp_path: Path) -> None:
    """14B 2.5 times as fast on four GPUs: held, and said not to be near 1.7; 1.5B was on one GPU only: can't tell."""
    found = {one.name: one for one in claims.claims(study(tmp_path))}
    large = found["parallel-speeds-large"]
    assert (large.verdict, large.estimate) == ("held", 2.5)
    assert "not near the paper's 1.7" in large.effect
    assert found["parallel-slows-small"].verdict == "can't tell"


def test_a_wish_for_p95_counts_failures(tmp_path: Path) -> None:
    """One request in ten fails: no 95 % of requests are answered within anything, however fast the others are."""
    write(tmp_path / "a", ([1.0] * 9 + [-1.0]) * 10)
    summary = tables.summary(load(tmp_path), 3.5)
    assert recommend(summary, Requirements(0.5)).best is not None
    refused = recommend(summary, Requirements(0.5, 5.0))
    assert refused.best is None
    assert any("more than 5 % of its requests fail" in line for line in refused.sentences)


def test_energy_that_nobody_measured_recommends_nothing(tmp_path: Path) -> None:
    """No joules in any run: the objective has nothing to rank by, and says so."""
    write(tmp_path / "a", [1.0] * 30)
    assert (
        "no run measured it"
        in recommend(tables.summary(load(tmp_path), 3.5), Requirements(objective="energy")).headline
    )


def test_survivors_of_failing_requests_are_no_proof(tmp_path: Path) -> None:
    """NEW loses a tenth of its requests: as fast as BASE where it answers, and still the data can't tell."""
    write(tmp_path / "base" / "a", [1.0] * 100)
    write(tmp_path / "new" / "a", ([1.0] * 9 + [-1.0]) * 10)
    sides = [analysis.load(tmp_path / name, grade=False) for name in ("base", "new")]
    changes = compare.compare(*sides, compare.parse_gate("latency=3%,cost=3%"))
    assert compare.status(changes) == 2
    assert "failed 10.0% of requests more" in compare.markdown(changes, 2)


def test_what_was_not_compared_is_said(tmp_path: Path) -> None:
    """A setting that NEW lacks is named; one measured at another temperature is not the same setting."""
    write(tmp_path / "base" / "a", [1.0] * 10)
    write(tmp_path / "base" / "b", [1.0] * 10, config="tp2")
    write(tmp_path / "new" / "a", [1.0] * 10, sampling={"temperature": 0.6})
    sides = [analysis.load(tmp_path / name, grade=False) for name in ("base", "new")]
    assert compare.compare(*sides, {"latency": 0.03}) == []
    notes = compare.unmatched(*sides)
    assert "m-7B on tp2" in notes[0]
    assert "T 0.6" in notes[1]
