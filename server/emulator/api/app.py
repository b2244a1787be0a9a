"""The routes of the emulated server. All answer immediately, except generation requests (generation.py).

Rules: every response has a header that marks it as emulated. This module does not know how text is generated or steps
are timed.
"""

import secrets
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.config import Model, Serving
from server.emulator.api.admission import check_model
from server.emulator.api.faults import FaultInjector
from server.emulator.api.generation import JSON, VARY, Generations
from server.emulator.api.http import HttpExchange
from server.emulator.api.metrics_catalogue import Catalogue
from server.emulator.api.metrics_recorder import MetricsRecorder
from server.emulator.api.request_body import RequestError, parse_json, read_messages, validation_error
from server.emulator.api.response import Dialect
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import EngineVersion, Gpu
from server.emulator.engine.realtime import EngineClock, RealtimeEngine
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.step_time import GIB, StepModel
from server.emulator.text.model import TextModel
from server.emulator.text.problems import KnownProblem
from server.emulator.text.tokenizer import VOCABULARY, Tokenizer

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
ENGINE_DEAD_SINCE_33 = "The server had an error while processing your request."
UNREADABLE_BODY = "There was an error parsing the body"
"""FastAPI's message for a body whose parser fails other than by invalid JSON."""
METRICS_TYPE = "text/plain; version={}; charset=utf-8"
GUARDED = ("/v1", "/v2", "/inference")
"""Beginnings of the paths for which vLLM requires `--api-key`."""
CORS = [(f"access-control-allow-{what}", "*") for what in ("origin", "methods", "headers")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """What is emulated: configuration, model, GPU and engine version, and at which speed."""

    serving: Serving
    model: Model
    gpu_name: str
    gpu: Gpu
    version: EngineVersion
    seed: int = 0
    speed: float = 1.0
    text: str = "trace"

    def dialect(self) -> Dialect:
        """The response format of this release and these options. The fingerprint contains `emulated`."""
        serving, version, tp = self.serving, self.version, self.serving.tensor_parallel_size
        parser = serving.reasoning_parser if serving.reasoning_parser is not None else self.model.reasoning_parser
        return Dialect(
            model=(serving.served_model_name or (self.model.id,))[0],
            fingerprint=f"vllm-{version.release}{f'-tp{tp}' if tp > 1 else ''}-emulated",
            reasoning_parser=parser not in {None, "", "none"},
            reasoning_key="reasoning_content" if version.v0 else "reasoning",
            usage_details=version.since("0.32"),
            prompt_details=serving.enable_prompt_tokens_details,
            stream_interval=serving.stream_interval,
            null_usage=version.v0,
            null_fields=version.since("0.33"),
            engine_dead_text=ENGINE_DEAD_SINCE_33 if version.since("0.33") else ENGINE_DEAD,
        )


class EmulatorApp:
    """One emulated server. It needs a running event loop."""

    def __init__(self, settings: EmulatorSettings, problems: list[KnownProblem], faults: FaultInjector) -> None:
        serving, model = settings.serving, settings.model
        self.settings = settings
        self.tokenizer = Tokenizer(tokenizer_file(serving))
        self.text = TextModel(model.behaviour, problems, self.tokenizer, settings.text)
        step_model = StepModel(model, serving, settings.gpu, settings.version)
        api_queue = ApiQueue(settings.version)
        engine = Engine(step_model, serving, api_queue)
        self.realtime = RealtimeEngine(engine, api_queue, EngineClock(settings.speed))
        self.telemetry = Telemetry(
            settings.gpu,
            serving.tensor_parallel_size,
            used_bytes=settings.gpu.memory_gib * serving.gpu_memory_utilization * GIB,
            seed=settings.seed,
        )
        self.realtime.on_tick = lambda now_s: self.telemetry.record(now_s, engine.usage)
        self._started = int(time.time())
        self._headers = [("x-thinkload-emulated", str(settings.speed))]
        self._routes = self._route_table()
        self.metrics = self._metrics_recorder(step_model.draft_tokens)
        self.generations = Generations(
            serving,
            model,
            realtime=self.realtime,
            text=self.text,
            dialect=settings.dialect(),
            faults=faults,
            metrics=self.metrics,
            headers=self._headers,
        )

    def _metrics_recorder(self, draft_tokens: int) -> MetricsRecorder:
        settings, serving = self.settings, self.settings.serving
        catalogue = Catalogue(settings.dialect().model, settings.version, serving.max_model_len, draft_tokens)
        info = (settings.gpu_name, serving.name, settings.model.name, settings.version.release, self.text.mode)
        catalogue.gauge("thinkload_emulated_info", 1, *info)
        return MetricsRecorder(catalogue, serving, self.realtime, {path for _, path in self._routes})

    def _route_table(self) -> dict[tuple[str, str], Callable[[HttpExchange], None]]:
        return {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): lambda exchange: self._json(exchange, self._version()),
            ("GET", "/load"): lambda exchange: self._json(exchange, {"server_load": self._load()}),
            ("GET", "/metrics"): lambda exchange: self._page(exchange, self.metrics.render(), "1.0.0"),
            ("GET", "/dcgm/metrics"): lambda exchange: self._page(exchange, self._dcgm(), "0.0.4"),
            ("GET", "/v1/models"): lambda exchange: self._json(exchange, self._models()),
            ("POST", "/v1/chat/completions"): lambda exchange: self.generations.begin(exchange, chat=True),
            ("POST", "/v1/completions"): lambda exchange: self.generations.begin(exchange, chat=False),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
        }

    def handle(self, exchange: HttpExchange) -> None:
        """Answer one request, immediately or later."""
        route = self._routes.get((exchange.method, exchange.path))
        if route is None and exchange.method == "HEAD":
            route = self._routes.get(("GET", exchange.path))
        if not self._allowed(exchange):
            exchange.answer(401, b'{"error":"Unauthorized"}', [JSON, *self._headers])
            self.metrics.exchange(exchange)
        elif route:
            self._answer(route, exchange)
        else:
            self._no_route(exchange)

    def _answer(self, route: Callable[[HttpExchange], None], exchange: HttpExchange) -> None:
        try:
            route(exchange)
        except RequestError as error:
            refused = error
        except RecursionError:  # lists and objects in more than about 1,000 levels
            refused = RequestError(UNREADABLE_BODY, type_="Bad Request")
        except Exception as error:  # noqa: BLE001 - a defect must fail one response only, not the connection's parser
            traceback.print_exc()
            refused = RequestError(f"{type(error).__name__}: {error}", type_="InternalServerError", code=500)
        else:
            return
        self.generations.respond(exchange, refused.code, refused.body)

    def _allowed(self, exchange: HttpExchange) -> bool:
        keys = self.settings.serving.api_key
        if not keys or not exchange.path.startswith(GUARDED) or exchange.method == "OPTIONS":
            return True
        scheme, _, given = exchange.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and given in keys

    def _no_route(self, exchange: HttpExchange) -> None:
        if exchange.method == "OPTIONS":
            exchange.answer(200, b"OK", [("content-type", "text/plain; charset=utf-8"), *CORS, *self._headers])
            self.metrics.exchange(exchange)
            return
        known = any(path == exchange.path for _, path in self._routes)
        status, text = (405, "Method Not Allowed") if known else (404, "Not Found")
        self.generations.respond(exchange, status, {"detail": text})

    def _json(self, exchange: HttpExchange, body: object) -> None:
        self.generations.respond(exchange, 200, body)

    def _page(self, exchange: HttpExchange, page: bytes, version: str) -> None:
        exchange.answer(200, page, [("content-type", METRICS_TYPE.format(version)), *self._headers])

    def _health(self, exchange: HttpExchange) -> None:
        exchange.answer(503 if self.generations.engine_dead else 200, b"", [VARY, *self._headers])

    def _load(self) -> int:
        return len(self.generations) if self.settings.serving.enable_server_load_tracking else 0

    def _version(self) -> dict[str, Any]:
        settings, tp = self.settings, self.settings.serving.tensor_parallel_size
        speculation = settings.serving.speculation
        return {
            "version": settings.version.release,
            "emulated": True,
            "time_scale": settings.speed,
            "gpu": settings.gpu_name,
            "config": settings.serving.name,
            "model": self.generations.names[0],
            "preset": settings.model.name,
            "num_gpus": tp,
            "tensor_parallel_size": tp,
            **(speculation.described() if speculation else {"speculation": None}),
            "gpu_metrics": "/dcgm/metrics",
            "text": self.text.mode,
            "seed": settings.seed,
        }

    def _models(self) -> dict[str, Any]:
        refused = ("create_engine", "search_indices", "fine_tuning")
        order = ("create_engine", "sampling", "logprobs", "search_indices", "view", "fine_tuning")
        allowed = {f"allow_{what}": what not in refused for what in order}

        def entry(name: str) -> dict[str, Any]:
            id_ = f"modelperm-{secrets.token_hex(8)}"
            permission = {"id": id_, "object": "model_permission", "created": self._started, **allowed}
            return {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "vllm",
                "root": self.settings.model.id,
                "parent": None,
                "max_model_len": self.settings.serving.max_model_len,
                "permission": [permission | {"organization": "*", "group": None, "is_blocking": False}],
            }

        return {"object": "list", "data": [entry(name) for name in self.generations.names]}

    def _dcgm(self) -> bytes:
        return self.telemetry.render(self.realtime.clock.now_s(), self.realtime.engine.usage)

    def _tokenize(self, exchange: HttpExchange) -> None:
        body = parse_json(bytes(exchange.body))
        check_model(str(body.get("model") or ""), self.generations.names)
        text = body.get("prompt")
        if "messages" in body:
            text = self.tokenizer.render_chat(read_messages(body), self.settings.model.prompt)
        if not isinstance(text, str):
            raise validation_error("missing", "body.prompt", "Field required", body)
        ids = self.tokenizer.encode(text)
        strings = [self.tokenizer.decode([i]) for i in ids] if body.get("return_token_strs") else None
        limit = self.settings.serving.max_model_len
        self._json(exchange, {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings})

    def _detokenize(self, exchange: HttpExchange) -> None:
        body = parse_json(bytes(exchange.body))
        if "tokens" not in body:
            raise validation_error("missing", "body.tokens", "Field required", body)
        tokens = body["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise validation_error("list_type", "body.tokens", "Input should be a valid list", tokens)
        try:
            text = self.tokenizer.decode(tokens)
        except OverflowError as error:  # an id is negative or has more than 32 bits
            raise RequestError(f"1 validation error:\n  {{'msg': '{error}'}}", type_="Bad Request") from error
        self._json(exchange, {"prompt": text})

    def _reset_prefix_cache(self, exchange: HttpExchange) -> None:
        self.realtime.engine.pool.reset_prefixes()
        exchange.answer(200, b"", self._headers)


def tokenizer_file(serving: Serving) -> Path:
    """The tokenizer.json in the folder that `--tokenizer` names, if it exists; otherwise the emulator's own vocabulary."""
    file = Path(str(serving.raw.get("tokenizer") or "")) / "tokenizer.json"
    return file if file.is_file() else VOCABULARY
