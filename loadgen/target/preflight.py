"""What is settled before the first request: that the server is there, who it is, and that it can do what was asked.

Rules: everything that can be refused is refused here, as one line; no prompt is sent, save the probe that `native`
budgets need. What a server does not say stays None: nothing is guessed that would look measured.

Does not know: how load is made. An emulated server says so at /version and in every response's header.
"""

import dataclasses
import re
import time
from typing import Any
from urllib.parse import urlsplit

from loadgen.errors import UsageError
from loadgen.exchange import THINK_END
from loadgen.options import RunOptions
from loadgen.plan.workload import Workload
from loadgen.target.control_api import ControlApi, ControlResponse
from loadgen.target.server_info import ServerInfo


def inspect(options: RunOptions, ask: ControlApi) -> ServerInfo:
    """Ask the server who it is; options that name its parts win. Raises UsageError."""
    check_url(options.target)
    row = _model(options, ask)
    if options.gpu_metrics:
        _check_telemetry(options.gpu_metrics, ask)
    said = ask.get(f"{ask.root}/version").json()
    said = said if isinstance(said, dict) else {}
    metrics = ask.get(f"{ask.root}/metrics")
    gpu_metrics = options.gpu_metrics or said.get("gpu_metrics")
    server = ServerInfo(
        model=row["id"],
        max_model_len=row.get("max_model_len"),
        version=said.get("version"),
        emulated=bool(said.get("emulated")),
        simulated=bool(said.get("simulated")),
        time_scale=float(said.get("time_scale") or 1.0),
        gpu=options.gpu or said.get("gpu"),
        config=options.config_name or said.get("config"),
        preset=options.preset or said.get("preset"),
        num_gpus=options.num_gpus or said.get("num_gpus"),
        tensor_parallel_size=options.tensor_parallel_size or said.get("tensor_parallel_size"),
        speculation=_none(options.speculation or said.get("speculation") or _speculates(metrics)),
        gpu_metrics=f"{ask.root}{gpu_metrics}" if (gpu_metrics or "").startswith("/") else gpu_metrics,
        metrics=metrics.status == 200 and b"# TYPE vllm:" in metrics.body,
    )
    check_lengths(options, server)
    return server


def check_url(target: str) -> None:
    """Refuse what is no HTTP URL."""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--target {target!r} is no http(s) URL: write e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UsageError("--target must hold no user or password: use --header or --api-key-env")


def _model(options: RunOptions, ask: ControlApi) -> dict[str, Any]:
    """The served model's row, checked against --model."""
    answer = ask.get(f"{ask.target}/models")
    if not answer.reached or (answer.status is None and options.model is None):
        raise UsageError(
            f"no server at {ask.target} ({answer.error}): start one (python -m server emulate tp1) or say --target"
        )
    if answer.status in (401, 403) and options.api_key_env is None:
        raise UsageError(
            f"{ask.target} wants a key (HTTP {answer.status}): name its variable by --api-key-env NAME"
        )
    if answer.status in (401, 403) and options.model is None:
        raise UsageError(f"{ask.target} refuses the key in {options.api_key_env} (HTTP {answer.status})")
    if answer.status == 503 and options.model is None:
        raise UsageError(f"{ask.target} is not ready (HTTP 503): wait for its /health")
    listed = answer.json()
    rows = listed.get("data") if isinstance(listed, dict) else None
    rows = [row for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    if not rows:
        return _unlisted(options, ask, answer.status)
    found = [row for row in rows if options.model in (None, row["id"])]
    if not found:
        names = ", ".join(row["id"] for row in rows[:5])
        raise UsageError(f"--model {options.model!r} is not served at {ask.target}: it serves {names}")
    return dict(found[0])


def _check_telemetry(url: str, ask: ControlApi) -> None:
    """Refuse an exporter that does not answer: without it a run would have no energy, and nobody would know why."""
    deadline_s = time.monotonic() + TELEMETRY_PATIENCE_S
    while (answer := ask.get(url)).status != 200:
        if time.monotonic() > deadline_s:
            why = answer.error or f"HTTP {answer.status}"
            raise UsageError(f"--gpu-metrics {url}: {why}: start the exporter, or leave the option out")
        time.sleep(0.25)


def _unlisted(options: RunOptions, ask: ControlApi, status: int | None) -> dict[str, Any]:
    """A server that lists no models, for whatever reason, is taken at the operator's word."""
    if options.model is None:
        raise UsageError(
            f"{ask.target}/models lists no model (HTTP {status}): does --target end with /v1? else say --model"
        )
    return {"id": options.model}


def check_lengths(options: RunOptions, server: ServerInfo) -> None:
    """Refuse a budget that the server would refuse for every prompt."""
    extra = 0 if options.budget_mode == "cut" else options.answer_tokens
    most = max(options.budgets) + extra
    if server.max_model_len is not None and most >= server.max_model_len:
        beyond = f" + {extra} for the answer" if extra else ""
        raise UsageError(
            f"budget {max(options.budgets)}{beyond} leaves no room for a prompt in {server.model}'s "
            f"{server.max_model_len} tokens (max_model_len): give smaller --budgets"
        )


def identify(options: RunOptions, server: ServerInfo, ask: ControlApi) -> ServerInfo:
    """Tensor parallelism as a real vLLM's `system_fingerprint` tells it (`vllm-0.32.0-tp2-1a2b3c4d`), by one token.

    Only where nobody has said it yet; a server without a fingerprint stays as unknown as it was.
    """
    if server.tensor_parallel_size is not None or not server.metrics:
        return server
    body = {"model": server.model, "messages": [{"role": "user", "content": "1+1?"}], "max_tokens": 1}
    reply = ask.post(f"{ask.target}/chat/completions", body | options.extra_body, timeout_s=10).json()
    return with_fingerprint(server, reply.get("system_fingerprint") if isinstance(reply, dict) else None)


def with_fingerprint(server: ServerInfo, fingerprint: str | None) -> ServerInfo:
    """What a fingerprint says of the server."""
    if fingerprint is None or not fingerprint.startswith("vllm-"):
        return server
    match = re.search(r"-tp(\d+)\b", fingerprint)
    size = int(match[1]) if match else 1
    return dataclasses.replace(server, tensor_parallel_size=size, fingerprint=fingerprint)


def _speculates(metrics: ControlResponse) -> str | None:
    """A real vLLM has these metrics only where it speculates; by which method it does not say."""
    return "unnamed" if b"vllm:spec_decode_num_drafts" in metrics.body else None


def _none(speculation: str | None) -> str | None:
    return None if speculation in (None, "", "none") else speculation


TELEMETRY_PATIENCE_S = 3.0
"""A sweep's own exporter has only just been started."""
PROBE_BUDGET, PROBE_TOKENS = 16, 160
"""No model that reasons ends by itself within 16 tokens, and after a budget of 16 that is kept 144 are answer."""


def check_mode(options: RunOptions, workload: Workload, ask: ControlApi) -> None:
    """Refuse what the server can't do: a native budget it ignores, a cache it will not reset. Raises UsageError."""
    if options.budget_mode == "native":
        _probe_native(workload, ask)
    if options.cache == "reset" and not options.dry_run:
        answer = ask.post(f"{ask.root}/reset_prefix_cache")
        if answer.status != 200:
            raise UsageError(
                f"--cache reset: {ask.root}/reset_prefix_cache answers {answer.status or answer.error} "
                "(vLLM needs VLLM_SERVER_DEV_MODE=1): use --cache salt"
            )


def _probe_native(workload: Workload, ask: ControlApi) -> None:
    request = next(workload.requests(0, 1))
    body = request.body | {
        "stream": False,
        "max_tokens": PROBE_TOKENS,
        "thinking_token_budget": PROBE_BUDGET,
        "temperature": 0.0,
    }
    del body["stream_options"]
    answer = ask.post(f"{ask.target}{request.path}", body, timeout_s=120)
    if (reason := native_refusal(answer)) is not None:
        raise UsageError(f"--budget-mode native: {reason}: use --budget-mode forced or cut")


def native_refusal(answer: ControlResponse) -> str | None:
    """Why a reply to the probe shows that the thinking budget is not kept; None where it is."""
    reply = answer.json()
    if reply is None:
        return f"the probe was answered {answer.status or answer.error} {answer.body[:120].decode(errors='replace')}".strip()
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice.get("message") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        return "the probe's reply is no completion"
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if isinstance(thought, int) and thought > 2 * PROBE_BUDGET:
        return f"the server ignores thinking_token_budget (asked for {PROBE_BUDGET}, it thought for {thought} tokens)"
    text = message.get("content") or ""
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    ended = bool(text.strip()) if reasoning else THINK_END in text
    if choice.get("finish_reason") == "length" and not ended:
        return f"the server ignores thinking_token_budget ({PROBE_TOKENS} tokens at a budget of {PROBE_BUDGET}, still thinking)"
    return None
