"""Claims test what they say: on hand-made curves, with noise between runs, and never on a mixture of sources."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import claims, noise
from analysis.__main__ import main
from analysis.tables import pairs

BUDGETS = (1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
N = 400


def arm(e2e_s: np.ndarray, correct: Any = 1.0, **about: Any) -> pd.DataFrame:
    """Requests of one run of one setting, as the frame has them."""
    n = len(e2e_s)
    words: dict[str, object] = {"model": "m-7B", "config": "tp1", "gpu": "h200", "load": "c1", "asked": "greedy"}
    words |= {"budget_mode": "cut", "dataset": "math", "source": "measured", "budget": 4096.0, "cell": "a"}
    words |= {"speculation": "off", "num_gpus": 1.0, "tp": 1.0, "params_b": 7.0, "energy_j": np.nan, "tflop": 1.0}
    words |= {"fingerprint": 7.0, "completion_tokens": 100.0, "ok": True, "warmup": False, "run_verdict": "VALID"}
    columns = {"problem_id": np.arange(n), "e2e_s": e2e_s, "gpu_s": e2e_s, "server_s": e2e_s, "correct": correct}
    return pd.DataFrame(words | about | columns)


def curve(shares: tuple[float, ...], **about: Any) -> pd.DataFrame:
    """One model whose share of correct answers is given by budget; what is right stays right while the curve rises."""
    return pd.concat(
        arm(np.ones(N), (np.arange(N) < share * N).astype(float), budget=budget, **about)
        for share, budget in zip(shares, BUDGETS, strict=False)
    )


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.40, 0.60, 0.70, 0.72, 0.72), "held"),  # the textbook plateau
        ((0.40, 0.60, 0.70, 0.72, 0.73), "held"),
        ((0.70, 0.60, 0.50, 0.45, 0.45), "not held"),  # falls, and its last step is smaller than its first
        ((0.80, 0.75, 0.60, 0.40, 0.20), "not held"),
        ((0.20, 0.40, 0.60, 0.70, 0.55), "not held"),  # falls at the end
        ((0.10, 0.30, 0.50, 0.70, 0.90), "not held"),  # rises without end
        ((0.70, 0.70, 0.70, 0.70, 0.70), "not held"),  # does not rise
        ((0.40, 0.60, 0.80, 0.83, 0.86), "can't tell"),  # the last step is at the margin
    ],
)
def test_a_curve_has_to_rise_and_then_flatten(shares: tuple[float, ...], verdict: str) -> None:
    found = claims.claims(curve(shares))[0]
    assert (found.name, found.verdict) == ("accuracy-flattens", verdict), found.effect


def study(rng: np.random.Generator, runs: int, sd: float, effect: float = 1.0) -> pd.DataFrame:
    """Three models with and without speculation, whose true speed-up is `effect`; runs differ by `sd`."""
    parts = []
    for size in (1.5, 7.0, 14.0):
        hard = rng.lognormal(2, 0.5, 60) * size
        for config, speculation, factor in (("tp1", "off", 1.0), ("tp1-ngram", "ngram", 1 / effect)):
            for run in range(runs):
                times = hard * factor * np.exp(rng.normal(0, sd)) * rng.normal(1, 0.01, 60)
                about = {"config": config, "speculation": speculation, "cell": f"{config}-{run}"}
                parts.append(arm(times, model=f"m-{size}B", params_b=size, **about))
    return pd.concat(parts)


def faster(frame: pd.DataFrame, between_runs: float) -> claims.Claim:
    """The claim on speculation."""
    return claims.speculation_faster(claims.Evidence(pairs.per_problem(frame), between_runs))


@pytest.mark.parametrize("runs", [1, 3])
def test_noise_between_runs_is_no_finding(runs: int) -> None:
    """Without a true effect and with noise of 2 % between runs, at most 3 of 40 studies hold or refute the claim."""
    rng = np.random.default_rng(runs)
    verdicts = [faster(study(rng, runs, 0.02), 0.02).verdict for _ in range(40)]
    assert sum(verdict != "can't tell" for verdict in verdicts) <= 3


def test_an_effect_beyond_the_noise_is_found() -> None:
    """A speed-up of 1.2 is found with noise of 2 %, and not with noise of 10 %, which the effect states."""
    frame = study(np.random.default_rng(5), 1, 0.02, 1.2)
    assert faster(frame, 0.02).verdict == "held"
    assert faster(frame, 0.10).verdict == "can't tell"
    assert "one run each: differences below 5.7 % are not shown" in faster(frame, 0.02).effect


def test_repeats_replace_the_assumed_noise() -> None:
    """With three runs each, which hardly differ, an assumed noise of 30 % does not matter."""
    found = faster(study(np.random.default_rng(6), 3, 0.001, 1.2), 0.3)
    assert found.verdict == "held"
    assert "one run each" not in found.effect
    assert faster(study(np.random.default_rng(6), 2, 0.001, 1.2), 0.3).verdict == "held"


def test_a_finding_is_tested_at_each_load() -> None:
    """Speculation is faster alone and slower with 32 in flight: the result is that of the paper's load, and each load has its own."""
    rng = np.random.default_rng(9)
    both = pd.concat([study(rng, 1, 0.0, 2.0), study(rng, 1, 0.0, 0.5).assign(load="c32")])
    found = faster(both, 0.02)
    assert found.verdict == "held"
    assert found.effect.endswith("(1 in flight); one run each: differences below 5.7 % are not shown")
    lines = [line.partition(":")[0] for line in found.by_load.splitlines()]
    assert lines == ["held at 1 in flight", "not held at 32 in flight"]
    assert faster(study(rng, 1, 0.0, 2.0), 0.02).by_load == ""


def test_kinds_of_speculation_are_not_pooled() -> None:
    """A variant that is slower refutes the claim, although both together are faster; the number of GPUs is no kind."""
    rng = np.random.default_rng(10)
    fast, slow = study(rng, 1, 0.0, 4.0), study(rng, 1, 0.0, 0.8)
    slow = slow[slow["config"] != "tp1"].assign(config="tp1-ngram-a1")
    assert faster(fast, 0.02).verdict == "held"
    found = faster(pd.concat([fast, slow]), 0.02)
    assert found.verdict == "not held"
    assert "1.5B ngram-a1 0." in found.effect
    two = fast.assign(tp=2.0, config=fast["config"].str.replace("tp1", "tp2"))
    assert "ngram" not in faster(pd.concat([fast, two]), 0.02).effect


@pytest.mark.parametrize("between_runs", [0.02, 0.0])
def test_four_problems_have_an_interval_where_the_noise_between_runs_is_larger(between_runs: float) -> None:
    """With noise between runs that is known, the interval hardly depends on the few problems; without it, it would."""
    few = study(np.random.default_rng(11), 1, 0.0, 2.0)
    few = few[few["problem_id"] < 4]
    assert np.isfinite(faster(few, between_runs).low) == (between_runs > 0)


def named(frame: pd.DataFrame, name: str) -> claims.Claim:
    """One claim of all."""
    return next(one for one in claims.claims(frame) if one.name == name)


def test_worthless_data_cannot_tell() -> None:
    """A handful of problems, or answers of which none is correct, give no result, however clear the times are."""
    clear = study(np.random.default_rng(12), 1, 0.0, 2.0)
    assert named(clear, "speculation-faster").verdict == "held"
    few = named(clear[clear["problem_id"] < 9], "speculation-faster")
    assert (few.verdict, few.effect[:27]) == ("can't tell", "There are only 9 problems. ")
    wrong = claims.claims(clear.assign(correct=0.0))
    assert {one.verdict for one in wrong} == {"can't tell"}
    assert not any("best accuracy" in one.effect for one in wrong)
    assert named(clear.assign(correct=np.nan), "speculation-faster").verdict == "held"
    assert named(curve((0.0, 0.0, 0.0, 0.0, 0.0)), "accuracy-flattens").verdict == "can't tell"


def test_sources_gpus_and_data_sets_are_tested_separately() -> None:
    """Measured data says that speculation is slower, and emulated data that it is faster: these are two results."""
    rng = np.random.default_rng(7)
    both = pd.concat(
        [
            study(rng, 1, 0.0, 0.5),
            study(rng, 1, 0.0, 2.0).assign(source="emulated"),
            study(rng, 1, 0.0, 2.0).assign(gpu="h100"),
        ]
    )
    found = [one for one in claims.claims(both) if one.name == "speculation-faster"]
    assert {(one.source, one.gpu, one.verdict) for one in found} == {
        ("measured", "h200", "not held"),
        ("emulated", "h200", "held"),
        ("measured", "h100", "held"),
    }


def test_a_table_without_an_effect_shows_no_difference() -> None:
    """Of 30 tables of three comparisons with noise of 2 % and no effect, at most 4 show any difference."""
    rng = np.random.default_rng(8)
    tables = [pairs.speculation(pairs.per_problem(study(rng, 1, 0.02)), 0.02) for _ in range(30)]
    assert sum((table["difference"] != "not shown").any() for table in tables) <= 4


@pytest.mark.parametrize("text", ["2", "x%", "-1%", "200%", "nan%"])
def test_noise_must_be_a_percentage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "results", f"--noise={text}"]) == 2
    assert f"--noise: '{text}': give a percentage" in capsys.readouterr().err
    assert noise.percentage("2%") == 0.02
