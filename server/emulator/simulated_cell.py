"""Simulates the requests of one cell with the emulator's engine on virtual time, without sockets and without waiting.

Text, engine, step-time model and API queue are those of `server emulate`. What depends on the model alone (its outputs,
and what speculation drafts for them) is computed once in PreparedOutput and reused for every configuration.

Rules: the result is deterministic, and a simulated response holds every chunk, without rounding or sampling. It differs
from a run over sockets by the time that sockets and a client need (measured: docs/serving.md). This module does not know
records, budgets or files.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from server.config import Model, Serving, check_parallel, load_model, load_serving
from server.emulator.engine import hardware
from server.emulator.engine.drafts import Drafts, TextSteps, steps_of
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import ENGINE_VERSION
from server.emulator.engine.model_runner import served
from server.emulator.engine.precision import quantized
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.step_time import GIB
from server.emulator.engine.virtual_time import SimulatedResponse, Simulation
from server.emulator.text.model import TextModel
from server.emulator.text.problems import read_problems
from server.emulator.text.tokenizer import Tokenizer
from server.speculation import Speculation

TURNAROUND_S = 0.8e-3
"""Time between the end of a response and the client's next request: 0.65 to 1 ms measured (docs/decisions/0066)."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedOutput:
    """A prompt and its whole output, which is the same under every configuration."""

    prompt: list[int]
    ids: list[int]
    ended: bool
    """Whether the output ends by itself; otherwise it was cut at the requested length."""
    thinking_end: int | None
    """Number of output tokens up to and including the end-of-thinking token; None if the thinking does not end."""
    drafts: dict[Speculation, TextSteps] = field(default_factory=dict)
    """Numbers of drafted and accepted tokens per decode step, by the settings of speculation."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request for an output of at most `limit` tokens."""

    output: PreparedOutput
    limit: int

    @property
    def tokens(self) -> int:
        """Number of output tokens."""
        return min(len(self.output.ids), self.limit)

    @property
    def stopped(self) -> bool:
        """Whether the output ends by itself, not because of the limit."""
        return self.output.ended and len(self.output.ids) <= self.limit


@dataclass(frozen=True)
class SimulatedRun:
    """The responses of one cell, in the order of the requests, and what the GPUs consumed."""

    responses: list[SimulatedResponse]
    energy: list[tuple[float, float]]
    """(time, joules of all GPUs together since the start), at the start and whenever a response had ended."""
    server_info: dict[str, Any]
    """What an emulated server would report at `/version`."""


class ModelOutputs:
    """The outputs of one model; each is generated once."""

    def __init__(self, model: str, dataset: str) -> None:
        self.model: Model = load_model(model)
        self.tokenizer = Tokenizer()
        self.problems = read_problems(Path(dataset))
        self._text = TextModel(self.model.behaviour, self.problems, self.tokenizer)
        self._output = functools.cache(self._generate)
        self.excerpt = functools.cache(self._excerpt)

    def prepare(self, messages: list[dict[str, str]], limit: int, longest: int) -> PreparedRequest:
        """A request with these messages for `limit` tokens. The output is generated once, with `longest` tokens."""
        return PreparedRequest(self._output(self.tokenizer.render_chat(messages, self.model.prompt), longest), limit)

    def _generate(self, text: str, max_tokens: int) -> PreparedOutput:
        """The output of greedy decoding."""
        prompt = self.tokenizer.encode(text)
        reply = self._text.reply(text, prompt, reasoning_parser=self.has_reasoning_parser)
        length = min(reply.grow(max_tokens), max_tokens)
        ids = reply.ids[:length]
        thinking_end = reply.thinking_end
        if self.model.prompt == "s1":  # s1 marks the beginning and the end of the thinking with the same token
            token_id = self.tokenizer.id("<|im_start|>")
            thinking_end = next((n + 1 for n, token in enumerate(ids) if token == token_id and n), None)
        if thinking_end is not None and thinking_end > length:
            thinking_end = None
        return PreparedOutput(prompt, ids, reply.ended and length == len(reply.ids), thinking_end)

    @property
    def has_reasoning_parser(self) -> bool:
        """Whether the server separates the thinking from the answer."""
        return bool(self.model.reasoning_parser)

    def _excerpt(self, output: PreparedOutput, tokens: int) -> tuple[str | None, str]:
        """Reasoning and content of the first `tokens` tokens, for grading.

        The answer is complete; the thinking is cut to what follows its last box.
        """
        ids, end = output.ids, output.thinking_end
        end = end if end is not None and end <= tokens else None
        thinking = self._decode(ids[: end or tokens])
        box = thinking.rfind("\\boxed")
        thinking = "…" + (thinking[box : box + 300] if box >= 0 else "")
        answer = "" if end is None else self._decode(ids[end:tokens])
        if self.has_reasoning_parser:
            return thinking, answer.lstrip("\n")
        end_token = "" if end is None else self._decode(ids[end - 1 : end])
        return None, f"{thinking}{end_token}{answer}"

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.model.prompt != "s1")


def prepared_steps(output: PreparedOutput, settings: Speculation) -> TextSteps:
    """Numbers of drafted and accepted tokens per decode step; kept in the output for later calls."""
    if settings not in output.drafts:
        output.drafts[settings] = steps_of(output.prompt, output.ids, settings)
    return output.drafts[settings]


class SimulatedServer:
    """One configuration with its engine, and the requests in flight."""

    def __init__(self, simulation: Simulation, requests: Sequence[PreparedRequest]) -> None:
        self._simulation, self._requests = simulation, requests
        engine = simulation.engine
        engine.make_drafts = self._drafts
        gpu, self._gpus = engine.model.gpu, engine.serving.tensor_parallel_size
        self._telemetry = Telemetry(gpu, self._gpus, used_bytes=gpu.memory_gib * GIB, seed=0)
        self._number: dict[TokenSequence, int] = {}
        self.energy: list[tuple[float, float]] = [(0.0, 0.0)]
        """(time, joules of all GPUs together since the start) whenever a response had ended."""

    def send(self, number: int, at_s: float) -> None:
        """Send request `number` at `at_s`."""
        output, end = self._requests[number].output, self._requests[number].tokens
        sequence = TokenSequence(ids=output.prompt + output.ids, prompt=len(output.prompt), end=end)
        self._number[sequence] = number
        self._simulation.submit(sequence, at_s)

    def closed_loop(
        self, numbers: Iterable[int], streams: int, start_s: float
    ) -> Iterator[tuple[int, SimulatedResponse]]:
        """Send the requests in a closed loop until all have ended; yields each number with its response."""
        unsent = iter(numbers)
        for number in islice(unsent, streams):
            self.send(number, start_s)
        for number, response in self._responses():
            yield number, response
            if (following := next(unsent, None)) is not None:
                self.send(following, float(response.times_s[-1]) + TURNAROUND_S)

    def open_loop(self, numbers: Iterable[int], due_s: Iterable[float]) -> Iterator[tuple[int, SimulatedResponse]]:
        """Send each request when virtual time has reached its due time; yields each number with its response.

        The API process then holds only requests that have arrived and not yet reached the engine.
        """
        for number, at_s in zip(numbers, due_s, strict=True):
            yield from self._responses(at_s)
            self.send(number, at_s)
        yield from self._responses()

    def _responses(self, until_s: float = float("inf")) -> Iterator[tuple[int, SimulatedResponse]]:
        engine = self._simulation.engine
        for sequence, response in self._simulation.run(until_s):
            energy_j = self._telemetry.energy_j(engine.now_s, engine.usage) * self._gpus
            self.energy.append((float(response.times_s[-1]), energy_j))
            yield self._number.pop(sequence), response

    def _drafts(self, settings: Speculation, sequence: TokenSequence) -> Drafts:
        if sequence.preemptions:  # after a preemption its steps begin at other positions than the precomputed ones
            return Drafts(settings, sequence)
        output = self._requests[self._number[sequence]].output
        return Drafts(settings, sequence, prepared_steps(output, settings))


def simulate_requests(
    config: str,
    model: Model,
    requests: Sequence[PreparedRequest],
    *,
    overrides: Mapping[str, Any] | None = None,
    gpu: str = "h200",
    engine_version: str = ENGINE_VERSION,
    environment: Mapping[str, str] = MappingProxyType({}),
    concurrency: int | None = None,
    due_s: Sequence[float] = (),
    phases: Sequence[tuple[int, int]] = (),
) -> SimulatedRun:
    """Simulate all requests: in a closed loop of `concurrency` streams, or each at its time in `due_s`.

    `overrides` are options of `vllm serve` that replace those of the configuration file, `environment` holds the server's
    environment variables.
    `phases` are the numbers of the first request of each part of the load and of the one after its last. A part begins when
    all requests of the part before have ended; without phases there is one part.
    """
    profile = hardware.gpus()[gpu]
    serving, version = served(load_serving(config, overrides), engine_version, environment, gpu=profile)
    check_parallel(serving, model)
    simulation = Simulation(serving, quantized(model, serving, profile), profile, version)
    simulation.engine.model.check_kv_cache(serving)
    server = SimulatedServer(simulation, requests)
    responses: dict[int, SimulatedResponse] = {}
    start_s = 0.0
    for first, last in phases or [(0, len(requests))]:
        numbers = range(first, last)
        if due_s:
            offset_s = start_s - due_s[first] if first else 0.0
            responses.update(server.open_loop(numbers, [due_s[number] + offset_s for number in numbers]))
        else:
            responses.update(server.closed_loop(numbers, concurrency or len(requests), start_s))
        start_s = max(float(response.times_s[-1]) for response in responses.values()) + TURNAROUND_S
    return SimulatedRun(
        [responses[number] for number in range(len(requests))],
        server.energy,
        _server_info(serving, model, gpu, version.release),
    )


def _server_info(serving: Serving, model: Model, gpu: str, release: str) -> dict[str, Any]:
    return {
        "version": release,
        "gpu": gpu,
        "config": serving.name,
        "model": model.id,
        "preset": model.name,
        "tensor_parallel_size": serving.tensor_parallel_size,
        **(serving.speculation.described() if serving.speculation else {"speculation": None}),
        "max_model_len": serving.max_model_len,
    }
