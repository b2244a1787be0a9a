"""Which model runner serves n-gram in each version, and what follows for drafts, counters and step times."""

from dataclasses import replace
from pathlib import Path

import pytest

from server.config import ConfigError, Serving, load_model, load_serving
from server.emulator.engine.hardware import gpus
from server.emulator.engine.model_runner import RUNNER, served
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.step_time import StepModel
from server.speculation import Ngram
from tests.server.emulator.stepped import SteppedEngine

NGRAM = load_serving("tp1-ngram")


def with_method(method: str) -> Serving:
    assert NGRAM.speculation
    return replace(NGRAM, speculation=replace(NGRAM.speculation, method=method))


@pytest.mark.parametrize(
    ("version", "method", "runner", "v2", "is_async"),
    [
        ("0.26", "ngram", None, False, False),
        ("0.32", "ngram", None, True, False),
        ("0.32", "ngram", "1", True, False),
        ("0.32", "ngram", "0", False, False),
        ("0.32", "ngram_gpu", None, True, True),
        ("0.33", "ngram", None, True, True),
        ("0.33", "ngram", "0", False, False),
        ("0.7.3", "ngram", None, False, False),
    ],
)
def test_the_runner_and_the_scheduling_are_those_of_vllm(
    version: str, method: str, runner: str | None, v2: bool, is_async: bool
) -> None:
    serving, engine = served(with_method(method), version, {RUNNER: runner} if runner else {})
    assert serving.speculation
    assert serving.speculation.v2_runner == v2
    assert StepModel(load_model("r1-distill-qwen-7b"), serving, gpus()["h200"], engine).is_async == is_async
    assert engine.release.startswith(version)


@pytest.mark.parametrize(
    ("serving", "version", "runner", "message"),
    [
        (NGRAM, "0.26", "1", "the V2 runner of vLLM 0.26.0 does not support n-gram"),
        (NGRAM, "0.32", "yes", "must be 0 or 1, not 'yes'"),
        (with_method("ngram_gpu"), "0.26", None, "ngram_gpu is emulated under the V2 runner only"),
        (with_method("ngram_gpu"), "0.33", "0", "ngram_gpu is emulated under the V2 runner only"),
        (replace(NGRAM, async_scheduling=True), "0.32", None, "vLLM 0.32.0 does not support it with ngram"),
        (replace(NGRAM, async_scheduling=True), "0.33", "0", "vLLM 0.33.0 does not support it with ngram"),
    ],
)
def test_what_vllm_refuses_is_one_line(serving: Serving, version: str, runner: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        served(serving, version, {RUNNER: runner} if runner else {})
    assert "\n" not in str(raised.value)


def test_a_setting_that_changes_the_drafts_is_not_ignored() -> None:
    given = {"method": "ngram", "num_speculative_tokens": 5, "num_speculative_tokens_per_batch_size": [[1, 8, 5]]}
    with pytest.raises(ConfigError, match=r"num_speculative_tokens_per_batch_size: not emulated"):
        load_serving("tp1", {"speculative-config": given})


def engine_after(text: list[int], version: str) -> SteppedEngine:
    """The engine when it has generated this text, of which nothing is in the prompt."""
    serving, release = served(NGRAM, version, {})
    model = StepModel(load_model("r1-distill-qwen-1.5b"), serving, gpus()["h200"], release)
    engine = SteppedEngine(model, serving)
    engine.arrive(TokenSequence(ids=[7, *text], prompt=1, end=len(text)))
    engine.finish()
    return engine


def test_bounds_of_the_lookup_are_those_of_vllm() -> None:
    """One that is not given copies the other one, and zero is refused."""
    config = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    found = load_serving("tp1", {"speculative-config": config | {"prompt_lookup_min": None}}).speculation
    assert isinstance(found, Ngram)
    assert (found.prompt_lookup_min, found.prompt_lookup_max) == (4, 4)
    with pytest.raises(ConfigError, match="Expected `int` >= 1"):
        load_serving("tp1", {"speculative-config": config | {"prompt_lookup_min": 0}})


def test_a_step_has_a_token_for_each_sequence(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("max-num-batched-tokens: 64")
    assert served(load_serving(str(tmp_path / "small.yaml")), "0.32", {})[0].max_num_seqs == 64
    with pytest.raises(ConfigError, match="64 must be at least max-num-seqs, which is 65"):
        served(load_serving(str(tmp_path / "small.yaml"), {"max-num-seqs": 65}), "0.32", {})


def test_text_without_repetition_is_drafted_by_the_v2_runner_only() -> None:
    """V1 drafts nothing and launches its steps in pieces; V2 drafts five wrong tokens a step, which full graphs cover."""
    text = list(range(100, 300))
    old, new = engine_after(text, "0.26"), engine_after(text, "0.32")
    assert (old.totals.drafts, old.totals.draft_tokens) == (0, 0)
    assert (new.totals.drafts, new.totals.draft_tokens) == (199, 5 * 199)
    assert old.totals.accepted_tokens == new.totals.accepted_tokens == 0
    assert new.now_s < old.now_s


def test_a_loop_of_two_tokens_accepts_fewer_drafts_of_the_v2_runner() -> None:
    """Its rightmost match leaves two real draft tokens; the earliest match of V1 leaves five."""
    text = [1, 2] * 150
    old, new = engine_after(text, "0.26"), engine_after(text, "0.32")
    assert old.totals.accepted_at[4] > 40
    assert new.totals.accepted_at[2:] == [0, 0, 0]
    assert new.totals.draft_tokens == 5 * new.totals.drafts
    assert new.totals.steps > 1.8 * old.totals.steps
