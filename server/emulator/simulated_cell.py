"""The emulator's engine stepped on a virtual clock: no sockets, no waiting; what each request's tokens would have done.

The same text, engine, step model and API queue as `server emulate`, driven by events instead of a clock. What depends on
the model alone (the text, and what n-gram lookup makes of it) is worked out once, in Scripts, and played under every
configuration. Rules: deterministic; a played request is its output events, nothing is rounded or sampled away.

Does not know: records, budgets, files. Differs from a run over sockets by what sockets and a client cost (measured: see
docs/serving.md).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.config import Model, Ngram, Serving, load_model, load_serving
from server.emulator.engine import hardware
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.ngram import speculate
from server.emulator.engine.sequence import Drafts, TokenSequence
from server.emulator.engine.step_time import GIB
from server.emulator.engine.virtual_time import Simulation
from server.emulator.text.model import TextModel
from server.emulator.text.problems import read_problems
from server.emulator.text.tokenizer import Tokenizer

ENGINE_VERSION = "0.32"
TURNAROUND_S = 0.8e-3
"""What a client needs between the end of an answer and its next request: ours 0.65 to 1 ms (docs/decisions/0066)."""


@dataclass(frozen=True, slots=True)
class Script:
    """One request and the whole output that it gets, whatever the configuration."""

    prompt: list[int]
    ids: list[int]
    ended: bool
    """The output ends by itself; else it was cut at the length asked for."""
    thinking_end: int | None
    """Output tokens up to the end of thinking, its mark included."""
    drafts: dict[tuple[int, int, int], tuple[list[int], list[int]]] = field(default_factory=dict)
    """(drafted, accepted) of each decode step, by n-gram setting (k, min, max)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A Script up to some length: what a smaller budget gets of it."""

    script: Script
    limit: int

    @property
    def tokens(self) -> int:
        """Output tokens."""
        return min(len(self.script.ids), self.limit)

    @property
    def stopped(self) -> bool:
        """It ends by itself, not by its length."""
        return self.script.ended and len(self.script.ids) <= self.limit


@dataclass(frozen=True, slots=True)
class Played:
    """When the chunks of one request came, in model seconds, and how many tokens each held."""

    sent_s: float
    times_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    steps: int


@dataclass(frozen=True)
class Performance:
    """All requests of one cell, in the order given, and what the GPUs drew."""

    played: list[Played]
    energy_j: float
    """Of all GPUs together."""
    duration_s: float
    facts: dict[str, Any]
    """What the server would have said of itself at /version."""


class Cast:
    """One model's Scripts: what it writes to each prompt, made once."""

    def __init__(self, model: str, dataset: str) -> None:
        self.model: Model = load_model(model)
        self.tokenizer = Tokenizer()
        problems = read_problems(Path(dataset).read_bytes().splitlines(), dataset)
        self.problems = problems
        self._text = TextModel(self.model.behaviour, problems, self.tokenizer)
        self._scripts: dict[tuple[str, int], Script] = {}
        self._excerpts: dict[tuple[int, int], tuple[str | None, str]] = {}

    def part(self, messages: list[dict[str, str]], limit: int, longest: int) -> Part:
        """The first `limit` tokens of the output to a chat, which is made once, `longest` tokens long."""
        text = self.tokenizer.render_chat(messages, self.model.prompt)
        key = (text, longest)
        if key not in self._scripts:
            self._scripts[key] = self._script(text, longest)
        return Part(self._scripts[key], limit)

    def _script(self, text: str, max_tokens: int) -> Script:
        """The output to a prompt, greedily decoded."""
        prompt = self.tokenizer.encode(text)
        reply = self._text.reply(text, prompt, reasoning_parser=bool(self.model.reasoning_parser))
        length = min(reply.grow(max_tokens), max_tokens)
        ids = reply.ids[:length]
        thinking = reply.thinking_end
        if self.model.prompt == "s1":  # its output opens with the mark that also ends the thinking
            mark = self.tokenizer.id("<|im_start|>")
            thinking = next((at + 1 for at, token in enumerate(ids) if token == mark and at), None)
        if thinking is not None and thinking > length:
            thinking = None
        return Script(prompt, ids, reply.ended and length == len(reply.ids), thinking)

    @property
    def splits(self) -> bool:
        """The server tells thinking from answer (a reasoning parser)."""
        return bool(self.model.reasoning_parser)

    def excerpt(self, script: Script, tokens: int) -> tuple[str | None, str]:
        """(reasoning, text) of the first `tokens`: the answer whole, the thinking cut to its last box, for grading."""
        key = (id(script), tokens)
        if key not in self._excerpts:
            self._excerpts[key] = self._excerpt(script, tokens)
        return self._excerpts[key]

    def _excerpt(self, script: Script, tokens: int) -> tuple[str | None, str]:
        end = (
            script.thinking_end if script.thinking_end is not None and script.thinking_end <= tokens else None
        )
        thinking = self._decode(script.ids[: end or tokens])
        box = thinking.rfind("\\boxed")
        thinking = "…" + (thinking[box : box + 300] if box >= 0 else "")
        answer = "" if end is None else self._decode(script.ids[end:tokens])
        if self.splits:
            return thinking, answer.lstrip("\n")
        mark = "" if end is None else self._decode(script.ids[end - 1 : end])
        return None, f"{thinking}{mark}{answer}"

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.model.prompt != "s1")


class Rehearsed(Drafts):
    """n-gram drafts of a known output: looked up, not proposed again."""

    def __init__(self, drafted: list[int], accepted: list[int]) -> None:
        self.next = 0
        self.drafted, self.accepted = drafted, accepted

    def reach(self, steps: int) -> None:
        """All is known; beyond the end there are no drafts."""
        missing = self.next + steps - len(self.drafted)
        if missing > 0:
            self.drafted = self.drafted + [0] * missing
            self.accepted = self.accepted + [0] * missing


def rehearse(script: Script, ngram: Ngram) -> tuple[list[int], list[int]]:
    """What n-gram lookup drafts and gets right over the script, step by step; kept in the script."""
    key = (ngram.num_speculative_tokens, ngram.prompt_lookup_min, ngram.prompt_lookup_max)
    if key not in script.drafts:
        steps = speculate(script.prompt, script.ids, *key)
        script.drafts[key] = (steps.drafted.tolist(), steps.accepted.tolist())
    return script.drafts[key]


class Stage:
    """One configuration with its engine, and the streams under way."""

    def __init__(self, serving: Serving, model: Model, gpu: str, parts: Sequence[Part]) -> None:
        profile, version = hardware.gpus()[gpu], hardware.engine_versions()[ENGINE_VERSION]
        self._simulation = Simulation(serving, model, profile, version)
        self._simulation.engine.make_drafts = self._drafts
        self._telemetry = Telemetry(
            profile, serving.tensor_parallel_size, used_bytes=profile.memory_gib * GIB, seed=0
        )
        self._serving, self._parts = serving, parts
        self._number: dict[TokenSequence, int] = {}

    def send(self, number: int, at_s: float) -> None:
        """Request `number` is sent."""
        script, end = self._parts[number].script, self._parts[number].tokens
        stream = TokenSequence(
            key=str(number), ids=script.prompt + script.ids, prompt=len(script.prompt), end=end
        )
        self._number[stream] = number
        self._simulation.submit(stream, at_s)

    def perform(self, next_: Callable[[float], tuple[int, float] | None]) -> Iterator[tuple[int, Played]]:
        """Step until all is done. `next_(now_s)` is asked for a further request whenever one has ended."""
        for done in self._simulation.run():
            stream = done.stream
            yield self._number.pop(stream), Played(stream.arrived_s, done.times_s, done.tokens, stream.steps)
            if (following := next_(float(done.times_s[-1]))) is not None:
                self.send(*following)

    def energy_j(self) -> float:
        """What all GPUs drew since the start."""
        engine = self._simulation.engine
        return self._telemetry.energy_j(engine.now_s, engine.usage) * self._serving.tensor_parallel_size

    def _drafts(self, ngram: Ngram, stream: TokenSequence) -> Drafts:
        if stream.preemptions:  # it restarts between the steps that were rehearsed
            return Drafts(ngram, stream)
        return Rehearsed(*rehearse(self._parts[self._number[stream]].script, ngram))


def perform(
    config: str,
    model: Model,
    parts: Sequence[Part],
    *,
    gpu: str = "h200",
    concurrency: int | None = None,
    due_s: Sequence[float] = (),
) -> Performance:
    """Play every part: in a closed loop of `concurrency` streams, or at the times in `due_s`."""
    serving = load_serving(config)
    stage = Stage(serving, model, gpu, parts)
    waiting = iter(range(concurrency or len(parts), len(parts)))
    for number in range(min(concurrency or len(parts), len(parts))):
        stage.send(number, due_s[number] if due_s else 0.0)

    def following(now_s: float) -> tuple[int, float] | None:
        number = next(waiting, None)
        return None if number is None else (number, now_s + TURNAROUND_S)

    played = dict(stage.perform(following))
    duration_s = max(float(one.times_s[-1]) for one in played.values())
    return Performance(
        [played[number] for number in range(len(parts))],
        stage.energy_j(),
        duration_s,
        _facts(serving, model, gpu),
    )


def _facts(serving: Serving, model: Model, gpu: str) -> dict[str, Any]:
    return {
        "version": hardware.engine_versions()[ENGINE_VERSION].release,
        "gpu": gpu,
        "config": serving.name,
        "model": model.id,
        "preset": model.name,
        "tensor_parallel_size": serving.tensor_parallel_size,
        "speculation": "ngram" if serving.speculation else None,
        "max_model_len": serving.max_model_len,
    }
