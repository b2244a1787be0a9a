"""The path of one generation: exchange → Ask → streams in the engine → choices → Answer → exchange.

Rules: what the client did wrong is refused before the engine sees it; after that exactly one of these ends a request: its
last token, the client leaving, a queue limit, a fault. Only the first is counted as success, as in vLLM.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.config import Model, Serving
from server.emulator.api.admission import (
    BUSY,
    check_ids,
    check_length,
    check_model,
    check_thinking,
    full_queue,
)
from server.emulator.api.choice import Choice
from server.emulator.api.faults import HEADER, Faults, InjectedFault
from server.emulator.api.http import HttpExchange
from server.emulator.api.metrics_recorder import Counting
from server.emulator.api.request_body import Refusal, parse_json
from server.emulator.api.response import Dialect, ResponseWriter, encode, error_event
from server.emulator.api.sampling_params import SamplingParams, read_ask
from server.emulator.engine.realtime import Driver
from server.emulator.engine.sequence import TokenSequence
from server.emulator.text.model import GeneratedText, TextModel
from server.emulator.text.tokenizer import Tokenizer

EVENTS = ("content-type", "text/event-stream; charset=utf-8")
VARY = ("vary", "Origin")
JSON = ("content-type", "application/json")
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
AHEAD_TOKENS = 64
"""Text is made known to the engine in pieces of at least so many tokens."""


class Source:
    """A reply's ids, flowing into a choice's stream as far as the engine looks."""

    def __init__(self, reply: GeneratedText, limit: int, choice: Choice) -> None:
        self._reply, self._limit, self._choice = reply, limit, choice

    def __call__(self, tokens: int) -> None:
        """Make `tokens` output tokens known, or end the stream where the text does."""
        choice, reply = self._choice, self._reply
        stream, ask = choice.stream, choice.ask
        have = len(stream.ids) - stream.prompt
        there = min(reply.grow(min(max(tokens, have + AHEAD_TOKENS), self._limit)), self._limit)
        fresh = reply.ids[have:there]
        stream.ids += fresh
        if choice.think_at is None and reply.thinking_end is not None and reply.thinking_end <= there:
            choice.think_at = reply.thinking_end - 1
        if reply.ended and there == len(reply.ids):
            stream.end, choice.finish = there, "stop"
        if ask.stop_token_ids:
            self._stop_token(fresh, have)

    def _stop_token(self, fresh: list[int], have: int) -> None:
        choice = self._choice
        for at, token in enumerate(fresh, have):
            if token in choice.ask.stop_token_ids and choice.ask.min_tokens <= at < choice.stream.end:
                choice.stream.end, choice.finish, choice.stop_reason = at + 1, "stop", token


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way."""

    exchange: HttpExchange
    answer: ResponseWriter
    fate: InjectedFault
    midway: int
    """Tokens after which its fate strikes."""
    stalled: bool = False


class Generations:
    """All generations of one server."""

    def __init__(
        self,
        serving: Serving,
        model: Model,
        *,
        driver: Driver,
        text: TextModel,
        tokenizer: Tokenizer,
        dialect: Dialect,
        faults: Faults,
        counting: Counting,
        headers: list[tuple[str, str]],
    ) -> None:
        self.serving, self.model, self.driver, self.text, self.tokenizer = (
            serving,
            model,
            driver,
            text,
            tokenizer,
        )
        self.dialect, self.faults, self.counting, self.headers = dialect, faults, counting, headers
        self.names = serving.served_model_name or (model.id,)
        self.dead = False
        self.on_death: Callable[[], None] = lambda: None
        self._of: dict[TokenSequence, tuple[Generation, Choice]] = {}
        driver.deliver = self._deliver
        driver.engine.on_reject = self._rejected
        driver.on_death = self.die

    def __len__(self) -> int:
        return len({id(generation) for generation, _ in self._of.values()})

    # Beginning

    def begin(self, exchange: HttpExchange, *, chat: bool) -> None:
        """Check a request and start it. Raises Refusal."""
        ask = read_ask(parse_json(bytes(exchange.body)), chat=chat)
        if self.dead:
            raise Refusal(DEAD, type_="InternalServerError", code=500)
        check_model(ask.model, self.names)
        check_thinking(ask.thinking_token_budget, parsed=self.dialect.reasoning_parser)
        ask.include_usage |= self.serving.enable_force_include_usage and ask.stream
        texts, prompts = self._prompts(ask)
        for prompt in prompts:
            check_length(len(prompt), ask.max_tokens, self.serving.max_model_len)
        fate = self.faults.fate(exchange.headers.get(HEADER))
        if fate.error:
            raise Refusal("Internal server error", type_="InternalServerError", code=500)
        full = full_queue(self.serving, self.driver.engine.waiting, sum(map(len, prompts)))
        if full:
            self.counting.rejected(full)
            raise Refusal(BUSY, type_="Service Unavailable", code=503)
        self._launch(exchange, ask, fate, texts, prompts)

    def _prompts(self, ask: SamplingParams) -> tuple[list[str], list[list[int]]]:
        encode_text, decode = self.tokenizer.encode, self.tokenizer.decode
        if ask.chat:
            text = self.tokenizer.render_chat(ask.messages, self.model.prompt, continues=ask.continues)
            return [text], [encode_text(text)]
        check_ids(ask.prompts, max(self.tokenizer.vocab_size, self.model.shape.vocab_size))
        texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in ask.prompts]
        return texts, [encode_text(p) if isinstance(p, str) else list(p) for p in ask.prompts]

    def _launch(
        self,
        exchange: HttpExchange,
        ask: SamplingParams,
        fate: InjectedFault,
        texts: list[str],
        prompts: list[list[int]],
    ) -> None:
        choices: list[Choice] = []
        for text, prompt in zip(texts, prompts, strict=True):
            choices += [self._choice(ask, text, prompt, len(choices) + n, n) for n in range(ask.n)]
        answer = ResponseWriter(ask, self.dialect, choices, prompts)
        answer.echo = lambda choice: texts[choice.index // ask.n]
        answer.token_text = lambda token: self.tokenizer.decode([token])
        answer.timings = lambda: self.counting.timings(choices)
        shortest = min(choice.stream.end for choice in choices)
        generation = Generation(exchange, answer, fate, midway=min(max(shortest // 8, 4), 32))
        exchange.on_close = lambda: self._abort(generation)
        exchange.on_resume = lambda: self._resume(generation)
        if ask.stream:
            exchange.start([EVENTS, VARY, *self.headers, *self.request_id(exchange)])
        for choice in choices:
            self._of[choice.stream] = (generation, choice)
            self.driver.submit(choice.stream, exchange.started_s)

    def request_id(self, exchange: HttpExchange) -> list[tuple[str, str]]:
        """The header of `--enable-request-id-headers`."""
        if not self.serving.enable_request_id_headers:
            return []
        return [("x-request-id", exchange.headers.get("x-request-id") or secrets.token_hex(16))]

    def _choice(self, ask: SamplingParams, text: str, prompt: list[int], index: int, sample: int) -> Choice:
        room = self.serving.max_model_len - len(prompt)
        limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
        stream = TokenSequence(
            key=str(index), ids=list(prompt), prompt=len(prompt), end=limit, salt=ask.cache_salt
        )
        decoder = self.tokenizer.decoder(skip_special_tokens=ask.skip_special_tokens)
        thinks = self.dialect.reasoning_parser and ask.chat
        choice = Choice(index, ask, stream, decoder, thinks, self.tokenizer.id("<think>"))
        if thinks and self._thought(prompt):
            choice.think_at = -1
        stream.grow = Source(self._reply(ask, text, prompt, sample), limit, choice)
        return choice

    def _thought(self, prompt: list[int]) -> bool:
        """The prompt ends after its thinking: of the two marks the last one ends it."""
        begin, end = self.tokenizer.id("<think>"), self.tokenizer.id("</think>")
        return next((token == end for token in reversed(prompt) if token in {begin, end}), False)

    def _reply(self, ask: SamplingParams, text: str, prompt: list[int], sample: int) -> GeneratedText:
        def write(*, ignore_eos: bool) -> GeneratedText:
            return self.text.reply(
                text,
                prompt,
                seed=None if ask.seed is None else ask.seed + sample,
                temperature=ask.temperature,
                reasoning_parser=self.dialect.reasoning_parser,
                thinking_token_budget=ask.thinking_token_budget,
                ignore_eos=ignore_eos,
            )

        reply = write(ignore_eos=ask.ignore_eos)
        if ask.min_tokens and reply.grow(ask.min_tokens + 1) <= ask.min_tokens and reply.ended:
            return write(ignore_eos=True)
        return reply

    # Going on

    def _deliver(self, stream: TokenSequence, count: int) -> None:
        """Tokens of one stream are due."""
        known = self._of.get(stream)
        if known is None:
            return
        generation, choice = known
        if not choice.seen:
            self.counting.began(stream)
        if choice.take(count):
            del self._of[stream]
            self.driver.engine.abort(stream)  # where a stop string ends it, the engine goes on
            self.counting.ended(choice, generation.answer)
        if not (generation.fate.strikes and self._struck(generation, choice)):
            self._flush(generation, choice)

    def _flush(self, generation: Generation, choice: Choice) -> None:
        exchange, answer = generation.exchange, generation.answer
        if not answer.ask.stream:
            if answer.done:
                self.respond(exchange, 200, answer.body())
            return
        if exchange.blocked and not answer.done:
            return
        piece = answer.chunks(choice)
        if piece:
            exchange.write(piece)
        if answer.done:
            exchange.finish(answer.tail())
            self.counting.http(exchange)

    def _resume(self, generation: Generation) -> None:
        for choice in generation.answer.choices:
            if choice.fresh and not generation.stalled:
                self._flush(generation, choice)

    def _abort(self, generation: Generation) -> None:
        for choice in generation.answer.choices:
            if self._of.pop(choice.stream, None):
                self.driver.engine.abort(choice.stream)

    def respond(self, exchange: HttpExchange, status: int, body: object) -> None:
        """A whole JSON answer."""
        exchange.answer(status, encode(body), [JSON, VARY, *self.headers, *self.request_id(exchange)])
        self.counting.http(exchange)

    # What goes wrong

    def _struck(self, generation: Generation, choice: Choice) -> bool:
        """A request's fate, once it is midway; True while nothing may be written."""
        fate = generation.fate
        if generation.stalled:
            return True
        if choice.seen < generation.midway and not generation.answer.done:
            return False
        if fate.cut:
            self._abort(generation)
            generation.exchange.cut()
        elif fate.crash:
            self.die()
        else:
            generation.stalled = True
            asyncio.get_running_loop().call_later(
                fate.stall_s / self.driver.clock.speed, self._wake, generation
            )
        return True

    def _wake(self, generation: Generation) -> None:
        generation.fate, generation.stalled = InjectedFault(), False
        for choice in generation.answer.choices:
            if choice.fresh and generation.exchange.open:
                self._flush(generation, choice)

    def die(self) -> None:
        """The engine process dies: every answer ends in an error, health says 503, the server exits."""
        self.dead = True
        for generation in {generation for generation, _ in self._of.values()}:
            generation.exchange.keep_alive = False
            self._fail(generation, DEAD, "InternalServerError", 500)
        self.on_death()

    def _fail(self, generation: Generation, message: str, type_: str, code: int) -> None:
        self._abort(generation)
        if generation.answer.ask.stream:
            generation.exchange.finish(error_event(message, type_, code))
            self.counting.http(generation.exchange)
        else:
            error: dict[str, Any] = {"message": message, "type": type_, "param": None, "code": code}
            self.respond(generation.exchange, code, {"error": error})

    def _rejected(self, stream: TokenSequence) -> None:
        """A queue limit met inside the engine: requests raced past the check at the door."""
        known = self._of.get(stream)
        self.counting.rejected("max_num_queued_reqs")
        if known:
            self._fail(known[0], BUSY, "Service Unavailable", 503)
