"""A run whose number of GPUs is unknown has no cost: not one GPU's, and not zero."""

import math

import pandas as pd

from analysis.data.setting import gpus_label
from analysis.tables.summary import _cost, _units
from loadgen.record import RunInfo


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
