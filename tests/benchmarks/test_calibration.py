"""The calibration uses the right published cells, and the fit recovers the parameters that produced its input."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from benchmarks.emulator_fidelity import compare
from benchmarks.studies.calibrate_emulator import configurations, fit, half_of
from benchmarks.studies.cells import MeasuredCell, read_cells
from server.emulator.engine.hardware import EngineVersion, engine_versions, gpus
from tests import ROOT

RESULTS = ROOT / "docs/results"
GPU, ENGINE = gpus()["h200"], engine_versions()["0.26"]


@pytest.fixture(scope="module")
def cells() -> list[MeasuredCell]:
    return read_cells(RESULTS / "h200-vllm-0.26.0/cells")


def tpot(configs: list[dict[str, Any]], engine: EngineVersion) -> pd.DataFrame:
    """The compared rows of TPOT."""
    rows = compare(configs, GPU, engine)
    return rows[rows["kind"] == "tpot"]


def test_the_halves_together_are_all_cells(cells: list[MeasuredCell]) -> None:
    """The hash of the name decides, which is the same on every machine. Cells with real text are left out."""
    whole, even, odd = (configurations(cells, half) for half in (None, "even", "odd"))
    rows = [sum(len(config["decode"]) for config in half) for half in (whole, even, odd)]
    assert rows[0] == rows[1] + rows[2] == 27
    assert (half_of("tp1_14b_c32_t0"), half_of("tp1-sync_14b_c32_t0")) == ("odd", "even")
    assert not [config for config in whole if config["model"] == "memo-20m"]


def test_the_synchronous_baseline_is_a_separate_row(cells: list[MeasuredCell]) -> None:
    """N-gram speculation turns asynchronous scheduling off, so cells without both are a baseline and are emulated as synchronous."""
    found = {config["config"]: config for config in configurations(cells, None)}
    assert found["1.5b-tp1"]["async_scheduling"]
    assert not found["1.5b-tp1-sync"]["async_scheduling"]
    plain, matched = (tpot([found[name]], ENGINE).iloc[0] for name in ("1.5b-tp1", "1.5b-tp1-sync"))
    assert matched.measured > 1.4 * plain.measured
    assert matched.emulated > 1.3 * plain.emulated


def test_cells_that_differ_only_in_temperature_are_separate_rows(cells: list[MeasuredCell]) -> None:
    """With every draft accepted a token takes 0.58 ms, with none 4.7 ms; one row with the mean of 2.6 ms would be wrong."""
    rows = next(c for c in configurations(cells, None) if c["config"] == "1.5b-tp1-ngram")["decode"]
    single = {row["temperature"]: row["tpot_p50_ms"] for row in rows if row["concurrency"] == 1}
    assert single[1] > 7 * single[0]


def test_cells_of_another_version_are_not_used(cells: list[MeasuredCell]) -> None:
    """Each version has a profile of its own, which only its own cells may change."""
    assert configurations(cells, "even", "0.26") == configurations(cells, "even")
    assert not configurations(cells, "even", "0.32")


def emulated(row: dict[str, Any]) -> dict[str, float]:
    """The emulated time of a row of 1.5B with n-gram speculation, by kind."""
    config = {"config": "ngram", "model": "1.5b", "tensor_parallel_size": 1, "speculation": "ngram k=5 lookup 1..4"}
    measurement = {"output_tokens": 120, "mean_prompt_tokens": 100, "tpot_p50_ms": 1.0, "ttft_p50_ms": 1.0}
    return compare([config | {"decode": [measurement | row]}], GPU, ENGINE).set_index("kind")["emulated"].to_dict()


def test_a_row_is_emulated_with_its_acceptance() -> None:
    """The same text with 1.75 and with 4 accepted tokens a step, and with all of six."""
    times = {
        tokens: emulated({"concurrency": 1, "temperature": 0.0, "tokens_per_chunk": tokens})["tpot"]
        for tokens in (1.75, 4.0, 5.85)
    }
    assert times[1.75] / times[4.0] == pytest.approx(4 / 1.75, rel=0.1)
    assert times[4.0] / times[5.85] == pytest.approx(6 / 4, rel=0.1)


def test_a_row_is_emulated_with_its_number_of_requests() -> None:
    """In a closed loop, a later request finds a running batch; with imposed acceptance, responses end one by one."""
    row = {"concurrency": 16, "temperature": 0.0, "tokens_per_chunk": 1.75}
    burst, loop = emulated(row), emulated(row | {"requests": 160})
    assert loop["ttft"] < 0.7 * burst["ttft"]


def test_a_fit_recovers_the_parameters_of_its_input() -> None:
    """The rows come from an engine with a slower host, and the fit starts at the calibrated parameters."""
    truth = replace(ENGINE, async_step_ms=2.5, sync_step_ms=1.2)
    row = {
        "concurrency": 2,
        "temperature": 0.0,
        "output_tokens": 24,
        "mean_prompt_tokens": 40,
        "tpot_p50_ms": 1.0,
        "ttft_p50_ms": 1.0,
    }
    configs: list[dict[str, Any]] = [
        {"config": name, "model": "1.5b", "tensor_parallel_size": 1, "speculation": None}
        | {"async_scheduling": is_async, "decode": [dict(row)], "prefill": []}
        for name, is_async in (("plain", True), ("sync", False))
    ]
    for config, made in zip(configs, tpot(configs, truth)["emulated"], strict=True):
        config["decode"][0]["tpot_p50_ms"] = made
    uncertainty = 10.0  # an uncertainty so large that the start does not matter
    start = {"async_step_ms": (ENGINE.async_step_ms, uncertainty), "sync_step_ms": (ENGINE.sync_step_ms, uncertainty)}
    found = fit([config | {"gpu": "h200"} for config in configs], ("tpot",), start, ENGINE, rounds=40)
    assert found == pytest.approx({"async_step_ms": truth.async_step_ms, "sync_step_ms": truth.sync_step_ms}, rel=0.03)


def test_cells_of_the_older_runner_are_emulated_with_its_times() -> None:
    """On 0.32 the environment chooses the runner; a changed engine must change the cells of the V2 runner alone."""
    found = configurations(read_cells(RESULTS / "h200-vllm-0.32.0/cells"), None, "0.32")
    newer = engine_versions()["0.32"]
    chosen = [
        next(config for config in found if config["config"] == name) for name in ("7b-tp1-ngram-v1", "7b-tp1-ngram")
    ]
    chosen = [config | {"decode": config["decode"][:1]} for config in chosen]
    v1, v2 = tpot(chosen, newer)["emulated"]
    same_v1, slower_v2 = tpot(chosen, replace(newer, ngram_step_ms=50.0))["emulated"]
    assert same_v1 == v1
    assert slower_v2 > 2 * v2
