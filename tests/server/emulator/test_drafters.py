"""Drafters in the emulator: which acceptance is used, suffix decoding against its definition, and what a drafter costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import ConfigError, load_model, load_serving
from server.emulator.engine.acceptance import VARIABLE, published, with_acceptance
from server.emulator.engine.drafter import drafter_of
from server.emulator.engine.drafts import Drafts, steps_of
from server.emulator.engine.hardware import gpus
from server.emulator.engine.model_runner import RUNNER, served
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.step_time import StepModel
from server.emulator.engine.suffix import SuffixProposer
from server.speculation import METHODS, Drafter, Suffix, rates, speculation_of
from tests.server.emulator.stepped import SteppedEngine

EAGLE = load_serving("tp1-eagle3")
SEVEN = load_model("r1-distill-qwen-7b")
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=40)
trees = st.builds(
    lambda k, depth, factor, least: Suffix(
        k,
        suffix_decoding_max_tree_depth=depth,
        suffix_decoding_max_spec_factor=factor,
        suffix_decoding_min_token_prob=least,
    ),
    st.integers(1, 8),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
)


def eagle(k: int) -> Drafter:
    return Drafter(k, method="eagle3")


def path(context: Sequence[int], matched: int, settings: Suffix) -> tuple[list[int], float]:
    """The draft after the last `matched` tokens, from the counts of all pieces of the context."""
    draft: list[int] = []
    probability, score = 1.0, 0.0
    depth = settings.suffix_decoding_max_tree_depth
    longest = min(settings.num_speculative_tokens, int(matched * settings.suffix_decoding_max_spec_factor + 1e-6))
    while len(draft) < min(longest, depth - matched):
        piece = [*context[len(context) - matched :], *draft]
        ends = [at for at in range(len(piece), len(context) + 1) if list(context[at - len(piece) : at]) == piece]
        following = Counter(context[at] for at in ends if at < len(context))
        if not following:
            break
        token, count = following.most_common(1)[0]
        probability *= count / len(ends)
        if probability < settings.suffix_decoding_min_token_prob:
            break
        draft.append(token)
        score += probability
    return draft, score


@given(tokens, trees)
def test_a_suffix_draft_is_the_one_of_the_definition(context: list[int], settings: Suffix) -> None:
    best: tuple[list[int], float] = ([], 0.0)
    for matched in range(1, min(len(context), settings.suffix_decoding_max_tree_depth)):
        found = path(context, matched, settings)
        best = found if found[1] >= best[1] else best
    proposer = SuffixProposer(settings, context[:7])
    proposer.extend(context[7:])
    assert proposer.propose() == best[0]


def test_suffix_decoding_drafts_as_many_tokens_as_it_has_matched() -> None:
    """The last four tokens of `9 9 1 2 3 9 1 2 3` occurred once before, so that half of the two occurrences go on with 9."""
    settings = Suffix(24)
    assert SuffixProposer(settings, [9, 9, 1, 2, 3, 9, 1, 2, 3]).propose() == [9, 1, 2, 3]
    assert SuffixProposer(settings, [1, 2, 3]).propose() == []


def test_a_number_a_curve_and_a_file_give_the_acceptance(tmp_path: Path) -> None:
    number = with_acceptance(eagle(3), "2.4", {}).acceptance
    assert number
    assert number.spans[0][1] == pytest.approx((1.0, 0.4, 0.0))
    curve = with_acceptance(eagle(3), None, {}).acceptance
    assert curve
    assert curve.name == published()["default"]["eagle3"]
    assert curve.spans == ((0, (0.83, 0.67, 0.45)),)
    assert with_acceptance(eagle(2), None, {VARIABLE: "eagle3-llama-3.1-8b"}).acceptance == replace(
        curve, name="eagle3-llama-3.1-8b", spans=((0, (0.7296, 0.5208)),),
        source=published()["curves"]["eagle3-llama-3.1-8b"]["source"],
    )  # fmt: skip
    file = tmp_path / "decays.yaml"
    file.write_text("accepted_at: {0: [0.9, 0.6], 100: [0.1, 0.1]}\nsource: mine\n")
    decays = with_acceptance(eagle(2), str(file), {VARIABLE: "1"}).acceptance
    assert decays
    assert (decays.accepted(0.5, 99), decays.accepted(0.5, 100)) == (2, 0)
    assert decays.accepted(0.05, 5000) == 2


def test_every_published_curve_has_a_source_and_can_be_used() -> None:
    for name, entry in published()["curves"].items():
        assert entry["source"]
        assert with_acceptance(eagle(1), name, {}).acceptance
    assert set(published()["default"].values()) <= published()["curves"].keys()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("5", "must be a number from 1 to 4"),
        ("nan", "must be a number from 1 to 4"),
        ("eagle3", "write a number, the name of a .yaml file, or one of"),
        ("none.yaml", "write a number, the name of a .yaml file"),
    ],
)
def test_a_wrong_acceptance_is_one_line(asked: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        with_acceptance(eagle(3), asked, {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accepted_at: [0.5, 0.6, 0.1]", "no share may exceed the one before it"),
        ("accepted_at: [1.5, 0.6, 0.1]", "write shares from 0 to 1"),
        ("accepted_at: {5: [0.5, 0.4, 0.1]}", "in ascending order, from 0 on"),
        ("accepted_at: [0.5]\nlengths: [1.5]", "needs either accepted_at or lengths"),
        ("lengths: [1.5, much]", "lengths: write up to 64 numbers"),
        ("accepted: [0.5]", "unknown key 'accepted'"),
        ("lengths: [1.8]", "has figures for 1 draft tokens, and num_speculative_tokens is 3"),
        ('accepted_at: [0.5, 0.4, 0.1]\nsource: "a\\e[2J"', "a source in one line of text"),
    ],
)
def test_a_damaged_curve_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "curve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as raised:
        with_acceptance(eagle(3), str(file), {})
    assert str(raised.value).isprintable()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_shares_that_do_not_increase_are_kept(shares: list[float]) -> None:
    ordered = sorted(shares, reverse=True)
    assert list(rates(ordered)) == ordered


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rejection_sample_method": "block"}, "rejection_sample_method: 'block' is not emulated"),
        ({"rejection_sample_method": "synthetic"}, "synthetic needs either"),
        ({"draft_tensor_parallel_size": 2}, "draft_tensor_parallel_size: must be 1 or 1"),
        ({"parallel_drafting": True}, "parallel_drafting: not emulated"),
        ({"method": ["eagle3"]}, r"method: \['eagle3'\] is not emulated"),
        ({"num_speculative_tokens": 65}, "Expected `int` <= 64"),
        ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5]}, "must be 3 numbers"),
        (
            {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 5},
            "synthetic_acceptance_length: must be a number from 1 to 4",
        ),
        ({"method": "draft_model"}, "has no preset"),
        ({"method": "draft_model", "model": "r1-distill-qwen-1.5b"}, "vLLM needs equal vocabularies"),
        ({"method": "suffix", "model": None}, "model: not emulated"),
    ],
)
def test_what_is_not_emulated_is_one_line(changes: dict[str, object], says: str) -> None:
    given = {"method": "eagle3", "num_speculative_tokens": 3} | changes
    with pytest.raises(ConfigError, match=says) as raised:
        drafter_of(load_serving("tp1", {"speculative-config": given}), SEVEN)
    assert str(raised.value).isprintable()
    assert "\n" not in str(raised.value)


KEYS = ("num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max", "model", "rejection_sample_method", "draft_tensor_parallel_size", "synthetic_acceptance_length", "synthetic_acceptance_rates", "suffix_decoding_max_cached_requests", "suffix_decoding_max_spec_factor")  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["synthetic", "0.5", "\x1b"])


@given(
    st.sampled_from([*METHODS, "medusa", None]) | scalars,
    st.dictionaries(st.sampled_from(KEYS) | scalars, scalars | st.lists(scalars, max_size=3), max_size=5),
)
def test_any_mapping_is_read_or_refused_in_one_line(method: object, given: dict[Any, Any]) -> None:
    try:
        found = speculation_of({"method": method, **given})
    except ValueError as error:
        assert str(error).isprintable()  # noqa: PT017 - most mappings are refused, and some are not
    else:
        assert found.method == method
        assert found.acceptance is None or found.acceptance.accepted(0.5, 0) <= found.num_speculative_tokens


def test_a_cache_of_past_responses_is_not_ignored() -> None:
    with pytest.raises(ConfigError, match="suffix_decoding_max_cached_requests: a tree of past responses"):
        load_serving("tp1", {"speculative-config": {"method": "suffix"}})


@pytest.mark.parametrize(
    ("name", "version", "is_async"),
    [
        ("tp1-eagle3", "0.26", True),
        ("tp1-eagle3", "0.33", True),
        ("tp1-draft", "0.32", True),
        ("tp1-mtp", "0.32", True),
        ("tp1-suffix", "0.26", False),
        ("tp1-suffix", "0.33", False),
    ],
)
def test_which_drafters_keep_asynchronous_scheduling(name: str, version: str, is_async: bool) -> None:
    serving, _ = served(load_serving(name), version, {})
    assert serving.async_scheduling == is_async
    off, _ = served(replace(load_serving(name), async_scheduling=False), version, {})
    assert off.async_scheduling is False


def test_the_v2_runner_does_not_serve_suffix_decoding() -> None:
    with pytest.raises(ConfigError, match=r"the V2 runner of vLLM 0\.33\.0 does not support suffix decoding"):
        served(load_serving("tp1-suffix"), "0.33", {RUNNER: "1"})
    with pytest.raises(ConfigError, match="--acceptance 2: tp1 does not speculate"):
        served(load_serving("tp1"), "0.33", {}, "2")


def step_model(name: str, **changes: Any) -> StepModel:
    serving, engine = served(load_serving(name), "0.32", {})
    if changes and serving.speculation:
        serving = replace(serving, speculation=replace(serving.speculation, **changes))
    return StepModel(load_model("r1-distill-qwen-14b"), serving, gpus()["h200"], engine)


def test_each_further_draft_token_costs_one_pass_of_the_drafter() -> None:
    times = [step_model("tp1-eagle3", num_speculative_tokens=k).draft_s(1, 2, 100) for k in (1, 2, 3)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0])
    assert 0 < times[1] - times[0] < step_model("tp1").gpu_s(1, 1, 100) / 10


def test_the_cost_of_a_drafter_follows_its_shape() -> None:
    """A 7B draft model has 28 layers and 28 times the weights of a head; both take memory from the KV cache."""
    head, model, plain = (step_model(name) for name in ("tp1-eagle3", "tp1-draft", "tp1"))
    assert model.drafter
    assert head.drafter
    assert model.draft_s(1, 4, 100) > 8 * head.draft_s(1, 4, 100)
    assert model.drafter.weight_bytes > 10 * head.drafter.weight_bytes
    serving = load_serving("tp1")
    assert model.kv_blocks(serving) < head.kv_blocks(serving) < plain.kv_blocks(serving)


def test_the_engine_accepts_as_the_curve_says() -> None:
    """Counters of the engine against the shares of the curve, and single steps against steps that are computed together."""
    serving, version = served(EAGLE, "0.32", {})
    engines = [SteppedEngine(StepModel(SEVEN, serving, gpus()["h200"], version), serving) for _ in range(2)]
    for engine in engines:
        for number in range(8):
            engine.arrive(TokenSequence(ids=[number, *range(2000)], prompt=1, end=2000))
    engines[0].finish()
    while engines[1].step():
        pass
    one, other = (engine.totals for engine in engines)
    assert one == other
    assert engines[0].now_s == pytest.approx(engines[1].now_s)
    assert one.draft_tokens == 3 * one.drafts
    assert [count / one.drafts for count in one.accepted_at] == pytest.approx([0.83, 0.67, 0.45], abs=0.03)


@given(tokens, trees)
def test_steps_of_a_growing_text_are_those_of_the_whole_text(text: list[int], settings: Suffix) -> None:
    drafted, accepted = steps_of([1, 2], text, settings)
    sequence = TokenSequence(ids=[1, 2, *text], prompt=2, end=len(text), emitted=1, grow=lambda _tokens: None)
    ahead = Drafts(settings, sequence).ahead(len(drafted))
    assert (ahead[0].tolist(), ahead[1].tolist()) == (drafted, accepted)
    assert len(text) - 1 <= sum(accepted) + len(accepted) <= len(text) - 1 + max(accepted, default=0)
