"""The engine: sequences go from waiting to running to finished, one step at a time, as in vLLM's V1 scheduler.

A step schedules, in this order: the next tokens of every running sequence (one token and its draft tokens, or the next
part of its prompt), then waiting sequences while the token budget, the sequence limit and the KV blocks allow. When KV
blocks run out, the sequence that was started last is preempted and is computed again later. Time is a number that steps
increase. This module reads no clock, so a caller can follow a wall clock or run faster than real time.

Rules: `advance(until_s)` completes every step that ends by then. Steps that only repeat are computed together
(fast_forward.py), with the same times and tokens as single steps. This module does not know text, HTTP or the names of
metrics.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from server.config import Serving
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.drafts import Drafts
from server.emulator.engine.fast_forward import RepeatedSteps, repeated_steps
from server.emulator.engine.kv_cache import BlockPool
from server.emulator.engine.sequence import EngineStep, StepOutput, TokenSequence, Totals
from server.emulator.engine.step_time import StepModel, Usage
from server.speculation import Speculation


class Engine:
    """Sequences are submitted, and step outputs come out. `now_s` is the end of the last step, in model seconds."""

    def __init__(self, model: StepModel, serving: Serving, arrivals: ApiQueue) -> None:
        self.model, self.serving, self.arrivals = model, serving, arrivals
        self.pool = BlockPool(model.kv_blocks(serving), serving.block_size, caching=serving.enable_prefix_caching)
        self.now_s = 0.0
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.totals = Totals(accepted_at=[0] * model.draft_tokens)
        self.usage = Usage()
        self.make_drafts: Callable[[Speculation, TokenSequence], Drafts] = Drafts
        """Creates the drafts of a sequence. A caller that has computed them before can replace it."""
        self.on_reject: Callable[[TokenSequence], None] = lambda _sequence: None
        """Called when a queue limit rejects a sequence that was submitted before."""
        self.on_steps: Callable[[Any, Any, Any], None] = lambda _tokens, _gaps, _weight: None
        """Called after steps with the tokens of each step, times between outputs, and how many sequences saw each."""
        self._current: EngineStep | None = None
        """The step that began at `now_s`."""
        self._pipeline_empty = True
        """Whether the engine was idle before the next step, so that nothing hides the host's work."""

    def submit(self, sequence: TokenSequence, at_s: float) -> None:
        """Add a sequence whose request arrives at `at_s`."""
        self.arrivals.submit(sequence, at_s)

    def abort(self, sequence: TokenSequence) -> None:
        """Stop a sequence that is waiting or running; a finished sequence stays finished."""
        if sequence.state == "running":
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence.state in {"running", "waiting"}:
            sequence.state = "aborted"
            self.pool.release(sequence)

    @property
    def empty(self) -> bool:
        """Whether no sequence is waiting, running or about to arrive."""
        return not (self.running or self.waiting or any(s.state == "waiting" for s in self.arrivals))

    def next_s(self) -> float | None:
        """When the current step ends or, if the engine is idle, when the next sequence arrives; None if neither."""
        step = self._current_step()
        next_s = step.end_s if step else self.arrivals.next_s()
        return next_s if next_s < float("inf") else None

    def advance(self, until_s: float) -> Iterator[StepOutput]:
        """Complete every step that ends by `until_s`. The caller may submit further sequences between outputs."""
        while True:
            repeated = self._repeated_steps(until_s)
            if repeated:
                yield self._complete_repeated(repeated)
                continue
            step = self._current_step()
            if step is None:
                arrival_s = self.arrivals.next_s()
                if arrival_s > until_s or arrival_s == float("inf"):
                    if self.empty and until_s < float("inf"):
                        self.now_s = max(self.now_s, until_s)
                    return
                self.now_s, self._pipeline_empty = max(self.now_s, arrival_s), True
            elif step.end_s > until_s:
                return
            else:
                yield self._complete(step)

    # Scheduling

    def _admit(self) -> None:
        """Move sequences that have arrived by now to the waiting queue."""
        for sequence in self.arrivals.take(self.now_s):
            if sequence.state != "waiting":
                continue
            limit = self.serving.max_num_queued_reqs
            if limit is not None and len(self.waiting) >= limit:
                sequence.state = "rejected"
                self.on_reject(sequence)
            else:
                self.waiting.append(sequence)

    def _current_step(self) -> EngineStep | None:
        """The current step; begins one if there is none and there is work."""
        if self._current is None:
            self._admit()
            if self.waiting or self.running:
                self._current = self._begin()
        return self._current

    def _begin(self) -> EngineStep | None:
        work, preempted = self._schedule_running()
        if not preempted:
            self._schedule_waiting(work)
        return self._timed(work) if work else None

    def _repeated_steps(self, until_s: float) -> RepeatedSteps | None:
        """Steps up to `until_s` that only repeat, if every running sequence decodes and no other can join."""
        if self._current is not None or self._pipeline_empty or not self.running:
            return None
        self._admit()
        can_join = self.waiting and len(self.running) < self.serving.max_num_seqs
        if can_join or any(s.known - s.computed != 1 or not s.emitted for s in self.running):
            return None
        if len(self.running) * (1 + self.model.draft_tokens) > self.serving.max_num_batched_tokens:
            return None
        for sequence in self.running:
            self._draft_tokens(sequence)
        arrival_s = self.arrivals.next_s()
        return repeated_steps(
            self.running, self.model, self.pool, now_s=self.now_s, until_s=until_s, arrival_s=arrival_s
        )

    def _schedule_running(self) -> tuple[list[tuple[TokenSequence, int]], bool]:
        budget = self.serving.max_num_batched_tokens
        work: list[tuple[TokenSequence, int]] = []
        preempted, index = False, 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            sequence.reach(1)
            tokens = min(sequence.known - sequence.computed + self._draft_tokens(sequence), budget)
            while not self.pool.grow(sequence, sequence.computed + tokens):
                victim = self.running.pop()
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    break
            else:
                work.append((sequence, tokens))
                budget -= tokens
                index += 1
        return work, preempted

    def _draft_tokens(self, sequence: TokenSequence) -> int:
        """Number of draft tokens in the next step of a sequence."""
        speculation = self.serving.speculation
        if speculation is None or sequence.known - sequence.computed != 1:
            return 0
        if sequence.drafts is None:
            sequence.drafts = self.make_drafts(speculation, sequence)
        sequence.drafts.reach(1)
        return int(sequence.drafts.drafted[sequence.drafts.next])

    def _preempt(self, sequence: TokenSequence) -> None:
        self.pool.release(sequence)
        sequence.computed, sequence.state, sequence.drafts = 0, "waiting", None
        sequence.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(sequence)

    def _schedule_waiting(self, work: list[tuple[TokenSequence, int]]) -> None:
        budget = self.serving.max_num_batched_tokens - sum(tokens for _, tokens in work)
        while self.waiting and budget > 0 and len(self.running) < self.serving.max_num_seqs:
            sequence = self.waiting[0]
            cached = self.pool.find(sequence, sequence.known)
            tokens = min(sequence.known - cached, budget)
            if not self.pool.grow(sequence, cached + tokens):
                self.pool.release(sequence)
                return
            self.waiting.popleft()
            sequence.reach(1)
            self._start(sequence, cached)
            self.running.append(sequence)
            work.append((sequence, tokens))
            budget -= tokens

    def _start(self, sequence: TokenSequence, cached: int) -> None:
        sequence.state, sequence.computed = "running", cached
        if self.pool.caching and not sequence.preemptions:
            self.totals.queried_tokens += sequence.known
            self.totals.cached_tokens += cached
        if sequence.cached < 0:
            sequence.cached = cached
            sequence.scheduled_s = self.now_s

    def _timed(self, work: list[tuple[TokenSequence, int]]) -> EngineStep:
        tokens = rows = context = decoding = full_drafts = started = 0
        pairs = 0.0
        for sequence, count in work:
            tokens += count
            context += sequence.computed + count
            if sequence.emitted and sequence.known - sequence.computed == 1:
                decoding += 1
                rows += count
                full_drafts += count == 1 + self.model.draft_tokens
            else:
                rows += sequence.computed + count >= sequence.known
                pairs += count * (sequence.computed + count / 2)
                started += 1
        uniform = decoding == len(work) and (full_drafts == decoding or not self.model.speculates)
        fill, self._pipeline_empty = self._pipeline_empty, False
        seconds = self.model.step_s(
            len(work), tokens, rows, context, pairs=pairs, prompts=started, full_graph=uniform, fill=fill
        )
        return EngineStep(self.now_s, self.now_s + float(seconds), work, tokens, context, pairs)

    # Completing steps

    def _complete(self, step: EngineStep) -> StepOutput:
        self._current, self.now_s = None, step.end_s
        out: list[tuple[TokenSequence, int]] = []
        gaps: list[float] = []
        prompt_tokens = generated = 0
        for sequence, count in step.work:
            if sequence.state != "running":
                continue
            first = sequence.first_s is None
            new, gap = self._progress(sequence, count, step.end_s)
            if not new:
                continue
            out.append((sequence, new))
            generated += new
            if first:
                prompt_tokens += sequence.prompt - sequence.cached
                self.totals.prompt_tokens += sequence.prompt
                self.totals.computed_prompt_tokens += sequence.prompt - sequence.cached
            else:
                gaps.append(gap)
        self.totals.steps += 1
        self.totals.generation_tokens += generated
        seconds, tokens, context = step.end_s - step.start_s, step.tokens, step.context
        streams = len(step.work)
        self.model.use(self.usage, seconds, 1, streams=streams, tokens=tokens, context=context, pairs=step.pairs)
        self.on_steps([prompt_tokens + generated], gaps, 1)
        self._finish([sequence for sequence, _ in out])
        left_s = step.end_s + self._lag_s(streams)
        return StepOutput([left_s], out, None if len(out) == generated else np.array([[new] for _, new in out]))

    def _lag_s(self, streams: int) -> float:
        """How long the output of a step that has ended waits until the next step has been launched."""
        if not self.model.is_async:
            return 0.0
        self._admit()
        # Steps that only decode are not begun here, so that they can be computed together.
        can_join = self.waiting and len(self.running) < self.serving.max_num_seqs
        step = self._current_step() if can_join or any(not s.emitted for s in self.running) else None
        return self.model.lag_s(streams, step.end_s - step.start_s if step and step.pairs else None)

    def _complete_repeated(self, steps: RepeatedSteps) -> StepOutput:
        sequences, taken, last_s = list(self.running), len(steps.ends_s), float(steps.ends_s[-1])
        first_gaps = [float(steps.ends_s[0]) - (sequence.last_s or 0.0) for sequence in sequences]
        each = steps.emitted
        emitted = [taken] * len(sequences) if each is None else each.sum(axis=1).tolist()
        if each is not None:
            self._count_repeated_drafts(steps)
        for sequence, new in zip(sequences, emitted, strict=True):
            self.pool.grow(sequence, sequence.computed + new)
            sequence.computed += new
            sequence.emitted += new
            sequence.steps += taken
            sequence.last_s = last_s
            self.pool.cache(sequence, sequence.computed)
        self.now_s = last_s
        self.totals.steps += taken
        self.totals.generation_tokens += sum(emitted)
        computed, context = float(steps.tokens.sum()), float(steps.contexts.sum())
        seconds, streams = float(steps.seconds.sum()), taken * len(sequences)
        self.model.use(self.usage, seconds, taken, streams=streams, tokens=computed, context=context)
        self.on_steps(steps.new_tokens, first_gaps, 1)
        self.on_steps([], steps.seconds[1:], len(sequences))
        left_s = steps.ends_s + self.model.lag_s(len(sequences))
        return StepOutput(left_s, list(zip(sequences, emitted, strict=True)), each)

    def _progress(self, sequence: TokenSequence, count: int, end_s: float) -> tuple[int, float]:
        """Apply one sequence's part of a step; returns its output tokens and the time since its last output."""
        drafted = count - 1 if sequence.emitted and sequence.known - sequence.computed == 1 else 0
        if sequence.computed + count - drafted < sequence.known:  # part of the prompt, no output yet
            sequence.computed += count
            self.pool.cache(sequence, sequence.computed)
            return 0, 0.0
        accepted = 0
        if sequence.drafts:
            accepted = min(sequence.drafts.accepted[sequence.drafts.next], drafted)
            sequence.drafts.next += 1
            self._count_drafts(sequence, drafted, accepted)
        new = min(1 + accepted, sequence.end - sequence.emitted)
        sequence.computed = sequence.known + new - 1
        sequence.emitted += new
        sequence.steps += 1
        self.pool.cache(sequence, sequence.computed)
        gap = end_s - sequence.last_s if sequence.last_s is not None else 0.0
        sequence.last_s = end_s
        if sequence.first_s is None:
            sequence.first_s = end_s
        return new, gap

    def _count_drafts(self, sequence: TokenSequence, drafted: int, accepted: int) -> None:
        if not drafted:
            return
        sequence.drafted.append(drafted)
        sequence.accepted.append(accepted)
        totals = self.totals
        totals.drafts += 1
        totals.draft_tokens += drafted
        totals.accepted_tokens += accepted
        for position in range(accepted):
            totals.accepted_at[position] += 1

    def _count_repeated_drafts(self, steps: RepeatedSteps) -> None:
        totals, accepted = self.totals, steps.emitted - 1
        for sequence, drafted, right in zip(self.running, steps.drafted, accepted, strict=True):
            if sequence.drafts:
                sequence.drafts.next += len(drafted)
            sequence.drafted += drafted[drafted > 0].tolist()
            sequence.accepted += right[drafted > 0].tolist()
        totals.drafts += int((steps.drafted > 0).sum())
        totals.draft_tokens += int(steps.drafted.sum())
        totals.accepted_tokens += int(accepted.sum())
        for position in range(self.model.draft_tokens):
            totals.accepted_at[position] += int((accepted > position).sum())

    def _finish(self, sequences: list[TokenSequence]) -> None:
        done = [sequence for sequence in sequences if sequence.emitted >= sequence.end]
        if done:
            ended = set(done)
            self.running = [sequence for sequence in self.running if sequence not in ended]
        for sequence in done:
            sequence.state = "finished"
            self.pool.release(sequence)
            sequence.drafts = None
