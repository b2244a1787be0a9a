"""Properties of the engine and the step-time model that hold for any load, tested on virtual time."""

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.config import Model, Serving, load_model, load_serving
from server.emulator.engine.hardware import engine_versions, gpus, read
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.step_time import StepModel
from server.emulator.engine.virtual_time import Simulation
from server.speculation import Ngram
from tests.server.emulator.stepped import SteppedEngine

MODELS = {size: load_model(f"r1-distill-qwen-{size}") for size in ("1.5b", "7b", "14b")}
GPUS, VERSIONS = gpus(), engine_versions()
NGRAM = Ngram(5, 1, 4)


def serving(**changes: Any) -> Serving:
    return replace(load_serving("tp1"), **changes)


def step_model(size: str = "1.5b", gpu: str = "h200", version: str = "0.32", **changes: Any) -> StepModel:
    return StepModel(MODELS[size], serving(**changes), GPUS[gpu], VERSIONS[version])


def engine(size: str = "1.5b", **changes: Any) -> SteppedEngine:
    return SteppedEngine(step_model(size, **changes), serving(**changes))


def sequence(prompt: int, tokens: int, seed: int = 0, words: int = 40) -> TokenSequence:
    rng = random.Random(seed)
    ids = [rng.randrange(words) for _ in range(prompt + tokens)]
    return TokenSequence(ids=ids, prompt=prompt, end=tokens)


def empty(subject: Engine) -> None:
    assert subject.empty
    assert subject.pool.free == subject.pool.total
    assert not subject.running
    assert not subject.waiting


# Step times


@settings(max_examples=50)
@given(
    size=st.sampled_from(sorted(MODELS)),
    gpu=st.sampled_from(sorted(GPUS)),
    version=st.sampled_from(sorted(VERSIONS)),
    streams=st.integers(1, 255),
    context=st.integers(1, 10_000),
)
def test_a_step_takes_longer_with_more_streams_and_more_context(
    size: str, gpu: str, version: str, streams: int, context: int
) -> None:
    model = step_model(size, gpu, version)
    base = model.step_s(streams, streams, streams, streams * context)
    assert model.step_s(streams + 1, streams + 1, streams + 1, (streams + 1) * context) > base
    assert model.step_s(streams, streams, streams, streams * (context + 100)) > base


@settings(max_examples=50)
@given(tokens=st.integers(1, 8000), more=st.integers(1, 8000), tp=st.sampled_from([1, 2, 4]))
def test_prefill_takes_longer_for_more_tokens(tokens: int, more: int, tp: int) -> None:
    model = step_model("14b", tensor_parallel_size=tp)
    fewer = model.step_s(1, tokens, 1, tokens, pairs=tokens**2 / 2)
    assert model.step_s(1, tokens + more, 1, tokens + more, pairs=(tokens + more) ** 2 / 2) >= fewer * (1 - 1e-9)


def test_tensor_parallelism_helps_only_while_reading_weights_dominates() -> None:
    """14B becomes faster with each doubling, by less each time; 1.5B gains little on an H200 and loses with slower links."""
    times = {
        (size, tp): float(step_model(size, tensor_parallel_size=tp).step_s(1, 1, 1, 500))
        for size in ("1.5b", "14b")
        for tp in (1, 2, 4)
    }
    assert times["14b", 1] / times["14b", 2] > times["14b", 2] / times["14b", 4] > 1.2
    assert times["1.5b", 1] / times["1.5b", 4] < 1.35
    slow = {tp: float(step_model("1.5b", "gh200", tensor_parallel_size=tp).step_s(1, 1, 1, 500)) for tp in (1, 4)}
    assert slow[4] > 0.9 * slow[1]


def test_key_value_heads_are_replicated_where_ranks_outnumber_them() -> None:
    """1.5B has two heads, so at TP 4 each GPU holds one of them, as at TP 2."""
    assert step_model(tensor_parallel_size=4).kv_bytes == step_model(tensor_parallel_size=2).kv_bytes
    assert step_model().kv_bytes == 2 * step_model(tensor_parallel_size=2).kv_bytes == 28 * 1024


def test_kv_capacity_is_what_vllm_measured() -> None:
    """1.5B on an H200 at 0.85: within 2 % of the 4,269,040 tokens in the recorded cache_config_info."""
    config = serving(gpu_memory_utilization=0.85)
    blocks = StepModel(
        replace(MODELS["1.5b"], shape=replace(MODELS["1.5b"].shape, tie_word_embeddings=True)),
        config,
        GPUS["h200"],
        VERSIONS["0.26"],
    ).kv_blocks(config)
    assert blocks * 16 == pytest.approx(4_269_040, rel=0.02)


def test_numbers_and_arrays_give_the_same_step() -> None:
    model = step_model("7b", tensor_parallel_size=2, speculation=NGRAM)
    tokens, context = np.array([4.0, 9.0, 24.0]), np.array([100.0, 2000.0, 9000.0])
    together = model.step_s(4, tokens, tokens, context, full_graph=np.array([False, False, True]))
    alone = [
        model.step_s(4, t, t, c, full_graph=g) for t, c, g in zip(tokens, context, (False, False, True), strict=True)
    ]
    assert together == pytest.approx(alone)


def test_newer_engines_keep_async_scheduling_with_ngram() -> None:
    """Up to 0.32 n-gram turns it off. On the V1 runner, steps without drafts then take more than twice as long."""
    v2 = replace(NGRAM, v2_runner=True)
    v1_s = step_model(version="0.26", speculation=NGRAM).step_s(1, 1, 1, 300, full_graph=False)
    sync_s, async_s = (step_model(version=v, speculation=v2).step_s(1, 6, 6, 300) for v in ("0.32", "0.33"))
    assert v1_s > 2 * step_model(version="0.26").step_s(1, 1, 1, 300)
    assert async_s < sync_s


def test_every_number_in_the_profiles_has_a_source() -> None:
    def check(name: str, entry: Any) -> None:
        if isinstance(entry, dict):
            for key, value in entry.items():
                check(f"{name}.{key}", value)
        else:
            value, source = entry
            assert isinstance(source, str), name
            assert source, name

    check("profiles", read())


# The engine


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    speculates=st.booleans(),
    caching=st.booleans(),
    blocks=st.integers(40, 200),
    budget=st.sampled_from([64, 512, 8192]),
)
def test_every_request_ends_whole_and_no_block_leaks(
    seed: int, speculates: bool, caching: bool, blocks: int, budget: int
) -> None:
    """With few blocks preemption is frequent, combined with chunked prefill, drafts and shared prefixes."""
    rng = random.Random(seed)
    subject = engine(
        num_gpu_blocks_override=blocks, max_num_seqs=8, max_num_batched_tokens=budget,
        enable_prefix_caching=caching, speculation=NGRAM if speculates else None,
    )  # fmt: skip
    sequences = [sequence(rng.randint(1, 200), rng.randint(1, 300), rng.randrange(5)) for _ in range(20)]
    arrivals = [rng.random() for _ in sequences]
    for one, at_s in zip(sequences, arrivals, strict=True):
        subject.submit(one, at_s)
    seen = dict.fromkeys(sequences, 0)
    for output in subject.advance(float("inf")):
        assert 0 <= subject.pool.usage <= 1
        for one, tokens in output.tokens:
            seen[one] += tokens
    assert all(one.state == "finished" and one.emitted == one.end == seen[one] for one in sequences)
    empty(subject)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), speculates=st.booleans(), caching=st.booleans())
def test_fast_forward_and_single_steps_agree(seed: int, speculates: bool, caching: bool) -> None:
    """The same load in single steps and with fast_forward: the same times, tokens, steps and counters."""

    def run(*, fast: bool) -> tuple[list[Any], SteppedEngine]:
        rng = random.Random(seed)
        subject = engine(speculation=NGRAM if speculates else None, max_num_seqs=6, enable_prefix_caching=caching)
        sequences = [sequence(rng.randint(1, 80), rng.randint(1, 400), rng.randrange(100)) for _ in range(10)]
        for one in sequences:
            subject.submit(one, rng.random() / 2)
        if fast:
            subject.finish()
        else:
            while subject.step():
                pass
        return [(s.first_s, s.last_s, s.emitted, s.steps, s.accepted) for s in sequences], subject

    (repeated, one), (single, other) = run(fast=True), run(fast=False)
    for fast, slow in zip(repeated, single, strict=True):
        assert fast[:2] == pytest.approx(slow[:2], rel=1e-9)
        assert fast[2:] == slow[2:]
    assert one.totals == other.totals
    assert one.usage.busy_s == pytest.approx(other.usage.busy_s)
    assert one.usage.read_bytes == pytest.approx(other.usage.read_bytes)


@pytest.mark.parametrize("speculates", [False, True])
def test_thousands_of_requests_with_random_cancels_leave_the_engine_empty(speculates: bool) -> None:
    rng = random.Random(7)
    subject = engine(
        speculation=NGRAM if speculates else None,
        num_gpu_blocks_override=600,
        max_num_seqs=64,
        enable_prefix_caching=True,
    )
    live: list[TokenSequence] = []
    for number in range(4_000):
        one = sequence(rng.randint(1, 60), rng.randint(1, 12), number % 300)
        subject.arrive(one)
        live.append(one)
        if rng.random() < 0.3:
            subject.abort(live[rng.randrange(max(0, len(live) - 80), len(live))])
        if number % 4 == 0:
            subject.step()
    subject.finish()
    assert {one.state for one in live} == {"finished", "aborted"}
    empty(subject)


def test_a_million_steps_take_seconds() -> None:
    """Processor time does not depend on what else the machine does; it was 0.07 s."""
    subject = engine(max_model_len=2_000_000)
    one = TokenSequence(ids=[1] * 1_000_001, prompt=1, end=1_000_000)
    subject.arrive(one)
    began_s = time.process_time()
    subject.finish()
    assert one.emitted == subject.totals.steps == 1_000_000
    assert time.process_time() - began_s < 5


def test_speculation_changes_steps_and_not_tokens() -> None:
    """A repetitive text: the same tokens in fewer steps, and acceptance decreases with the position."""
    plain, fast = engine(), engine(speculation=NGRAM)
    sequences = []
    for subject in (plain, fast):
        one = sequence(50, 800, seed=1, words=6)
        sequences.append(one)
        subject.arrive(one)
        subject.finish()
    assert sequences[0].emitted == sequences[1].emitted == 800
    assert fast.totals.steps < plain.totals.steps
    accepted = fast.totals.accepted_at
    assert accepted == sorted(accepted, reverse=True)
    assert sum(accepted) == fast.totals.accepted_tokens
    assert fast.totals.drafts <= fast.totals.draft_tokens <= 5 * fast.totals.drafts


def test_a_shared_prefix_is_computed_once() -> None:
    subject = engine(enable_prefix_caching=True)
    first, second = sequence(100, 4, seed=3), sequence(100, 4, seed=3)
    subject.arrive(first)
    subject.finish()
    subject.arrive(second)
    subject.finish()
    assert (first.cached, second.cached) == (0, 96)
    assert subject.totals.cached_tokens == 96
    salted = sequence(100, 4, seed=3)
    salted.salt = "other"
    subject.arrive(salted)
    subject.finish()
    assert salted.cached == 0


def test_a_long_prompt_is_cut_into_pieces_that_fit_the_step() -> None:
    subject = engine(max_num_batched_tokens=512)
    subject.arrive(sequence(1500, 3))
    steps = []
    while subject.step():
        steps.append(subject.totals.generation_tokens)
    assert steps == [0, 0, 1, 2, 3]


def test_a_closed_loop_keeps_its_concurrency() -> None:
    """A new request follows each completion; the chunks of a request are in order and after its arrival."""
    sim = Simulation(serving(), MODELS["1.5b"], GPUS["h200"], VERSIONS["0.32"])
    for number in range(8):
        sim.submit(sequence(40, 50, number), 0.0)
    done = []
    for ended, end in sim.run():
        done.append(ended)
        assert (np.diff(end.times_s) > 0).all()
        assert end.times_s[0] > end.sent_s == ended.arrived_s
        assert end.tokens.sum() == 50
        if len(done) <= 40:
            sim.submit(sequence(40, 50, 100 + len(done)), float(end.times_s[-1]))
    assert len(done) == 48
    empty(sim.engine)


def test_a_model_can_be_added_as_a_file(tmp_path: Any) -> None:
    """An fp8 version of 14B reads half the bytes of weights, so steps are shorter and more KV blocks fit."""
    text = (load_model("r1-distill-qwen-14b")).behaviour | {"quantization": "fp8"}
    path = tmp_path / "fp8.yaml"
    path.write_text(__import__("json").dumps(text))
    fp8: Model = load_model(str(path))
    config = serving()
    quantised = StepModel(fp8, config, GPUS["h200"], VERSIONS["0.32"])
    assert quantised.step_s(1, 1, 1, 100) < 0.65 * step_model("14b").step_s(1, 1, 1, 100)
    assert quantised.kv_blocks(config) > step_model("14b").kv_blocks(config)
