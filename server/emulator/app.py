"""The server: routes, and the path of one generation: exchange → Ask → streams in the engine → Answer → exchange.

Everything answers at once but generations, which are kept by their streams and written to as the driver delivers.
Rules: no answer without the header that says `emulated`; what the client did wrong is refused before the engine sees it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from server.config import Model, Serving
from server.emulator.answer import Answer, Choice, Dialect, encode, error_event
from server.emulator.ask import Ask, Refusal, invalid, parse_json, read_ask
from server.emulator.drive import Clock, Driver
from server.emulator.engine import Engine, Stream
from server.emulator.faults import HEADER, Fate, Faults
from server.emulator.frontend import Frontend
from server.emulator.http import Exchange
from server.emulator.metrics import Catalogue
from server.emulator.profiles import EngineVersion, Gpu
from server.emulator.telemetry import Telemetry
from server.emulator.text import Reply, TextModel
from server.emulator.timing import StepModel
from server.emulator.tokenizer import VOCABULARY, Tokenizer

JSON = ("content-type", "application/json")
VARY = ("vary", "Origin")
EVENTS = ("content-type", "text/event-stream; charset=utf-8")
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
UNCOUNTED = {"/health", "/ping", "/version", "/load", "/metrics", "/dcgm/metrics"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is emulated."""

    serving: Serving
    model: Model
    gpu_name: str
    gpu: Gpu
    version: EngineVersion
    seed: int = 0
    speed: float = 1.0
    text: str = "trace"


class Source:
    """A reply's ids, flowing into a stream as far as the engine looks."""

    def __init__(self, reply: Reply, ask: Ask, limit: int, choice_of: Callable[[], Choice]) -> None:
        self._reply, self._ask, self._limit = reply, ask, limit
        self._choice_of = choice_of

    def __call__(self, tokens: int) -> None:
        """Make `tokens` output tokens known, or end the stream where the text does."""
        choice = self._choice_of()
        stream = choice.stream
        have = len(stream.ids) - stream.prompt
        there = min(self._reply.grow(min(max(tokens, have + 64), self._limit)), self._limit)
        fresh = self._reply.ids[have:there]
        stream.ids += fresh
        if (
            choice.think_at is None
            and self._reply.thinking_end is not None
            and self._reply.thinking_end <= there
        ):
            choice.think_at = self._reply.thinking_end - 1
        for at, token in enumerate(fresh if self._ask.stop_token_ids else (), have):
            if token in self._ask.stop_token_ids and at >= self._ask.min_tokens:
                stream.end, choice.finish, choice.stop_reason = at + 1, "stop", token
                return
        if self._reply.ended and len(self._reply.ids) <= self._limit and there == len(self._reply.ids):
            stream.end, choice.finish = there, "stop"


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way."""

    exchange: Exchange
    ask: Ask
    answer: Answer
    fate: Fate
    stalled: bool = False
    midway: int = 0
    """Tokens after which its fate strikes."""


class App:
    """One emulated server."""

    def __init__(self, setting: Setting, problems: list[dict[str, Any]], faults: Faults) -> None:
        serving, model = setting.serving, setting.model
        self.setting, self.faults = setting, faults
        self.names = serving.served_model_name or (model.id,)
        self.tokenizer = Tokenizer(tokenizer_file(serving))
        self.text = TextModel(model.behaviour, problems, self.tokenizer, setting.text)
        self.step_model = StepModel(model, serving, setting.gpu, setting.version)
        self.engine = Engine(self.step_model, serving)
        self.clock = Clock(setting.speed)
        self.driver = Driver(self.engine, Frontend(setting.version), self.clock, self._deliver)
        tp = serving.tensor_parallel_size
        release = setting.version.release
        parser = serving.reasoning_parser if serving.reasoning_parser is not None else model.reasoning_parser
        self.dialect = Dialect(
            model=self.names[0],
            fingerprint=f"vllm-{release}{f'-tp{tp}' if tp > 1 else ''}-emulated",
            reasoning_parser=parser not in {None, "", "none"},
            reasoning_key="reasoning_content" if release.startswith("0.7") else "reasoning",
            usage_details=not release.startswith(("0.26", "0.7")),
            prompt_details=serving.enable_prompt_tokens_details,
            stream_interval=serving.stream_interval,
            null_usage=release.startswith("0.7"),
        )
        self.telemetry = Telemetry(
            setting.gpu, self.step_model.bandwidth, tp, self._used_bytes(), setting.seed
        )
        self.started = int(time.time())
        self.dead = False
        self.on_death: Callable[[], None] = lambda: None
        self._of: dict[Stream, tuple[Generation, Choice]] = {}
        self.metrics = Catalogue(self.names[0], release, serving.max_model_len, self.step_model.draft_tokens)
        self._wire_metrics()
        self._routes: dict[tuple[str, str], Callable[[Exchange], None]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/load"): lambda e: self._json(
                e, 200, {"server_load": len(self._of) if serving.enable_server_load_tracking else 0}
            ),
            ("GET", "/metrics"): self._metrics,
            ("GET", "/dcgm/metrics"): self._dcgm,
            ("GET", "/v1/models"): lambda e: self._json(e, 200, self._models()),
            ("POST", "/v1/chat/completions"): lambda e: self._generate(e, chat=True),
            ("POST", "/v1/completions"): lambda e: self._generate(e, chat=False),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
        }

    def _used_bytes(self) -> float:
        reserved = self.setting.gpu.memory_gib * self.setting.serving.gpu_memory_utilization
        return reserved * 2**30

    def _wire_metrics(self) -> None:
        iteration = self.metrics.histogram("iteration_tokens_total")
        latency = self.metrics.histogram("inter_token_latency_seconds")

        def on_steps(tokens: Any, gaps: Any, weight: int) -> None:
            iteration.observe_all(tokens)
            latency.observe_all(gaps, weight)

        self.engine.on_steps = on_steps
        self.engine.on_reject = self._queue_full
        late = self.metrics.histogram("thinkload_emulator_write_late_seconds")
        self.driver.on_late = late.observe
        setting = self.setting
        info = (
            setting.gpu_name,
            setting.serving.name,
            setting.model.name,
            setting.version.release,
            self.text.mode,
        )
        self.metrics.gauge("thinkload_emulated_info", 1, *info)
        self.metrics.gauge("thinkload_time_scale", setting.speed)
        self.metrics.describe_cache(self._cache_labels())

    def _cache_labels(self) -> dict[str, str]:
        serving, pool = self.setting.serving, self.engine.pool
        tokens = pool.total * pool.size
        return {
            "_block_size_resolved": "True", "block_size": str(pool.size), "cache_dtype": serving.kv_cache_dtype,
            "cache_hit_alignment_tokens": "None", "effective_attention_block_size": str(pool.size),
            "enable_mamba_shared_prefix_checkpoint": "False", "enable_prefix_caching": str(pool.caching),
            "gpu_memory_utilization": str(serving.gpu_memory_utilization), "hash_block_size": "None", "is_attention_free": "False",
            "kv_cache_dtype_skip_layers": "[]", "kv_cache_layout": "None", "kv_cache_max_concurrency": str(tokens / serving.max_model_len),
            "kv_cache_memory_bytes": "None", "kv_cache_size_tokens": str(tokens), "kv_offloading_backend": "native",
            "kv_offloading_size": "None", "kv_sharing_fast_prefill": "False", "mamba_block_size": "None", "mamba_cache_dtype": "auto",
            "mamba_cache_mode": "none", "mamba_page_size_padded": "None", "mamba_ssm_cache_dtype": "float32", "num_cpu_blocks": "None",
            "num_gpu_blocks": str(pool.total), "num_gpu_blocks_override": str(serving.num_gpu_blocks_override),
            "prefix_cache_retention_interval": "0", "prefix_caching_hash_algo": "sha256", "prefix_match_unit": "None",
            "replayssm_buffer_len": "16", "skip_page_size_padded": "None", "sliding_window": "None", "swa_bounded_replay": "True",
            "use_kda_recoverssm": "False", "use_replayssm": "False", "user_specified_block_size": str("block-size" in serving.raw),
        }  # fmt: skip

    @property
    def busy(self) -> bool:
        """Answers are under way."""
        return bool(self._of)

    # Routes

    def handle(self, exchange: Exchange) -> None:
        """Answer one exchange, now or later."""
        route = self._routes.get((exchange.method, exchange.path))
        if exchange.method == "HEAD":
            route = route or self._routes.get(("GET", exchange.path))
        keys = self.setting.serving.api_key
        guarded = keys and exchange.path.startswith("/v1") and exchange.method != "OPTIONS"
        if guarded and exchange.headers.get("authorization", "") not in {f"Bearer {key}" for key in keys}:
            self._respond(exchange, 401, b'{"error":"Unauthorized"}', [JSON], vary=False)
        elif route:
            try:
                route(exchange)
            except Refusal as refusal:
                self._json(exchange, refusal.code, refusal.body)
        elif exchange.method == "OPTIONS":
            self._respond(
                exchange,
                200,
                b"OK",
                [
                    ("content-type", "text/plain; charset=utf-8"),
                    ("access-control-allow-origin", "*"),
                    ("access-control-allow-methods", "*"),
                    ("access-control-allow-headers", "*"),
                ],
            )
        elif any(path == exchange.path for _, path in self._routes):
            self._json(
                exchange,
                405,
                {
                    "error": {
                        "message": "Method Not Allowed",
                        "type": "Method Not Allowed",
                        "param": None,
                        "code": 405,
                    }
                },
            )
        else:
            self._json(
                exchange,
                404,
                {"error": {"message": "Not Found", "type": "Not Found", "param": None, "code": 404}},
            )

    def _respond(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        headers: list[tuple[str, str]],
        *,
        vary: bool = True,
    ) -> None:
        exchange.answer(
            status,
            body,
            [
                *headers,
                *([VARY] if vary else []),
                ("x-thinkload-emulated", str(self.setting.speed)),
                *self._request_id(exchange),
            ],
        )
        self._count_http(exchange)

    def _request_id(self, exchange: Exchange) -> list[tuple[str, str]]:
        if not self.setting.serving.enable_request_id_headers:
            return []
        return [("x-request-id", exchange.headers.get("x-request-id") or secrets.token_hex(16))]

    def _json(self, exchange: Exchange, status: int, body: object) -> None:
        self._respond(exchange, status, encode(body), [JSON])

    def _count_http(self, exchange: Exchange) -> None:
        if exchange.path in UNCOUNTED:
            return
        known = any(path == exchange.path for _, path in self._routes)
        seconds = (time.perf_counter() - exchange.started_s) * self.setting.speed
        self.metrics.http(
            exchange.path if known else "none",
            exchange.method,
            exchange.status,
            seconds,
            (len(exchange.body), exchange.sent_bytes),
        )

    def _health(self, exchange: Exchange) -> None:
        self._respond(exchange, 503 if self.dead else 200, b"", [])

    def _version(self, exchange: Exchange) -> None:
        setting, tp = self.setting, self.setting.serving.tensor_parallel_size
        self._json(exchange, 200, {
            "version": setting.version.release, "emulated": True, "time_scale": setting.speed, "gpu": setting.gpu_name,
            "config": setting.serving.name, "model": self.names[0], "preset": setting.model.name, "num_gpus": tp,
            "tensor_parallel_size": tp, "speculation": "ngram" if setting.serving.speculation else None, "gpu_metrics": "/dcgm/metrics",
            "text": self.text.mode, "seed": setting.seed,
        })  # fmt: skip

    def _models(self) -> dict[str, Any]:
        def entry(name: str) -> dict[str, Any]:
            permission = {
                "id": f"modelperm-{secrets.token_hex(8)}", "object": "model_permission", "created": self.started, "allow_create_engine": False,
                "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False,
                "organization": "*", "group": None, "is_blocking": False,
            }  # fmt: skip
            return {
                "id": name, "object": "model", "created": self.started, "owned_by": "vllm", "root": self.setting.model.id, "parent": None,
                "max_model_len": self.setting.serving.max_model_len, "permission": [permission],
            }  # fmt: skip

        return {"object": "list", "data": [entry(name) for name in self.names]}

    def _metrics(self, exchange: Exchange) -> None:
        self._refresh()
        self._respond(
            exchange,
            200,
            self.metrics.render(),
            [("content-type", "text/plain; version=1.0.0; charset=utf-8")],
        )

    def _refresh(self) -> None:
        totals, engine, gauge = self.engine.totals, self.engine, self.metrics.gauge
        gauge("num_requests_running", len(engine.running))
        gauge("num_requests_waiting", len(engine.waiting))
        gauge("num_requests_waiting_by_reason", len(engine.waiting), "capacity")
        gauge("kv_cache_usage_perc", engine.pool.usage)
        gauge("prefix_cache_queries_total", totals.queried_tokens)
        gauge("prefix_cache_hits_total", totals.cached_tokens)
        gauge("num_preemptions_total", totals.preemptions)
        gauge("prompt_tokens_total", totals.prompt_tokens)
        gauge("prompt_tokens_by_source_total", totals.computed_prompt_tokens, "local_compute")
        cached = totals.prompt_tokens - totals.computed_prompt_tokens
        gauge("prompt_tokens_by_source_total", cached, "local_cache_hit")
        gauge("prompt_tokens_cached_total", cached)
        gauge("prompt_tokens_cached_by_source_total", cached, "device")
        gauge("generation_tokens_total", totals.generation_tokens)
        gauge("spec_decode_num_drafts_total", totals.drafts)
        gauge("spec_decode_num_draft_tokens_total", totals.draft_tokens)
        gauge("spec_decode_num_accepted_tokens_total", totals.accepted_tokens)
        for position, accepted in enumerate(totals.accepted_at):
            gauge("spec_decode_num_accepted_tokens_per_pos_total", accepted, str(position))
        gauge("thinkload_emulator_behind_seconds", self.driver.behind_s)
        gauge("thinkload_emulator_behind_max_seconds", self.driver.behind_max_s)
        gauge("thinkload_emulator_steps_total", totals.steps)

    def _dcgm(self, exchange: Exchange) -> None:
        now_s = self.clock.now_s()
        page = self.telemetry.render(now_s, self.engine.usage)
        self._respond(exchange, 200, page, [("content-type", "text/plain; version=0.0.4; charset=utf-8")])

    def _tokenize(self, exchange: Exchange) -> None:
        body = parse_json(bytes(exchange.body))
        if "messages" in body:
            text = self.tokenizer.render_chat(
                read_ask(body | {"stream": False}, chat=True).messages, self.setting.model.prompt
            )
        else:
            text = str(body.get("prompt") or "")
        ids = self.tokenizer.encode(text)
        strings = [self.tokenizer.decode([i]) for i in ids] if body.get("return_token_strs") else None
        self._json(
            exchange,
            200,
            {
                "count": len(ids),
                "max_model_len": self.setting.serving.max_model_len,
                "tokens": ids,
                "token_strs": strings,
            },
        )

    def _detokenize(self, exchange: Exchange) -> None:
        tokens = parse_json(bytes(exchange.body)).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise Refusal(
                "1 validation error:\n  {'type': 'list_type', 'loc': 'body.tokens', 'msg': 'Input should be a valid list'}",
                type_="Bad Request",
                param="body.tokens",
            )
        self._json(exchange, 200, {"prompt": self.tokenizer.decode(tokens)})

    def _reset_prefix_cache(self, exchange: Exchange) -> None:
        self.engine.pool.forget()
        self._respond(exchange, 200, b"", [])

    # Generations

    def _generate(self, exchange: Exchange, *, chat: bool) -> None:
        ask = read_ask(parse_json(bytes(exchange.body)), chat=chat)
        if self.dead:
            raise Refusal(DEAD, type_="InternalServerError", code=500)
        if ask.model and ask.model not in self.names:
            raise Refusal(
                f"The model `{ask.model}` does not exist. Valid aliases: {', '.join(self.names)}.",
                type_="NotFoundError",
                param="model",
                code=404,
            )
        if self.setting.serving.enable_force_include_usage and ask.stream:
            ask.include_usage = True
        texts, prompts = self._prompts(ask)
        for prompt in prompts:
            self._check_length(ask, len(prompt))
        fate = self.faults.fate(exchange.headers.get(HEADER))
        if fate.error:
            raise Refusal("Internal server error", type_="InternalServerError", code=500)
        if self._full(prompts[0]):
            raise Refusal(BUSY, type_="Service Unavailable", code=503)
        self._launch(exchange, ask, fate, texts, prompts)

    def _prompts(self, ask: Ask) -> tuple[list[str], list[list[int]]]:
        if ask.chat:
            text = self.tokenizer.render_chat(ask.messages, self.setting.model.prompt)
            return [text], [self.tokenizer.encode(text)]
        texts = [
            prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt) for prompt in ask.prompts
        ]
        ids = [
            self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
            for prompt in ask.prompts
        ]
        return texts, ids

    def _check_length(self, ask: Ask, prompt_tokens: int) -> None:
        limit = self.setting.serving.max_model_len
        if ask.max_tokens is not None and ask.max_tokens > limit:
            raise invalid(
                "max_tokens",
                ask.max_tokens,
                f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output tokens.",
            )
        if prompt_tokens < 1:
            raise Refusal("The decoder prompt cannot be empty", param="prompt")
        head = f"This model's maximum context length is {limit} tokens. However, "
        if prompt_tokens >= limit:
            seen = limit + 1  # vLLM stops tokenising there
            raise invalid(
                "input_tokens",
                seen,
                f"{head}your prompt contains at least {seen} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
            )
        if ask.max_tokens is not None and prompt_tokens + ask.max_tokens > limit:
            raise invalid(
                "input_tokens",
                prompt_tokens,
                f"{head}you requested {ask.max_tokens} output tokens and your prompt contains at least {prompt_tokens} input tokens, for a total of at least {prompt_tokens + ask.max_tokens} tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            )

    def _full(self, prompt: list[int]) -> bool:
        serving, waiting = self.setting.serving, self.engine.waiting
        if serving.max_num_queued_reqs is not None and len(waiting) >= serving.max_num_queued_reqs:
            self.metrics.reject("max_num_queued_reqs")
            return True
        if (
            serving.max_num_queued_tokens is not None
            and sum(s.prompt for s in waiting) + len(prompt) > serving.max_num_queued_tokens
        ):
            self.metrics.reject("max_num_queued_tokens")
            return True
        return False

    def _launch(
        self, exchange: Exchange, ask: Ask, fate: Fate, texts: list[str], prompts: list[list[int]]
    ) -> None:
        choices: list[Choice] = []
        for at, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            choices += [
                self._choice(ask, text, prompt, at * ask.n + sample, sample) for sample in range(ask.n)
            ]
        answer = Answer(ask, self.dialect, choices, prompts)
        answer.echo = lambda choice: texts[choice.index // ask.n]
        answer.token_text = lambda token: self.tokenizer.decode([token])
        answer.cached_tokens = lambda: sum(max(choice.stream.cached, 0) for choice in choices)
        answer.timings = lambda: self._timings(choices)
        generation = Generation(
            exchange, ask, answer, fate, midway=max(min(c.stream.end for c in choices) // 8, 4)
        )
        exchange.on_close = lambda: self._abort(generation)
        exchange.on_resume = lambda: self._resume(generation)
        if ask.stream:
            exchange.start(
                [EVENTS, VARY, ("x-thinkload-emulated", str(self.setting.speed)), *self._request_id(exchange)]
            )
        for choice in choices:
            self._of[choice.stream] = (generation, choice)
            self.driver.submit(choice.stream)

    def _choice(self, ask: Ask, text: str, prompt: list[int], index: int, sample: int) -> Choice:
        room = self.setting.serving.max_model_len - len(prompt)
        limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
        seed = None if ask.seed is None else ask.seed + sample
        if seed is None and self.text.mode != "trace":
            seed = self.setting.seed

        def reply_of(*, ignore_eos: bool) -> Reply:
            return self.text.reply(
                text, prompt, seed=seed, temperature=ask.temperature, reasoning_parser=self.dialect.reasoning_parser,
                thinking_token_budget=ask.thinking_token_budget, ignore_eos=ignore_eos,
            )  # fmt: skip

        reply = reply_of(ignore_eos=ask.ignore_eos)
        if ask.min_tokens and reply.grow(ask.min_tokens) <= ask.min_tokens and reply.ended:
            reply = reply_of(ignore_eos=True)
        stream = Stream(key="", ids=list(prompt), prompt=len(prompt), end=limit, salt=ask.cache_salt)
        decoder = self.tokenizer.decoder(skip_special_tokens=ask.skip_special_tokens)
        choice = Choice(
            index, stream, decoder, None, "length", None, think_start=self.tokenizer.id("<think>")
        )
        stream.grow = Source(reply, ask, limit, lambda: choice)
        return choice

    def _deliver(self, stream: Stream, count: int) -> None:
        """Tokens of one stream are due."""
        known = self._of.get(stream)
        if known is None:
            return
        generation, choice = known
        ended = generation.answer.take(choice, count)
        if ended:
            del self._of[stream]
            self.driver.abort(stream)  # a stop string ends it before the engine does
            self._count_answered(generation, choice)
        self._flush(generation, choice)

    def _flush(self, generation: Generation, choice: Choice) -> None:
        exchange, answer = generation.exchange, generation.answer
        if generation.fate.strikes and self._struck(generation, choice):
            return
        if generation.ask.stream:
            if exchange.blocked and not answer.done:
                return
            piece = answer.chunks(choice)
            if answer.done:
                self._end_stream(exchange, piece, answer.tail())
            elif piece:
                exchange.write(piece)
            return
        answer.collect(choice)
        if answer.done:
            self._json(exchange, 200, answer.body())

    def _end_stream(self, exchange: Exchange, piece: bytes, tail: bytes) -> None:
        if piece:
            exchange.write(piece)
        exchange.finish(tail)
        self._count_http(exchange)

    def _resume(self, generation: Generation) -> None:
        for choice in generation.answer.choices:
            if choice.seen > choice.sent and not generation.stalled:
                self._flush(generation, choice)

    def _abort(self, generation: Generation) -> None:
        for choice in generation.answer.choices:
            if self._of.pop(choice.stream, None):
                self.driver.abort(choice.stream)

    # What goes wrong

    def _struck(self, generation: Generation, choice: Choice) -> bool:
        """The request's fate, midway; True while nothing may be written."""
        fate = generation.fate
        if generation.stalled:
            return True
        if choice.seen < generation.midway and not generation.answer.done:
            return False
        if fate.cut:
            self._abort(generation)
            generation.exchange.cut()
            return True
        if fate.crash:
            self.die()
            return True
        generation.fate, generation.stalled = Fate(), True

        def wake() -> None:
            generation.stalled = False
            for one in generation.answer.choices:
                if one.seen > one.sent:
                    self._flush(generation, one)

        asyncio.get_running_loop().call_later(fate.stall_s / self.setting.speed, wake)
        return True

    def die(self) -> None:
        """The engine process dies: every stream ends in an error event, health says 503, the server exits."""
        self.dead = True
        generations = {generation for generation, _ in self._of.values()}
        for generation in generations:
            self._abort(generation)
            self._fail(generation, DEAD, "InternalServerError", 500)
        self.on_death()

    def _fail(self, generation: Generation, message: str, type_: str, code: int) -> None:
        exchange = generation.exchange
        exchange.keep_alive = False if code == 500 else exchange.keep_alive
        if generation.ask.stream:
            exchange.finish(error_event(message, type_, code))
            self._count_http(exchange)
        else:
            self._json(
                exchange, code, {"error": {"message": message, "type": type_, "param": None, "code": code}}
            )

    def _queue_full(self, stream: Stream) -> None:
        """A queue limit met inside the engine: requests raced past the check at the door."""
        generation, _ = self._of[stream]
        self.metrics.reject("max_num_queued_reqs")
        self._abort(generation)
        self._fail(generation, BUSY, "Service Unavailable", 503)

    # Counting

    def _count_answered(self, generation: Generation, choice: Choice) -> None:
        stream, metrics = choice.stream, self.metrics
        first_s, last_s = stream.first_s or 0.0, stream.last_s or 0.0
        scheduled_s = stream.scheduled_s or 0.0
        metrics.count("request_success_total", choice.finish)
        for name, value in (
            ("request_prompt_tokens", stream.prompt),
            ("request_generation_tokens", choice.seen),
            (
                "request_params_max_tokens",
                generation.ask.max_tokens or self.setting.serving.max_model_len - stream.prompt,
            ),
            ("request_prefill_kv_computed_tokens", stream.prompt - stream.cached),
            ("request_num_preemptions", stream.preemptions),
            ("time_to_first_token_seconds", first_s - stream.arrived_s),
            ("e2e_request_latency_seconds", last_s - stream.arrived_s),
            ("request_queue_time_seconds", scheduled_s - stream.queued_s),
            ("request_inference_time_seconds", last_s - scheduled_s),
            ("request_prefill_time_seconds", first_s - scheduled_s),
            ("request_decode_time_seconds", last_s - first_s),
        ):
            metrics.histogram(name).observe(value)
        if choice.seen > 1:
            metrics.histogram("request_time_per_output_token_seconds").observe(
                (last_s - first_s) / (choice.seen - 1)
            )
        if generation.answer.done:
            metrics.histogram("request_params_n").observe(generation.ask.n)
            metrics.histogram("request_max_num_generation_tokens").observe(
                max(c.seen for c in generation.answer.choices)
            )

    def _timings(self, choices: list[Choice]) -> dict[str, Any] | None:
        """Per-request metrics, where the server was asked for them; vLLM has none for n > 1."""
        serving, stream, seen = self.setting.serving, choices[0].stream, choices[0].seen
        if len(choices) > 1 or stream.first_s is None or stream.last_s is None:
            return None
        found: dict[str, Any] = {}
        if serving.enable_per_request_metrics:
            spent_s = stream.last_s - stream.first_s
            found = {
                "time_to_first_token_ms": (stream.first_s - (stream.scheduled_s or 0.0)) * 1e3,
                "generation_time_ms": spent_s * 1e3,
                "queue_time_ms": ((stream.scheduled_s or 0.0) - stream.queued_s) * 1e3,
                "mean_itl_ms": spent_s * 1e3 / (seen - 1) if seen > 1 else None,
                "tokens_per_second": seen / (stream.last_s - (stream.scheduled_s or 0.0)),
            }
        if self.step_model.speculates and serving.per_request_spec_decode_metrics != "none":
            detailed = serving.per_request_spec_decode_metrics == "detailed"
            found["speculative_decoding"] = _speculation(
                stream, self.step_model.draft_tokens, detailed=detailed
            )
        return found or None


def _speculation(stream: Stream, width: int, *, detailed: bool) -> dict[str, Any]:
    drafted, accepted = sum(stream.drafted), sum(stream.accepted)
    steps = len(stream.drafted)
    found: dict[str, Any] = {
        "mean_acceptance_length": 1 + accepted / steps if steps else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_histogram": [stream.accepted.count(length) for length in range(width + 1)],
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": width,
    }
    if detailed:
        found |= {"per_step_accepted": list(stream.accepted), "per_step_drafted": list(stream.drafted)}
    return found


def tokenizer_file(serving: Serving) -> Path:
    """The folder that `--tokenizer` names, as for vLLM, where it is here; else the emulator's own vocabulary."""
    file = Path(str(serving.raw.get("tokenizer") or "")) / "tokenizer.json"
    return file if file.is_file() else VOCABULARY


def read_problems(lines: list[bytes], where: str) -> list[dict[str, Any]]:
    """Rows of a JSONL dataset. Raises ValueError naming file and line."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{where}:{number}: no JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("problem"), str):
            raise ValueError(f"{where}:{number}: lacks `problem`")  # noqa: TRY004 - one error for a bad line
        rows.append(row)
    return rows
