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
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from server.config import Ngram, Serving
from server.emulator.kv import BlockPool
from server.emulator.speculation import NgramProposer
from server.emulator.timing import StepModel, Usage

JUMP_STEPS = 4096
"""Most steps in one jump: bounds what one call computes ahead."""
JUMP_WORTH = 6
"""Fewer steps are taken singly: a jump costs about as much as five (measured at 16 streams)."""


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence being generated. The caller fills the first block, the engine the rest."""

    key: str
    ids: list[int]
    """Prompt, then everything the model would say: drafts are verified against it."""
    prompt: int
    """How many of `ids` are prompt."""
    end: int
    """Output tokens until it ends, at least 1, as far as is known."""
    grow: Callable[[int], None] | None = None
    """Called before output beyond `ids` is looked at: makes at least so many output tokens known, or lowers `end`."""
    salt: str | None = None
    arrived_s: float = 0.0
    queued_s: float = 0.0
    """Arrival at the engine; the caller may set `arrived_s` to when the client's request came."""

    computed: int = 0
    emitted: int = 0
    cached: int = -1
    preemptions: int = 0
    scheduled_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    state: str = "waiting"
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    drafts: "Drafts | None" = None
    drafted: list[int] = field(default_factory=list)
    """Draft tokens of each decode step that had any, and below those accepted."""
    accepted: list[int] = field(default_factory=list)
    steps: int = 0

    @property
    def known(self) -> int:
        """Tokens so far: prompt and output."""
        return self.prompt + self.emitted

    def reach(self, tokens: int) -> None:
        """Know `tokens` more output tokens, or where the output ends."""
        if self.grow and len(self.ids) - self.known < tokens and len(self.ids) - self.prompt < self.end:
            self.grow(self.emitted + tokens)


class Drafts:
    """What n-gram lookup drafts for one stream, and how much of it the text to come confirms, step after step.

    It depends on the stream alone, never on the batch: so it is worked out ahead, as far as asked.
    """

    def __init__(self, ngram: Ngram, stream: Stream) -> None:
        self._stream, self._width = stream, ngram.num_speculative_tokens
        self._proposer = NgramProposer(
            ngram.num_speculative_tokens, ngram.prompt_lookup_min, ngram.prompt_lookup_max
        )
        self._at = stream.known
        self._proposer.extend(stream.ids[: self._at])
        self.next = 0
        self.drafted: list[int] = []
        self.accepted: list[int] = []

    def reach(self, steps: int) -> None:
        """Know at least `steps` steps beyond those taken."""
        self._stream.reach((steps + 1) * (1 + self._width))
        ids, drafted, accepted = self._stream.ids, self.drafted, self.accepted
        while len(drafted) < self.next + steps:
            draft = self._proposer.propose()
            right = 0
            for token in draft:
                if self._at + right >= len(ids) or ids[self._at + right] != token:
                    break
                right += 1
            drafted.append(len(draft))
            accepted.append(right)
            self._proposer.extend(ids[self._at : self._at + right + 1])
            self._at += right + 1


@dataclass(slots=True)
class Step:
    """One step under way."""

    start_s: float
    end_s: float
    work: list[tuple[Stream, int]]
    """Each stream and the tokens computed for it."""
    tokens: int
    rows: int
    context: int
    pairs: float
    lag_s: float


@dataclass(slots=True)
class Output:
    """What leaves the engine: one step's tokens, or those of many equal ones."""

    times: Any
    """When each step's tokens leave, an array."""
    tokens: list[tuple[Stream, int]]
    """Each stream's tokens over all steps."""
    each: Any = None
    """Tokens by stream and step, an array; None: one each."""


@dataclass(slots=True)
class Totals:
    """Counters that only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    cached_tokens: int = 0
    queried_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)


class Engine:
    """Streams in, outputs out. `now_s` is the last step boundary."""

    def __init__(self, model: StepModel, serving: Serving) -> None:
        self.model, self.serving = model, serving
        self.pool = BlockPool(
            model.kv_blocks(serving), serving.block_size, caching=serving.enable_prefix_caching
        )
        self.now_s = 0.0
        self.waiting: deque[Stream] = deque()
        self.running: list[Stream] = []
        self.totals = Totals(accepted_at=[0] * model.draft_tokens)
        self.usage = Usage()
        self.make_drafts: Callable[[Ngram, Stream], Drafts] = Drafts
        """Where a stream's drafts come from; a caller that knows the whole text looks them up."""
        self.on_finish: Callable[[Stream], None] = lambda _stream: None
        self.on_reject: Callable[[Stream], None] = lambda _stream: None
        """A queue limit refused a stream that had been submitted."""
        self.on_steps: Callable[[Any, Any, Any], None] = lambda _tokens, _gaps, _weights: None
        """Told of ended steps: tokens in each, and gaps between outputs with how many streams saw each."""
        self._arrivals: list[tuple[float, int, Stream]] = []
        self._numbers = itertools.count()
        self._step: Step | None = None
        self._idle = True

    # What a caller does

    def submit(self, stream: Stream, at_s: float | None = None) -> None:
        """Queue a stream, from `at_s` on."""
        stream.arrived_s = stream.queued_s = self.now_s if at_s is None else at_s
        heapq.heappush(self._arrivals, (stream.queued_s, next(self._numbers), stream))

    def abort(self, stream: Stream) -> None:
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
        return len(self.waiting) + len(self._arrivals)

    @property
    def empty(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self.running or self.waiting or any(s.state == "waiting" for _, _, s in self._arrivals))

    def next_s(self) -> float | None:
        """When the next step ends, or the next arrival is due where the engine is idle; None where nothing is to come."""
        step = self._plan()
        if step:
            return step.end_s
        return self._arrivals[0][0] if self._arrivals else None

    def step(self) -> Output | None:
        """End one step, however long it takes; None where nothing is to be done."""
        step = self._plan()
        if step is None and self._arrivals:
            self._wait(self._arrivals[0][0])
            step = self._plan()
        return self._complete(step) if step else None

    def advance(self, until_s: float) -> Iterator[Output]:
        """End every step that ends by `until_s`. Finished streams may be followed by new ones between outputs."""
        while True:
            jump = self._jump(until_s)
            if jump:
                yield jump
                continue
            step = self._plan()
            if step is None:
                if not self._arrivals or self._arrivals[0][0] > until_s:
                    self.now_s = (
                        max(self.now_s, until_s) if self.empty and until_s < float("inf") else self.now_s
                    )
                    return
                self._wait(self._arrivals[0][0])
            elif step.end_s > until_s:
                return
            else:
                yield self._complete(step)

    # Scheduling

    def _wait(self, until_s: float) -> None:
        self.now_s, self._idle = max(self.now_s, until_s), True

    def _admit(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.now_s:
            stream = heapq.heappop(self._arrivals)[2]
            if stream.state != "waiting":
                continue
            limit = self.serving.max_num_queued_reqs
            if limit is not None and len(self.waiting) >= limit:
                stream.state = "rejected"
                self.on_reject(stream)
            else:
                self.waiting.append(stream)

    def _plan(self) -> Step | None:
        """The step under way, begun here if need be."""
        if self._step is None:
            self._admit()
            if self.waiting or self.running:
                self._step = self._begin()
        return self._step

    def _begin(self) -> Step | None:
        work, preempted = self._schedule_running()
        if not preempted:
            self._schedule_waiting(work)
        if not work:
            return None
        return self._timed(work)

    def _schedule_running(self) -> tuple[list[tuple[Stream, int]], bool]:
        budget = self.serving.max_num_batched_tokens
        work: list[tuple[Stream, int]] = []
        preempted, at = False, 0
        while at < len(self.running) and budget > 0:
            stream = self.running[at]
            stream.reach(1)
            tokens = min(stream.known - stream.computed + self._drafts_of(stream), budget)
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

    def _drafts_of(self, stream: Stream) -> int:
        if not self.model.speculates or stream.known - stream.computed != 1:
            return 0
        if stream.drafts is None:
            stream.drafts = self.make_drafts(self.serving.speculation, stream)  # type: ignore[arg-type]  # speculates says so
        stream.drafts.reach(1)
        return stream.drafts.drafted[stream.drafts.next]

    def _preempt(self, stream: Stream) -> None:
        self.pool.release(stream)
        stream.computed, stream.state, stream.drafts = 0, "waiting", None
        stream.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(stream)

    def _schedule_waiting(self, work: list[tuple[Stream, int]]) -> None:
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

    def _start(self, stream: Stream, cached: int) -> None:
        stream.state, stream.computed = "running", cached
        if self.pool.caching and not stream.preemptions:
            self.totals.queried_tokens += stream.known
            self.totals.cached_tokens += cached
        if stream.cached < 0:
            stream.cached = cached
            stream.scheduled_s = self.now_s

    def _timed(self, work: list[tuple[Stream, int]]) -> Step:
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
            len(work), tokens, rows, context, pairs=pairs, full_graph=graph, fill=self._idle
        )
        self._idle = False
        lag_s = float(self.model.lag_s(len(work), context))
        return Step(self.now_s, self.now_s + float(seconds), work, tokens, rows, context, pairs, lag_s)

    # Ending steps

    def _complete(self, step: Step) -> Output:
        self._step, self.now_s = None, step.end_s
        left_s = step.end_s + step.lag_s
        out: list[tuple[Stream, int]] = []
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
        return Output([left_s], out, None if len(out) == generated else np.array([[new] for _, new in out]))

    def _progress(self, stream: Stream, count: int, end_s: float) -> tuple[int, float]:
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

    def _count_drafts(self, stream: Stream, drafted: int, accepted: int) -> None:
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

    def _finish(self, streams: list[Stream]) -> None:
        done = [stream for stream in streams if stream.emitted >= stream.end]
        if done:
            gone = set(map(id, done))
            self.running = [stream for stream in self.running if id(stream) not in gone]
        for stream in done:
            stream.state = "finished"
            self.pool.release(stream)
            stream.drafts = None
            self.on_finish(stream)

    # Jumping

    def _jump(self, until_s: float) -> Output | None:
        """Many steps at once, where each would only repeat the last with a longer context; None where they would not."""
        if self._step is not None or self._idle or not self.running:
            return None
        self._admit()
        if self.waiting and len(self.running) < self.serving.max_num_seqs:
            return None
        if any(stream.known - stream.computed != 1 or not stream.emitted for stream in self.running):
            return None
        if len(self.running) > self.serving.max_num_batched_tokens // (1 + self.model.draft_tokens):
            return None
        soon_s = min(until_s, self._arrivals[0][0]) if self._arrivals else until_s
        steps = self._most_steps(soon_s)
        return self._leap(steps, until_s) if steps > 1 else None

    def _most_steps(self, soon_s: float) -> int:
        """Steps before a stream must end or blocks could run out, not many beyond `soon_s`."""
        count, streams = len(self.running), self.running
        widest = 1 + self.model.draft_tokens
        context = sum(stream.computed for stream in streams)
        shortest_s = float(self.model.step_s(count, count, count, context))
        steps = JUMP_STEPS
        if soon_s < float("inf"):
            steps = min(steps, int((soon_s - self.now_s) / shortest_s) + 2)
        if steps < JUMP_WORTH:
            return 0
        for stream in streams:
            stream.reach((steps + 1) * widest)
            steps = min(steps, (stream.end - stream.emitted - 1) // widest)
        spare = sum(len(stream.blocks) * self.pool.size - stream.computed for stream in streams)
        return min(steps, (self.pool.free * self.pool.size + spare) // (count * widest) - self.pool.size)

    def _leap(self, steps: int, until_s: float) -> Output | None:
        count, streams = len(self.running), self.running
        context = sum(stream.computed for stream in streams)
        ones = np.ones(steps)
        if self.model.speculates:
            drafted, emitted, full = self._draft_arrays(steps)
            tokens = count + drafted.sum(axis=0)
            grown = emitted.sum(axis=0)
            graph = full & self.model.engine.ngram_full_graph
        else:
            emitted, tokens, grown, graph = None, ones * count, ones * count, ones.astype(bool)
        contexts = context + np.cumsum(grown) - grown + tokens
        seconds = self.model.step_s(count, tokens, tokens, contexts, full_graph=graph)
        ends = self.now_s + np.cumsum(seconds)
        taken = int(np.searchsorted(ends, until_s, side="right"))
        if self._arrivals:  # a step that an arrival falls into is still taken; the next one sees it
            taken = min(taken, int(np.searchsorted(ends, self._arrivals[0][0], side="left")) + 1)
        if taken < 1:
            return None
        return self._land(
            taken,
            ends=ends[:taken],
            seconds=seconds[:taken],
            tokens=tokens[:taken],
            contexts=contexts[:taken],
            emitted=emitted,
        )

    def _draft_arrays(self, steps: int) -> tuple[Any, Any, Any]:
        drafted, emitted = [], []
        for stream in self.running:
            self._drafts_of(stream)
            plan = stream.drafts
            assert plan is not None  # noqa: S101 - _drafts_of just made it
            plan.reach(steps)
            window = slice(plan.next, plan.next + steps)
            drafted.append(plan.drafted[window])
            emitted.append(plan.accepted[window])
        drafts = np.array(drafted)
        return drafts, np.array(emitted) + 1, (drafts == self.model.draft_tokens).all(axis=0)

    def _land(
        self, taken: int, *, ends: Any, seconds: Any, tokens: Any, contexts: Any, emitted: Any
    ) -> Output:
        count, streams = len(self.running), list(self.running)
        lags = self.model.lag_s(count, contexts)
        left = ends + lags
        out: list[tuple[Stream, int]] = []
        first_gaps = [float(ends[0]) - (stream.last_s or 0.0) for stream in streams]
        for stream in streams:
            new = taken if emitted is None else self._land_drafts(stream, taken)
            self.pool.grow(stream, stream.computed + new)
            stream.computed += new
            stream.emitted += new
            stream.steps += taken
            stream.last_s = float(ends[-1])
            self.pool.cache(stream, stream.computed)
            out.append((stream, new))
        self.now_s = float(ends[-1])
        self.totals.steps += taken
        made = sum(new for _, new in out)
        self.totals.generation_tokens += made
        self.model.use(
            self.usage, float(seconds.sum()), taken, tokens=float(tokens.sum()), context=float(contexts.sum())
        )
        per_step = np.full(taken, count) if emitted is None else emitted[:, :taken].sum(axis=0)
        self.on_steps(per_step, first_gaps, 1)
        self.on_steps([], seconds[1:], count)
        return Output(left, out, None if emitted is None else emitted[:, :taken])

    def _land_drafts(self, stream: Stream, taken: int) -> int:
        plan = stream.drafts
        assert plan is not None  # noqa: S101 - only streams with a plan are jumped
        new = taken
        for at in range(plan.next, plan.next + taken):
            self._count_drafts(stream, plan.drafted[at], plan.accepted[at])
            new += plan.accepted[at]
        plan.next += taken
        return new
