"""The cost of requests in the steady window and of an unknown number of GPUs, on frames worked out by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.costs import _tokens_within, add_costs
from analysis.data.setting import gpus_label
from analysis.tables.optima import candidates
from analysis.tables.summary import _cost, _units, requests
from loadgen.measure.steady_window import tokens_within
from loadgen.record import RunInfo


def run(**fields: Any) -> RunInfo:
    described: dict[str, Any] = {"load": {"concurrency": 4, "kind": "closed"}, "num_gpus": 2} | fields
    return RunInfo(run_id="r", config="tp2", model="m", target="t", started_at="", clock={}, **described)


def frame(rows: list[tuple[float, float, float]], budget: float = 128, **fields: Any) -> pd.DataFrame:
    """Requests as (sent, end, tokens) of one cell on two GPUs."""
    sent, end, tokens = np.array(rows, dtype=float).T
    columns = {"cell": "a", "sent_s": sent, "first_token_s": sent, "last_token_s": end, "end_s": end}
    columns |= {"completion_tokens": tokens, "e2e_s": end - sent, "budget": budget, "ok": True}
    columns |= {"warmup": False, "derived": False, "check": False, "prompt_tokens": 10.0}
    return pd.DataFrame(columns | {"num_gpus": 2.0, "params_b": 1.0} | fields)


STEADY = [(float(second), second + 1.0, 100.0) for second in range(6) for _ in range(4)]
"""Four streams for six seconds: 400 tokens per second, so a token costs 2 / 400 GPU-seconds."""


def per_token(rows: pd.DataFrame, column: str = "gpu_s") -> float:
    return float(rows[column].sum() / rows["completion_tokens"].sum())


def test_the_end_of_a_run_does_not_make_tokens_dearer() -> None:
    """One request keeps the server for 14 further seconds; the cost of the steady load stays 0.005 GPU-seconds."""
    found = frame([*STEADY, (5.0, 20.0, 1500.0)])
    add_costs(found, {"a": run()})
    assert found["steady"].all()
    assert found["steady_share"].iloc[0] == pytest.approx(4 / 20)
    assert per_token(found) == pytest.approx(2 / 400)
    assert found["gpu_s_whole"].sum() == pytest.approx(2 * 20)
    assert found["gpu_s"].gt(0).all()


def test_a_run_that_is_too_short_keeps_the_cost_of_the_whole_run() -> None:
    found = frame(STEADY[:8])
    add_costs(found, {"a": run()})
    assert not found["steady"].any()
    assert found["gpu_s"].tolist() == found["gpu_s_whole"].tolist()


def test_each_budget_has_its_own_cost_in_the_window() -> None:
    """Two of four streams produce twice as many tokens: half the server for two thirds of the tokens."""
    slow, fast = frame(STEADY[::2], budget=64), frame([(a, b, 200.0) for a, b, _ in STEADY[1::2]], budget=256)
    found = pd.concat([slow, fast], ignore_index=True)
    add_costs(found, {"a": run()})
    assert per_token(found[found["budget"] == 64]) == pytest.approx(1 / 200)
    assert per_token(found[found["budget"] == 256]) == pytest.approx(1 / 400)


def test_energy_is_that_of_the_window() -> None:
    """800 W in the steady window are 2 joules per token, whatever the end of the run needs."""
    found = frame([*STEADY, (5.0, 20.0, 1500.0)])
    add_costs(found, {"a": run(energy={"joules": 5000.0, "steady": {"joules": 3200.0}})})
    assert per_token(found, "energy_j") == pytest.approx(2.0)


def test_a_derived_budget_is_charged_up_to_its_last_token() -> None:
    """Half of every reply costs half of the server's time, and the check that follows changes nothing."""
    half = frame([(a, (a + b) / 2, 50.0) for a, b, _ in STEADY], budget=64, derived=True)
    check = frame([(a + 100, b + 100, 10.0) for a, b, _ in STEADY], budget=64, check=True)
    found = pd.concat([frame(STEADY), half, check], ignore_index=True)
    add_costs(found, {"a": run()})
    rows = found[found["derived"]]
    assert rows["gpu_s"].sum() == pytest.approx(24 * 0.5 * 2 / 4)
    assert per_token(rows) == pytest.approx(2 / 400)
    assert per_token(found[~found["derived"] & ~found["check"]]) == pytest.approx(2 / 400)


def test_tokens_in_a_window_are_those_of_the_load_generator() -> None:
    rng = np.random.default_rng(5)
    first, length = rng.uniform(0, 10, 200), rng.choice([0.0, 1.0, 4.0], 200)
    rows = frame(list(zip(first, first + length, rng.integers(1, 99, 200).astype(float), strict=True)))
    expected = [
        tokens_within(a, a + b, int(n), (3.0, 7.0))
        for a, b, n in zip(first, length, rows["completion_tokens"], strict=True)
    ]
    assert _tokens_within(rows, (3.0, 7.0)) == pytest.approx(expected)


def test_check_requests_are_no_ordinary_requests() -> None:
    rows = pd.concat([frame(STEADY[:3]), frame(STEADY[:2], budget=64, check=True)])
    assert requests(rows)["budget"].tolist() == [128, 128, 128]


def test_derived_rows_that_no_check_confirmed_are_not_recommended() -> None:
    table = pd.DataFrame({"judged": "usable", "accuracy": 0.5, "e2e_p50_s": 1.0, "trusted": [True, False]})
    assert len(candidates(table)) == 1


def test_the_cost_of_an_unknown_number_of_gpus_is_unknown() -> None:
    nan = float("nan")
    rows = pd.DataFrame(
        {
            "problem_id": ["a", "b"],
            "gpu_s": [nan, nan],
            "gpu_s_paper": [nan, nan],
            "gpu_s_whole": [nan, nan],
            "ok": [True, True],
            "completion_tokens": [10.0, 30.0],
            "correct": [1.0, 0.0],
            "energy_j": [5.0, 7.0],
            "tflop": [1.0, 3.0],
            "e2e_s": [1.0, 3.0],
        }
    )
    cost = _cost(rows, _units(rows.assign(place=0, server_s=nan))[0])
    for name in (
        "gpu_s_per_request",
        "gpu_s_per_token",
        "gpu_s_per_token_paper",
        "cost_of_pass_gpu_s",
        "tokens_per_s_gpu",
    ):
        assert math.isnan(cost[name]), name
    assert cost["joules_per_token"] == 12 / 40
    assert cost["tflop_per_request"] == 2.0


def test_an_old_run_without_the_field_has_one_gpu_and_null_is_unknown() -> None:
    run = RunInfo(run_id="r", config="c", model="m", target="t", started_at="", clock={})
    assert gpus_label(run) == "1 GPU"
    run.num_gpus = None
    assert gpus_label(run) == "unknown number of GPUs"
