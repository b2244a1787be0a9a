"""The server's routes. Everything answers at once but generations, which generation.py keeps.

Rules: no answer without the header that says `emulated`.
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
from server.emulator.api.faults import Faults
from server.emulator.api.generation import JSON, VARY, Generations
from server.emulator.api.http import HttpExchange
from server.emulator.api.metrics_catalogue import Catalogue
from server.emulator.api.metrics_recorder import Counting
from server.emulator.api.request_body import Refusal, mistyped, parse_json, read_messages
from server.emulator.api.response import Dialect
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import EngineVersion, Gpu
from server.emulator.engine.realtime import Driver, EngineClock
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.step_time import GIB, StepModel
from server.emulator.text.model import TextModel
from server.emulator.text.tokenizer import VOCABULARY, Tokenizer

EXPOSITION = "text/plain; version={}; charset=utf-8"
CORS = [(f"access-control-allow-{what}", "*") for what in ("origin", "methods", "headers")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """What is emulated."""

    serving: Serving
    model: Model
    gpu_name: str
    gpu: Gpu
    version: EngineVersion
    seed: int = 0
    speed: float = 1.0
    text: str = "trace"

    def dialect(self) -> Dialect:
        """How this release and these flags write answers. The fingerprint's hash says `emulated`."""
        serving, release = self.serving, self.version.release
        tp = serving.tensor_parallel_size
        parser = (
            serving.reasoning_parser if serving.reasoning_parser is not None else self.model.reasoning_parser
        )
        return Dialect(
            model=(serving.served_model_name or (self.model.id,))[0],
            fingerprint=f"vllm-{release}{f'-tp{tp}' if tp > 1 else ''}-emulated",
            reasoning_parser=parser not in {None, "", "none"},
            reasoning_key="reasoning_content" if release.startswith("0.7") else "reasoning",
            usage_details=not release.startswith(("0.26", "0.7")),
            prompt_details=serving.enable_prompt_tokens_details,
            stream_interval=serving.stream_interval,
            null_usage=release.startswith("0.7"),
        )


class EmulatorApp:
    """One emulated server. Needs a running event loop."""

    def __init__(self, setting: EmulatorSettings, problems: list[dict[str, Any]], faults: Faults) -> None:
        serving, model = setting.serving, setting.model
        self.setting = setting
        self.tokenizer = Tokenizer(tokenizer_file(serving))
        self.text = TextModel(model.behaviour, problems, self.tokenizer, setting.text)
        step_model = StepModel(model, serving, setting.gpu, setting.version)
        engine = Engine(step_model, serving)
        self.driver = Driver(engine, ApiQueue(setting.version), EngineClock(setting.speed))
        self.telemetry = Telemetry(
            setting.gpu,
            serving.tensor_parallel_size,
            used_bytes=setting.gpu.memory_gib * serving.gpu_memory_utilization * GIB,
            seed=setting.seed,
        )
        self.driver.on_tick = lambda now_s: self.telemetry.note(now_s, engine.usage)
        self._started = int(time.time())
        self._headers = [("x-thinkload-emulated", str(setting.speed))]
        self._routes = self._routing()
        self.counting = self._counting(step_model.draft_tokens)
        self.generations = Generations(
            serving,
            model,
            driver=self.driver,
            text=self.text,
            tokenizer=self.tokenizer,
            dialect=setting.dialect(),
            faults=faults,
            counting=self.counting,
            headers=self._headers,
        )

    def _counting(self, draft_tokens: int) -> Counting:
        setting, serving = self.setting, self.setting.serving
        release, name = setting.version.release, setting.dialect().model
        catalogue = Catalogue(name, release, serving.max_model_len, draft_tokens)
        info = (setting.gpu_name, serving.name, setting.model.name, release, self.text.mode)
        catalogue.gauge("thinkload_emulated_info", 1, *info)
        return Counting(catalogue, serving, self.driver, {path for _, path in self._routes})

    def _routing(self) -> dict[tuple[str, str], Callable[[HttpExchange], None]]:
        return {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): lambda exchange: self._json(exchange, self._version()),
            ("GET", "/load"): lambda exchange: self._json(exchange, {"server_load": self._load()}),
            ("GET", "/metrics"): lambda exchange: self._page(exchange, self.counting.render(), "1.0.0"),
            ("GET", "/dcgm/metrics"): lambda exchange: self._page(exchange, self._dcgm(), "0.0.4"),
            ("GET", "/v1/models"): lambda exchange: self._json(exchange, self._models()),
            ("POST", "/v1/chat/completions"): lambda exchange: self.generations.begin(exchange, chat=True),
            ("POST", "/v1/completions"): lambda exchange: self.generations.begin(exchange, chat=False),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
        }

    def handle(self, exchange: HttpExchange) -> None:
        """Answer one exchange, now or later."""
        route = self._routes.get((exchange.method, exchange.path))
        if route is None and exchange.method == "HEAD":
            route = self._routes.get(("GET", exchange.path))
        if not self._allowed(exchange):
            exchange.answer(401, b'{"error":"Unauthorized"}', [JSON, *self._headers])
            self.counting.http(exchange)
        elif route:
            self._answer(route, exchange)
        else:
            self._unrouted(exchange)

    def _answer(self, route: Callable[[HttpExchange], None], exchange: HttpExchange) -> None:
        try:
            route(exchange)
        except Refusal as refusal:
            self.generations.respond(exchange, refusal.code, refusal.body)
        except Exception as error:  # noqa: BLE001 - a mistake of ours spoils one answer, not the connection's parser
            traceback.print_exc()
            fault = Refusal(f"{type(error).__name__}: {error}", type_="InternalServerError", code=500)
            self.generations.respond(exchange, fault.code, fault.body)

    def _allowed(self, exchange: HttpExchange) -> bool:
        keys = self.setting.serving.api_key
        if not keys or not exchange.path.startswith("/v1") or exchange.method == "OPTIONS":
            return True
        return exchange.headers.get("authorization", "") in {f"Bearer {key}" for key in keys}

    def _unrouted(self, exchange: HttpExchange) -> None:
        if exchange.method == "OPTIONS":
            exchange.answer(
                200, b"OK", [("content-type", "text/plain; charset=utf-8"), *CORS, *self._headers]
            )
            self.counting.http(exchange)
            return
        known = any(path == exchange.path for _, path in self._routes)
        status, text = (405, "Method Not Allowed") if known else (404, "Not Found")
        self.generations.respond(exchange, status, {"detail": text})

    def _json(self, exchange: HttpExchange, body: object) -> None:
        self.generations.respond(exchange, 200, body)

    def _page(self, exchange: HttpExchange, page: bytes, version: str) -> None:
        exchange.answer(200, page, [("content-type", EXPOSITION.format(version)), *self._headers])

    def _health(self, exchange: HttpExchange) -> None:
        exchange.answer(503 if self.generations.dead else 200, b"", [VARY, *self._headers])

    def _load(self) -> int:
        return len(self.generations) if self.setting.serving.enable_server_load_tracking else 0

    def _version(self) -> dict[str, Any]:
        setting, tp = self.setting, self.setting.serving.tensor_parallel_size
        return {
            "version": setting.version.release,
            "emulated": True,
            "time_scale": setting.speed,
            "gpu": setting.gpu_name,
            "config": setting.serving.name,
            "model": self.generations.names[0],
            "preset": setting.model.name,
            "num_gpus": tp,
            "tensor_parallel_size": tp,
            "speculation": "ngram" if setting.serving.speculation else None,
            "gpu_metrics": "/dcgm/metrics",
            "text": self.text.mode,
            "seed": setting.seed,
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
                "root": self.setting.model.id,
                "parent": None,
                "max_model_len": self.setting.serving.max_model_len,
                "permission": [permission | {"organization": "*", "group": None, "is_blocking": False}],
            }

        return {"object": "list", "data": [entry(name) for name in self.generations.names]}

    def _dcgm(self) -> bytes:
        return self.telemetry.render(self.driver.clock.now_s(), self.driver.engine.usage)

    def _tokenize(self, exchange: HttpExchange) -> None:
        body = parse_json(bytes(exchange.body))
        check_model(str(body.get("model") or ""), self.generations.names)
        text = body.get("prompt")
        if "messages" in body:
            text = self.tokenizer.render_chat(read_messages(body), self.setting.model.prompt)
        if not isinstance(text, str):
            raise mistyped("missing", "body.prompt", "Field required", body)
        ids = self.tokenizer.encode(text)
        strings = [self.tokenizer.decode([i]) for i in ids] if body.get("return_token_strs") else None
        limit = self.setting.serving.max_model_len
        self._json(
            exchange, {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings}
        )

    def _detokenize(self, exchange: HttpExchange) -> None:
        body = parse_json(bytes(exchange.body))
        if "tokens" not in body:
            raise mistyped("missing", "body.tokens", "Field required", body)
        tokens = body["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise mistyped("list_type", "body.tokens", "Input should be a valid list", tokens)
        self._json(exchange, {"prompt": self.tokenizer.decode(tokens)})

    def _reset_prefix_cache(self, exchange: HttpExchange) -> None:
        self.driver.engine.pool.forget()
        exchange.answer(200, b"", self._headers)


def tokenizer_file(serving: Serving) -> Path:
    """The folder that `--tokenizer` names, as for vLLM, where it is here; else the emulator's own vocabulary."""
    file = Path(str(serving.raw.get("tokenizer") or "")) / "tokenizer.json"
    return file if file.is_file() else VOCABULARY
