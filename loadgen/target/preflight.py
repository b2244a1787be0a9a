"""Checks before the first request: that the server answers, which server it is, and that it can do what was asked.

Whatever can be refused is refused here, with one line. No prompt is sent, except the probe that `native` budgets need and
one token to identify a vLLM. What a server does not report stays None: nothing is guessed that would look measured. An
emulated server says so at /version.

This module does not know how the load is generated.
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

TELEMETRY_WAIT_S = 3.0
"""How long to wait for a telemetry exporter. A sweep starts its own exporter just before the run."""
PROBE_BUDGET, PROBE_TOKENS = 16, 160
"""Of a probe with a thinking budget of 16 tokens, at most 16 are reasoning where the budget is kept, so that at least 144 are
left for the answer. No reasoning model ends its reasoning within 16 tokens by itself."""


def inspect(options: RunOptions, api: ControlApi) -> ServerInfo:
    """Return the description of the server; options take precedence over what it reports. Raises UsageError."""
    check_url(options.target)
    model = _model(options, api)
    if options.gpu_metrics:
        _check_telemetry(options.gpu_metrics, api)
    version = api.get(f"{api.root}/version").json()
    reported = version if isinstance(version, dict) else {}
    metrics = api.get(f"{api.root}/metrics")
    gpu_metrics = options.gpu_metrics or reported.get("gpu_metrics")
    server = ServerInfo(
        model=model["id"],
        max_model_len=model.get("max_model_len"),
        version=reported.get("version"),
        emulated=bool(reported.get("emulated")),
        simulated=bool(reported.get("simulated")),
        time_scale=float(reported.get("time_scale") or 1.0),
        gpu=options.gpu or reported.get("gpu"),
        config=options.config_name or reported.get("config"),
        preset=options.preset or reported.get("preset"),
        num_gpus=options.num_gpus or reported.get("num_gpus"),
        tensor_parallel_size=options.tensor_parallel_size or reported.get("tensor_parallel_size"),
        speculation=_without_none(
            options.speculation or reported.get("speculation") or _speculation(metrics)
        ),
        gpu_metrics=f"{api.root}{gpu_metrics}" if (gpu_metrics or "").startswith("/") else gpu_metrics,
        metrics=metrics.status == 200 and b"# TYPE vllm:" in metrics.body,
    )
    check_lengths(options, server)
    return server


def check_url(target: str) -> None:
    """Raise UsageError where the target is not an HTTP URL."""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--target {target!r} is not an http(s) URL: write e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise UsageError("--target must hold no user or password: use --header or --api-key-env")


def _model(options: RunOptions, api: ControlApi) -> dict[str, Any]:
    """Return the entry of the model in the list of served models, checked against --model."""
    response = api.get(f"{api.target}/models")
    if not response.reached or (response.status is None and options.model is None):
        raise UsageError(
            f"no server at {api.target} ({response.error}): start one (python -m server emulate tp1) or give --target"
        )
    if response.status in (401, 403) and options.api_key_env is None:
        raise UsageError(
            f"{api.target} requires a key (HTTP {response.status}): name the variable that holds it with --api-key-env NAME"
        )
    if response.status in (401, 403) and options.model is None:
        raise UsageError(f"{api.target} rejects the key in {options.api_key_env} (HTTP {response.status})")
    if response.status == 503 and options.model is None:
        raise UsageError(f"{api.target} is not ready (HTTP 503): wait until its /health answers")
    listed = response.json()
    rows = listed.get("data") if isinstance(listed, dict) else None
    rows = [row for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    if not rows:
        return _unlisted(options, api, response.status)
    found = [row for row in rows if options.model in (None, row["id"])]
    if not found:
        names = ", ".join(row["id"] for row in rows[:5])
        raise UsageError(f"--model {options.model!r} is not served at {api.target}: it serves {names}")
    return dict(found[0])


def _check_telemetry(url: str, api: ControlApi) -> None:
    """Raise UsageError where the telemetry exporter does not answer: the run would have no energy figures and not say why."""
    deadline_s = time.monotonic() + TELEMETRY_WAIT_S
    while (response := api.get(url)).status != 200:
        if time.monotonic() > deadline_s:
            why = response.error or f"HTTP {response.status}"
            raise UsageError(f"--gpu-metrics {url}: {why}: start the exporter, or leave the option out")
        time.sleep(0.25)


def _unlisted(options: RunOptions, api: ControlApi, status: int | None) -> dict[str, Any]:
    """Return the entry for --model, which is trusted where the server lists no models. Raises UsageError without it."""
    if options.model is None:
        raise UsageError(
            f"{api.target}/models lists no model (HTTP {status}): check that --target ends with /v1, or give --model"
        )
    return {"id": options.model}


def check_lengths(options: RunOptions, server: ServerInfo) -> None:
    """Raise UsageError where a budget is too large for the server's context, whatever the prompt."""
    extra = 0 if options.budget_mode == "cut" else options.answer_tokens
    longest = max(options.budgets) + extra
    if server.max_model_len is not None and longest >= server.max_model_len:
        beyond = f" + {extra} for the answer" if extra else ""
        raise UsageError(
            f"budget {max(options.budgets)}{beyond} leaves no room for a prompt in {server.model}'s "
            f"{server.max_model_len} tokens (max_model_len): give smaller --budgets"
        )


def identify(options: RunOptions, server: ServerInfo, api: ControlApi) -> ServerInfo:
    """Add the tensor parallel size from the `system_fingerprint` of a vLLM, such as `vllm-0.32.0-tp2-1a2b3c4d`.

    This generates one token. It is done only where the size is not known yet. A server without a fingerprint is returned
    unchanged.
    """
    if server.tensor_parallel_size is not None or not server.metrics:
        return server
    body = {"model": server.model, "messages": [{"role": "user", "content": "1+1?"}], "max_tokens": 1}
    reply = api.post(f"{api.target}/chat/completions", body | options.extra_body, timeout_s=10).json()
    return with_fingerprint(server, reply.get("system_fingerprint") if isinstance(reply, dict) else None)


def with_fingerprint(server: ServerInfo, fingerprint: str | None) -> ServerInfo:
    """Add what a fingerprint says about the server."""
    if fingerprint is None or not fingerprint.startswith("vllm-"):
        return server
    match = re.search(r"-tp(\d+)\b", fingerprint)
    size = int(match[1]) if match else 1
    return dataclasses.replace(server, tensor_parallel_size=size, fingerprint=fingerprint)


def _speculation(metrics: ControlResponse) -> str | None:
    """Return `unnamed` where vLLM speculates: it has these metrics only then, and does not report the method."""
    return "unnamed" if b"vllm:spec_decode_num_drafts" in metrics.body else None


def _without_none(speculation: str | None) -> str | None:
    return None if speculation in (None, "", "none") else speculation


def check_mode(options: RunOptions, workload: Workload, api: ControlApi) -> None:
    """Raise UsageError where the server ignores a native budget or cannot reset its prefix cache."""
    if options.budget_mode == "native":
        _probe_native(workload, api)
    if options.cache == "reset" and not options.dry_run:
        response = api.post(f"{api.root}/reset_prefix_cache")
        if response.status != 200:
            raise UsageError(
                f"--cache reset: {api.root}/reset_prefix_cache answered {response.status or response.error} "
                "(vLLM needs VLLM_SERVER_DEV_MODE=1): use --cache salt"
            )


def _probe_native(workload: Workload, api: ControlApi) -> None:
    request = next(workload.requests(0, 1))
    body = request.body | {
        "stream": False,
        "max_tokens": PROBE_TOKENS,
        "thinking_token_budget": PROBE_BUDGET,
        "temperature": 0.0,
    }
    del body["stream_options"]
    response = api.post(f"{api.target}{request.path}", body, timeout_s=120)
    if (reason := native_refusal(response)) is not None:
        raise UsageError(f"--budget-mode native: {reason}: use --budget-mode forced or cut")


def native_refusal(response: ControlResponse) -> str | None:
    """Return why a response to the probe shows that the thinking budget is not kept; None where it is kept."""
    reply = response.json()
    if reply is None:
        return f"the probe was answered with {response.status or response.error} {response.body[:120].decode(errors='replace')}".strip()
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice.get("message") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        return "the response to the probe is not a completion"
    reasoning_tokens = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if isinstance(reasoning_tokens, int) and reasoning_tokens > 2 * PROBE_BUDGET:
        return f"the server ignores thinking_token_budget (given {PROBE_BUDGET}, it used {reasoning_tokens} reasoning tokens)"
    text = message.get("content") or ""
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    ended = bool(text.strip()) if reasoning else THINK_END in text
    if choice.get("finish_reason") == "length" and not ended:
        return f"the server ignores thinking_token_budget (after {PROBE_TOKENS} tokens at a budget of {PROBE_BUDGET} it was still reasoning)"
    return None
