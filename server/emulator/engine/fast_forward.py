"""Many engine steps at once, where each would only repeat the last with a longer context.

While nothing arrives, ends or is preempted, a step differs from the one before in numbers only: contexts that grow, and
under speculation drafts that each stream's own text decides. Those are arrays; so are the step times. A jump stops short
of the step that ends a stream, of an arrival, and of the time asked for: what follows is the engine's own step.

Rules: a jump leaves the engine as single steps would have (a test holds this).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from server.emulator.engine.sequence import StepOutput, TokenSequence

if TYPE_CHECKING:
    from server.emulator.engine.scheduler import Engine

MOST_STEPS = 4096
"""Bounds what one call computes ahead."""
WORTH_STEPS = 6
"""Fewer are taken singly: a jump costs about as much as five (measured at 16 streams)."""


@dataclass(slots=True)
class StepBatch:
    """Steps to come, an entry each; the last two by stream and step, None without speculation."""

    tokens: Any
    grown: Any
    full_graph: Any
    emitted: Any = None
    drafted: Any = None


def leap(engine: "Engine", until_s: float) -> StepOutput | None:
    """Jump as far as `until_s`; None where single steps are needed."""
    if not _uniform(engine):
        return None
    steps = _most_steps(engine, min(until_s, engine.arrivals[0][0]) if engine.arrivals else until_s)
    if steps < WORTH_STEPS:
        return None
    plan = _plan(engine, steps)
    count, computed = len(engine.running), sum(stream.computed for stream in engine.running)
    contexts = computed + np.cumsum(plan.grown) - plan.grown + plan.tokens
    seconds = engine.model.step_s(count, plan.tokens, plan.tokens, contexts, full_graph=plan.full_graph)
    ends = engine.now_s + np.cumsum(seconds)
    taken = int(np.searchsorted(ends, until_s, side="right"))
    if engine.arrivals:  # the step that an arrival falls into is still taken; the next one sees it
        taken = min(taken, int(np.searchsorted(ends, engine.arrivals[0][0], side="left")) + 1)
    taken = min(taken, _before_an_end(engine, plan))
    if taken < 1:
        return None
    return _land(engine, plan, taken, ends=ends[:taken], seconds=seconds[:taken], contexts=contexts[:taken])


def _uniform(engine: "Engine") -> bool:
    """Every running stream decodes, and nothing can join."""
    if engine.under_way is not None or engine.idle or not engine.running:
        return False
    engine.admit()
    if engine.waiting and len(engine.running) < engine.serving.max_num_seqs:
        return False
    if any(stream.known - stream.computed != 1 or not stream.emitted for stream in engine.running):
        return False
    widest = 1 + engine.model.draft_tokens
    return len(engine.running) * widest <= engine.serving.max_num_batched_tokens


def _most_steps(engine: "Engine", soon_s: float) -> int:
    """Steps by `soon_s` and a little, before some stream must end, and for which blocks suffice."""
    streams, pool, steps = engine.running, engine.pool, MOST_STEPS
    count, widest = len(streams), 1 + engine.model.draft_tokens
    if soon_s < float("inf"):
        context = sum(stream.computed for stream in streams)
        shortest_s = float(engine.model.step_s(count, count, count, context))
        steps = min(steps, int((soon_s - engine.now_s) / shortest_s) + 2)
    if steps < WORTH_STEPS:
        return 0
    for stream in streams:
        stream.reach((steps + 1) * widest)
        steps = min(steps, stream.end - stream.emitted - 1)
    spare = sum(len(stream.blocks) * pool.size - stream.computed for stream in streams)
    return min(steps, (pool.free * pool.size + spare) // (count * widest) - pool.size)


def _plan(engine: "Engine", steps: int) -> StepBatch:
    count, model = len(engine.running), engine.model
    ones = np.ones(steps)
    if not model.speculates:
        return StepBatch(ones * count, ones * count, ones.astype(bool))
    for stream in engine.running:
        engine.drafts_of(stream)
    ahead = [stream.drafts.ahead(steps) for stream in engine.running if stream.drafts]
    drafted = np.stack([drafts for drafts, _ in ahead])
    emitted = np.stack([accepted for _, accepted in ahead]) + 1
    full = (drafted == model.draft_tokens).all(axis=0) & model.engine.ngram_full_graph
    return StepBatch(count + drafted.sum(axis=0), emitted.sum(axis=0), full, emitted, drafted)


def _before_an_end(engine: "Engine", plan: StepBatch) -> int:
    """Steps before one that ends a stream."""
    if plan.emitted is None:
        return len(plan.tokens)
    left = np.array([stream.end - stream.emitted for stream in engine.running])
    return int((np.cumsum(plan.emitted, axis=1) < left[:, None]).sum(axis=1).min())


def _land(
    engine: "Engine", plan: StepBatch, taken: int, *, ends: Any, seconds: Any, contexts: Any
) -> StepOutput:
    streams, tokens = list(engine.running), plan.tokens[:taken]
    count, last_s = len(streams), float(ends[-1])
    left = ends + engine.model.lag_s(count, contexts)
    each = None if plan.emitted is None else plan.emitted[:, :taken]
    made = [taken] * count if each is None else each.sum(axis=1).tolist()
    first_gaps = [float(ends[0]) - (stream.last_s or 0.0) for stream in streams]
    for row, (stream, new) in enumerate(zip(streams, made, strict=True)):
        if each is not None:
            _count_drafts(engine, stream, plan.drafted[row, :taken], each[row] - 1)
        engine.pool.grow(stream, stream.computed + new)
        stream.computed += new
        stream.emitted += new
        stream.steps += taken
        stream.last_s = last_s
        engine.pool.cache(stream, stream.computed)
    engine.now_s = last_s
    engine.totals.steps += taken
    engine.totals.generation_tokens += sum(made)
    spent_s, computed, read = float(seconds.sum()), float(tokens.sum()), float(contexts.sum())
    engine.model.use(engine.usage, spent_s, taken, tokens=computed, context=read)
    engine.on_steps(plan.grown[:taken], first_gaps, 1)
    engine.on_steps([], seconds[1:], count)
    return StepOutput(left, list(zip(streams, made, strict=True)), each)


def _count_drafts(engine: "Engine", stream: TokenSequence, drafted: Any, accepted: Any) -> None:
    made, totals = drafted > 0, engine.totals
    if stream.drafts:
        stream.drafts.next += len(drafted)
    stream.drafted += drafted[made].tolist()
    stream.accepted += accepted[made].tolist()
    totals.drafts += int(made.sum())
    totals.draft_tokens += int(drafted.sum())
    totals.accepted_tokens += int(accepted.sum())
    for position in range(engine.model.draft_tokens):
        totals.accepted_at[position] += int((accepted > position).sum())
