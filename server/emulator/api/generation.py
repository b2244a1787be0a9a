"""Executes generation requests: checks them, submits their sequences to the engine and writes their responses.

Rules: client errors are refused before the engine sees the request. After that, exactly one event ends a request: its last
token, a client disconnect, a queue limit or a fault. Only the first one counts as success, as in vLLM. This module does
not know the format of responses or the names of metrics.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from server.config import Model, Serving
from server.emulator.api.admission import (
    BUSY,
    check_ids,
    check_length,
    check_memory,
    check_model,
    check_thinking,
    full_queue,
)
from server.emulator.api.choice import Choice
from server.emulator.api.faults import HEADER, FaultInjector, InjectedFault
from server.emulator.api.http import HttpExchange
from server.emulator.api.metrics_recorder import MetricsRecorder
from server.emulator.api.request_body import RequestBody, RequestError, parse_json
from server.emulator.api.response import Dialect, ResponseWriter, encode, error_event
from server.emulator.api.sampling_params import read_sampling_params
from server.emulator.engine.realtime import RealtimeEngine
from server.emulator.engine.sequence import TokenSequence
from server.emulator.text.model import GeneratedText, TextModel
from server.emulator.text.tokenizer import END_THINK, THINK, IncrementalDecoder

EVENTS = ("content-type", "text/event-stream; charset=utf-8")
VARY = ("vary", "Origin")
JSON = ("content-type", "application/json")


def _busy() -> RequestError:
    return RequestError(BUSY, type_="Service Unavailable", code=503)


@dataclass(slots=True, eq=False)
class Generation:
    """One request in progress."""

    exchange: HttpExchange
    writer: ResponseWriter
    fault: InjectedFault
    fault_after: int
    """Number of tokens after which the fault occurs."""
    stalled: bool = False


class Generations:
    """All generation requests in progress on one server."""

    def __init__(
        self,
        serving: Serving,
        model: Model,
        *,
        realtime: RealtimeEngine,
        text: TextModel,
        dialect: Dialect,
        faults: FaultInjector,
        metrics: MetricsRecorder,
        headers: list[tuple[str, str]],
    ) -> None:
        self.serving, self.model, self.realtime = serving, model, realtime
        self.text, self.tokenizer = text, text.tokenizer
        self.dialect, self.faults, self.metrics, self.headers = dialect, faults, metrics, headers
        self.names = serving.served_model_name or (model.id,)
        self.engine_dead = False
        self.on_engine_failure: Callable[[], object] = lambda: None
        self._by_sequence: dict[TokenSequence, tuple[Generation, Choice]] = {}
        realtime.deliver = self._deliver
        realtime.engine.on_reject = self._rejected
        realtime.on_failure = self.fail_engine

    def __len__(self) -> int:
        return len({id(generation) for generation, _ in self._by_sequence.values()})

    # Starting

    def begin(self, exchange: HttpExchange, *, chat: bool) -> None:
        """Check a request and start it. Raises RequestError."""
        params = read_sampling_params(parse_json(bytes(exchange.body)), chat=chat)
        if self.engine_dead:
            raise self._engine_dead_error()
        check_model(params.model, self.names)
        check_thinking(params.thinking_token_budget, parsed=self.dialect.reasoning_parser)
        params.include_usage |= self.serving.enable_force_include_usage and params.stream
        prompts = self._prompts(params)
        for _, ids in prompts:
            check_length(len(ids), params.max_tokens, self.serving.max_model_len)
        prompt_tokens = sum(len(ids) for _, ids in prompts)
        check_memory(prompt_tokens, params.n)
        fault = self.faults.next_fault(exchange.headers.get(HEADER))
        if fault.error:
            raise RequestError("Internal server error", type_="InternalServerError", code=500)
        full = full_queue(self.serving, self.realtime.engine.waiting, prompt_tokens)
        if full:
            self.metrics.rejected(full)
            raise _busy()
        self._start(exchange, params, fault, prompts)

    def _prompts(self, params: RequestBody) -> list[tuple[str, list[int]]]:
        """Text and ids of each prompt."""
        encode_text, decode = self.tokenizer.encode, self.tokenizer.decode
        if params.chat:
            text = self.tokenizer.render_chat(
                params.messages, self.model.prompt, continues=params.continue_final_message
            )
            return [(text, encode_text(text))]
        check_ids(params.prompt, max(self.tokenizer.vocab_size, self.model.shape.vocab_size))
        return [(p, encode_text(p)) if isinstance(p, str) else (decode(p), p) for p in params.prompt]

    def _start(
        self, exchange: HttpExchange, params: RequestBody, fault: InjectedFault, prompts: list[tuple[str, list[int]]]
    ) -> None:
        choices: list[Choice] = []
        for text, ids in prompts:
            choices += [self._choice(params, text, ids, len(choices) + n, n) for n in range(params.n)]
        writer = ResponseWriter(params, self.dialect, choices, self.tokenizer)
        shortest = min(choice.sequence.end for choice in choices)
        generation = Generation(exchange, writer, fault, fault_after=min(max(shortest // 8, 4), 32))
        exchange.on_close = lambda: self._abort(generation)
        exchange.on_resume = lambda: self._resume(generation)
        if params.stream:
            exchange.start([EVENTS, VARY, *self.headers, *self.request_id(exchange)])
        for choice in choices:
            self._by_sequence[choice.sequence] = (generation, choice)
            self.realtime.submit(choice.sequence, exchange.started_s)

    def request_id(self, exchange: HttpExchange) -> list[tuple[str, str]]:
        """The response header that `--enable-request-id-headers` adds."""
        if not self.serving.enable_request_id_headers:
            return []
        return [("x-request-id", exchange.headers.get("x-request-id") or secrets.token_hex(16))]

    def _choice(self, params: RequestBody, text: str, prompt: list[int], index: int, sample: int) -> Choice:
        room = self.serving.max_model_len - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        sequence = TokenSequence(ids=list(prompt), prompt=len(prompt), end=limit, salt=params.cache_salt)
        splits_reasoning = self.dialect.reasoning_parser and params.chat
        choice = Choice(
            index=index,
            params=params,
            sequence=sequence,
            prompt_text=text,
            reply=self._reply(params, text, prompt, sample),
            limit=limit,
            decoder=IncrementalDecoder(self.tokenizer, skip_special_tokens=params.skip_special_tokens),
            splits_reasoning=splits_reasoning,
            think_start_id=self.tokenizer.id(THINK),
        )
        if splits_reasoning and self._thinking_ended(prompt):
            choice.think_end_at = -1
        sequence.grow = choice.extend
        return choice

    def _thinking_ended(self, prompt: list[int]) -> bool:
        """Whether the last thinking token in the prompt is the one that ends the thinking."""
        begin, end = self.tokenizer.id(THINK), self.tokenizer.id(END_THINK)
        return next((token == end for token in reversed(prompt) if token in {begin, end}), False)

    def _reply(self, params: RequestBody, text: str, prompt: list[int], sample: int) -> GeneratedText:
        write = partial(
            self.text.reply,
            text,
            prompt,
            seed=None if params.seed is None else params.seed + sample,
            temperature=params.temperature,
            reasoning_parser=self.dialect.reasoning_parser,
            thinking_token_budget=params.thinking_token_budget,
        )
        reply = write(ignore_eos=params.ignore_eos)
        if params.min_tokens and reply.grow(params.min_tokens + 1) <= params.min_tokens and reply.ended:
            return write(ignore_eos=True)
        return reply

    # Delivering tokens

    def _deliver(self, sequence: TokenSequence, count: int) -> None:
        """Write tokens of one sequence that are due."""
        known = self._by_sequence.get(sequence)
        if known is None:
            return
        generation, choice = known
        if not choice.decoded:
            self.metrics.began(sequence)
        if choice.take(count):
            del self._by_sequence[sequence]
            self.realtime.engine.abort(sequence)  # a stop string may have ended it before the engine would
            self.metrics.ended(choice, generation.writer)
        if not (generation.fault.interrupts and self._inject_fault(generation, choice)):
            self._flush(generation, choice)

    def _flush(self, generation: Generation, choice: Choice) -> None:
        exchange, writer = generation.exchange, generation.writer
        if not writer.params.stream:
            if writer.done:
                self.respond(exchange, 200, writer.body(self.metrics.timings(writer.choices)))
            return
        if exchange.blocked and not writer.done:
            return
        piece = writer.chunks(choice)
        if piece:
            exchange.write(piece)
        if writer.done:
            exchange.finish(writer.tail(self.metrics.timings(writer.choices)))
            self.metrics.exchange(exchange)

    def _resume(self, generation: Generation) -> None:
        for choice in generation.writer.choices:
            if choice.unsent and not generation.stalled and generation.exchange.open:
                self._flush(generation, choice)

    def _abort(self, generation: Generation) -> None:
        for choice in generation.writer.choices:
            if self._by_sequence.pop(choice.sequence, None):
                self.realtime.engine.abort(choice.sequence)

    def respond(self, exchange: HttpExchange, status: int, body: object) -> None:
        """Answer with one JSON body."""
        exchange.answer(status, encode(body), [JSON, VARY, *self.headers, *self.request_id(exchange)])
        self.metrics.exchange(exchange)

    # Faults and failures

    def _inject_fault(self, generation: Generation, choice: Choice) -> bool:
        """Carry out a request's fault when it is due. Returns True while nothing may be written."""
        fault = generation.fault
        if generation.stalled:
            return True
        if choice.decoded < generation.fault_after and not generation.writer.done:
            return False
        if fault.cut:
            self._abort(generation)
            generation.exchange.cut()
        elif fault.crash:
            self.fail_engine(generation)
        else:
            generation.stalled = True
            asyncio.get_running_loop().call_later(
                fault.stall_s / self.realtime.clock.speed, self._end_stall, generation
            )
        return True

    def _end_stall(self, generation: Generation) -> None:
        generation.fault, generation.stalled = InjectedFault(), False
        self._resume(generation)

    def fail_engine(self, *done: Generation) -> None:
        """Fail the engine: every response ends with an error, `/health` answers 503 and the server exits.

        `done` are responses whose tokens have all been taken from the engine, but which are not written yet.
        """
        self.engine_dead = True
        for generation in {generation for generation, _ in self._by_sequence.values()}.union(done):
            generation.exchange.keep_alive = False
            self._fail(generation, self._engine_dead_error())
        self.on_engine_failure()

    def _engine_dead_error(self) -> RequestError:
        return RequestError(self.dialect.engine_dead_text, type_="InternalServerError", code=500)

    def _fail(self, generation: Generation, error: RequestError) -> None:
        self._abort(generation)
        if generation.writer.params.stream:
            generation.exchange.finish(error_event(error))
            self.metrics.exchange(generation.exchange)
        else:
            self.respond(generation.exchange, error.code, error.body)

    def _rejected(self, sequence: TokenSequence) -> None:
        """A queue limit was exceeded inside the engine, after the request had passed the check in `begin`."""
        known = self._by_sequence.get(sequence)
        self.metrics.rejected("max_num_queued_reqs")
        if known:
            self._fail(known[0], _busy())
