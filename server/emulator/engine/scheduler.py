"""The engine: waiting → running → finished, one step at a time, as vLLM's V1 scheduler does it.

A step takes, in order: every running stream's next tokens (one, and its drafts; or the next piece of its prompt), then
waiting streams while tokens, places and KV blocks last. Where blocks run out the youngest running stream is preempted
and computes everything again. Time is a number that steps move on; nothing here reads a clock, so a caller may follow a
wall clock, run ahead of it, or step through a day in a second.

Rules: `advance(until_s)` ends every step that ends by then, jumping over steps in which only numbers move; jumping and
stepping give the same times and tokens (a test holds this). Outputs are (stream, tokens) with the time they leave.
Does not know text, HTTP or metrics' names.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from server.config import Ngram, Serving
from server.emulator.engine import fast_forward
from server.emulator.engine.kv_cache import BlockPool
from server.emulator.engine.sequence import Drafts, EngineStep, StepOutput, TokenSequence, Totals
from server.emulator.engine.step_time import StepModel, Usage


class Engine:
    """Streams in, outputs out. `now_s` is the last step boundary."""

    def __init__(self, model: StepModel, serving: Serving) -> None:
        self.model, self.serving = model, serving
        self.pool = BlockPool(
            model.kv_blocks(serving), serving.block_size, caching=serving.enable_prefix_caching
        )
        self.now_s = 0.0
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.totals = Totals(accepted_at=[0] * model.draft_tokens)
        self.usage = Usage()
        self.make_drafts: Callable[[Ngram, TokenSequence], Drafts] = Drafts
        """Where a stream's drafts come from; a caller that knows the whole text looks them up."""
        self.on_finish: Callable[[TokenSequence], None] = lambda _stream: None
        self.on_reject: Callable[[TokenSequence], None] = lambda _stream: None
        """A queue limit refused a stream that had been submitted."""
        self.on_steps: Callable[[Any, Any, Any], None] = lambda _tokens, _gaps, _weights: None
        """Told of ended steps: tokens in each, and gaps between outputs with how many streams saw each."""
        self.arrivals: list[tuple[float, int, TokenSequence]] = []
        self._numbers = itertools.count()
        self.under_way: EngineStep | None = None
        """The step begun at `now_s`."""
        self.idle = True
        """No step has just ended: the pipeline is empty."""

    # What a caller does

    def submit(self, stream: TokenSequence, at_s: float | None = None) -> None:
        """Queue a stream, from `at_s` on."""
        stream.arrived_s = stream.queued_s = self.now_s if at_s is None else at_s
        heapq.heappush(self.arrivals, (stream.queued_s, next(self._numbers), stream))

    def abort(self, stream: TokenSequence) -> None:
        """Stop a stream wherever it is; a finished one stays finished."""
        if stream.state == "running":
            self.running.remove(stream)
        elif stream in self.waiting:
            self.waiting.remove(stream)
        if stream.state in {"running", "waiting"}:
            stream.state = "aborted"
            self.pool.release(stream)

    @property
    def queued(self) -> int:
        """Streams waiting, those about to arrive included."""
        return len(self.waiting) + len(self.arrivals)

    @property
    def empty(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self.running or self.waiting or any(s.state == "waiting" for _, _, s in self.arrivals))

    def next_s(self) -> float | None:
        """When the next step ends, or the next arrival is due where the engine is idle; None where nothing is to come."""
        step = self._plan()
        if step:
            return step.end_s
        return self.arrivals[0][0] if self.arrivals else None

    def step(self) -> StepOutput | None:
        """End one step, however long it takes; None where nothing is to be done."""
        step = self._plan()
        if step is None and self.arrivals:
            self._wait(self.arrivals[0][0])
            step = self._plan()
        return self._complete(step) if step else None

    def advance(self, until_s: float) -> Iterator[StepOutput]:
        """End every step that ends by `until_s`. Finished streams may be followed by new ones between outputs."""
        while True:
            jumped = fast_forward.leap(self, until_s)
            if jumped:
                yield jumped
                continue
            step = self._plan()
            if step is None:
                if not self.arrivals or self.arrivals[0][0] > until_s:
                    self.now_s = (
                        max(self.now_s, until_s) if self.empty and until_s < float("inf") else self.now_s
                    )
                    return
                self._wait(self.arrivals[0][0])
            elif step.end_s > until_s:
                return
            else:
                yield self._complete(step)

    # Scheduling

    def _wait(self, until_s: float) -> None:
        self.now_s, self.idle = max(self.now_s, until_s), True

    def admit(self) -> None:
        """Queue what has arrived by now."""
        while self.arrivals and self.arrivals[0][0] <= self.now_s:
            stream = heapq.heappop(self.arrivals)[2]
            if stream.state != "waiting":
                continue
            limit = self.serving.max_num_queued_reqs
            if limit is not None and len(self.waiting) >= limit:
                stream.state = "rejected"
                self.on_reject(stream)
            else:
                self.waiting.append(stream)

    def _plan(self) -> EngineStep | None:
        """The step under way, begun here if need be."""
        if self.under_way is None:
            self.admit()
            if self.waiting or self.running:
                self.under_way = self._begin()
        return self.under_way

    def _begin(self) -> EngineStep | None:
        work, preempted = self._schedule_running()
        if not preempted:
            self._schedule_waiting(work)
        if not work:
            return None
        return self._timed(work)

    def _schedule_running(self) -> tuple[list[tuple[TokenSequence, int]], bool]:
        budget = self.serving.max_num_batched_tokens
        work: list[tuple[TokenSequence, int]] = []
        preempted, at = False, 0
        while at < len(self.running) and budget > 0:
            stream = self.running[at]
            stream.reach(1)
            tokens = min(stream.known - stream.computed + self.drafts_of(stream), budget)
            while not self.pool.grow(stream, stream.computed + tokens):
                victim = self.running.pop()
                self._preempt(victim)
                preempted = True
                if victim is stream:
                    break
            else:
                work.append((stream, tokens))
                budget -= tokens
                at += 1
        return work, preempted

    def drafts_of(self, stream: TokenSequence) -> int:
        """Tokens drafted for a stream's next step."""
        ngram = self.serving.speculation
        if ngram is None or stream.known - stream.computed != 1:
            return 0
        if stream.drafts is None:
            stream.drafts = self.make_drafts(ngram, stream)
        stream.drafts.reach(1)
        return stream.drafts.drafted[stream.drafts.next]

    def _preempt(self, stream: TokenSequence) -> None:
        self.pool.release(stream)
        stream.computed, stream.state, stream.drafts = 0, "waiting", None
        stream.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(stream)

    def _schedule_waiting(self, work: list[tuple[TokenSequence, int]]) -> None:
        budget = self.serving.max_num_batched_tokens - sum(tokens for _, tokens in work)
        while self.waiting and budget > 0 and len(self.running) < self.serving.max_num_seqs:
            stream = self.waiting[0]
            cached = self.pool.find(stream, stream.known)
            tokens = min(stream.known - cached, budget)
            if not self.pool.grow(stream, cached + tokens):
                self.pool.release(stream)
                return
            self.waiting.popleft()
            stream.reach(1)
            self._start(stream, cached)
            self.running.append(stream)
            work.append((stream, tokens))
            budget -= tokens

    def _start(self, stream: TokenSequence, cached: int) -> None:
        stream.state, stream.computed = "running", cached
        if self.pool.caching and not stream.preemptions:
            self.totals.queried_tokens += stream.known
            self.totals.cached_tokens += cached
        if stream.cached < 0:
            stream.cached = cached
            stream.scheduled_s = self.now_s

    def _timed(self, work: list[tuple[TokenSequence, int]]) -> EngineStep:
        tokens = rows = context = decoding = full = 0
        pairs = 0.0
        for stream, count in work:
            tokens += count
            context += stream.computed + count
            if stream.emitted and stream.known - stream.computed == 1:
                decoding += 1
                rows += count
                full += count == 1 + self.model.draft_tokens
            else:
                rows += stream.computed + count >= stream.known
                pairs += count * (stream.computed + count / 2)
        whole = decoding == len(work) and (full == decoding or not self.model.speculates)
        graph = whole and (self.model.engine.ngram_full_graph or not self.model.speculates)
        seconds = self.model.step_s(
            len(work), tokens, rows, context, pairs=pairs, full_graph=graph, fill=self.idle
        )
        self.idle = False
        lag_s = float(self.model.lag_s(len(work), context))
        return EngineStep(self.now_s, self.now_s + float(seconds), work, tokens, rows, context, pairs, lag_s)

    # Ending steps

    def _complete(self, step: EngineStep) -> StepOutput:
        self.under_way, self.now_s = None, step.end_s
        left_s = step.end_s + step.lag_s
        out: list[tuple[TokenSequence, int]] = []
        gaps: list[float] = []
        prompt_tokens = generated = 0
        for stream, count in step.work:
            if stream.state != "running":
                continue
            first = stream.first_s is None
            new, gap = self._progress(stream, count, step.end_s)
            if not new:
                continue
            out.append((stream, new))
            generated += new
            if first:
                prompt_tokens += stream.prompt - stream.cached
                self.totals.prompt_tokens += stream.prompt
                self.totals.computed_prompt_tokens += stream.prompt - stream.cached
            else:
                gaps.append(gap)
        self.totals.steps += 1
        self.totals.generation_tokens += generated
        self.model.use(
            self.usage,
            step.end_s - step.start_s,
            1,
            tokens=step.tokens,
            context=step.context,
            pairs=step.pairs,
        )
        self.on_steps([prompt_tokens + generated], gaps, 1)
        self._finish([stream for stream, _ in out])
        return StepOutput(
            [left_s], out, None if len(out) == generated else np.array([[new] for _, new in out])
        )

    def _progress(self, stream: TokenSequence, count: int, end_s: float) -> tuple[int, float]:
        """Count one stream's part of a step: output tokens, and the time since its last output."""
        drafted = count - 1 if stream.emitted and stream.known - stream.computed == 1 else 0
        speculating = stream.drafts is not None
        if stream.computed + count - drafted < stream.known:  # a piece of its prompt
            stream.computed += count
            self.pool.cache(stream, stream.computed)
            return 0, 0.0
        accepted = 0
        if speculating and stream.drafts is not None:
            accepted = min(stream.drafts.accepted[stream.drafts.next], drafted)
            stream.drafts.next += 1
            self._count_drafts(stream, drafted, accepted)
        new = min(1 + accepted, stream.end - stream.emitted)
        stream.computed = stream.known + new - 1
        stream.emitted += new
        stream.steps += 1
        self.pool.cache(stream, stream.computed)
        gap = end_s - stream.last_s if stream.last_s is not None else 0.0
        stream.last_s = end_s
        if stream.first_s is None:
            stream.first_s = end_s
        return new, gap

    def _count_drafts(self, stream: TokenSequence, drafted: int, accepted: int) -> None:
        if not drafted:
            return
        stream.drafted.append(drafted)
        stream.accepted.append(accepted)
        totals = self.totals
        totals.drafts += 1
        totals.draft_tokens += drafted
        totals.accepted_tokens += accepted
        for position in range(accepted):
            totals.accepted_at[position] += 1

    def _finish(self, streams: list[TokenSequence]) -> None:
        done = [stream for stream in streams if stream.emitted >= stream.end]
        if done:
            gone = set(map(id, done))
            self.running = [stream for stream in self.running if id(stream) not in gone]
        for stream in done:
            stream.state = "finished"
            self.pool.release(stream)
            stream.drafts = None
            self.on_finish(stream)
