"""Computes many engine steps at once while every step only repeats the previous one with longer contexts.

As long as no request arrives, ends or is preempted, the steps of a decoding batch differ in numbers only: the contexts
grow and, under speculation, each sequence's own text decides how many draft tokens are accepted. These numbers are
computed as arrays. The result stops before a step that ends a sequence and before `until_s`, and it includes the step
during which the next request arrives.

Rules: the engine that applies the result is in the same state as after the same number of single steps (tested in
tests/server/emulator/test_scheduler.py). This module does not know the waiting queue and does not change the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.emulator.engine.kv_cache import BlockPool
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.step_time import StepModel

MAX_STEPS = 4096
"""Limits how many steps one call computes in advance."""
MIN_STEPS = 6
"""Fewer steps are computed singly: one call costs about as much as five single steps (measured with 16 sequences)."""


@dataclass(slots=True)
class RepeatedSteps:
    """Coming decode steps: one entry per step. `emitted` and `drafted` have a row per sequence, or are None."""

    tokens: Any
    """Tokens that a step computes."""
    new_tokens: Any
    """Output tokens of all sequences together."""
    full_graph: Any
    """Whether one CUDA graph covers the step."""
    emitted: Any = None
    drafted: Any = None
    """Draft tokens; like `emitted`, None without speculation."""
    contexts: Any = None
    seconds: Any = None
    ends_s: Any = None


def repeated_steps(
    running: Sequence[TokenSequence],
    model: StepModel,
    pool: BlockPool,
    *,
    now_s: float,
    until_s: float,
    arrival_s: float,
) -> RepeatedSteps | None:
    """The next steps of a batch in which every sequence decodes, or None where single steps are as fast.

    `arrival_s` is when the next request arrives; infinity means that none is known.
    """
    number = _step_limit(running, model, pool, min(until_s, arrival_s) - now_s)
    if number < MIN_STEPS:
        return None
    steps = _decode_steps(running, model, number)
    count, computed = len(running), sum(sequence.computed for sequence in running)
    contexts = computed + np.cumsum(steps.new_tokens) - steps.new_tokens + steps.tokens
    seconds = model.step_s(count, steps.tokens, steps.tokens, contexts, full_graph=steps.full_graph)
    ends_s = now_s + np.cumsum(seconds)
    taken = int(np.searchsorted(ends_s, until_s, side="right"))
    # The step during which a request arrives is still taken; the step after it sees the request.
    taken = min(taken, int(np.searchsorted(ends_s, arrival_s, side="left")) + 1, number)
    if steps.emitted is not None:
        taken = min(taken, _steps_before_an_end(running, steps.emitted))
        steps.emitted, steps.drafted = steps.emitted[:, :taken], steps.drafted[:, :taken]
    steps.tokens, steps.new_tokens = steps.tokens[:taken], steps.new_tokens[:taken]
    steps.contexts, steps.seconds, steps.ends_s = contexts[:taken], seconds[:taken], ends_s[:taken]
    return steps if taken else None


def _step_limit(running: Sequence[TokenSequence], model: StepModel, pool: BlockPool, seconds: float) -> int:
    """About as many steps as fit into `seconds`, before a sequence must end and as long as KV blocks suffice."""
    count, widest, steps = len(running), 1 + model.draft_tokens, MAX_STEPS
    if seconds < float("inf"):
        context = sum(sequence.computed for sequence in running)
        steps = min(steps, int(seconds / float(model.step_s(count, count, count, context))) + 2)
    if steps < MIN_STEPS:
        return 0
    for sequence in running:
        sequence.reach((steps + 1) * widest)
        steps = min(steps, sequence.end - sequence.emitted - 1)
    spare = sum(len(sequence.blocks) * pool.size - sequence.computed for sequence in running)
    return min(steps, (pool.free * pool.size + spare) // (count * widest) - pool.size)


def _decode_steps(running: Sequence[TokenSequence], model: StepModel, number: int) -> RepeatedSteps:
    count, ones = len(running), np.ones(number)
    if not model.speculates:
        return RepeatedSteps(ones * count, ones * count, ones.astype(bool))
    ahead = [sequence.drafts.ahead(number) for sequence in running if sequence.drafts]
    drafted = np.stack([drafts for drafts, _ in ahead])
    emitted = np.stack([accepted for _, accepted in ahead]) + 1
    full = (drafted == model.draft_tokens).all(axis=0)
    return RepeatedSteps(count + drafted.sum(axis=0), emitted.sum(axis=0), full, emitted, drafted)


def _steps_before_an_end(running: Sequence[TokenSequence], emitted: Any) -> int:
    left = np.array([sequence.end - sequence.emitted for sequence in running])
    return int((np.cumsum(emitted, axis=1) < left[:, None]).sum(axis=1).min())
