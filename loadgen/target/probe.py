"""Sends one request for one token before a run, to learn what a server says only in its responses.

These are the GPUs of a vLLM (in `system_fingerprint`, such as `vllm-0.33.0-tp2-pp2-dp4-1a2b3c4d`), whether the server
refuses `max_tokens` and wants `max_completion_tokens`, and whether it serves a model that it does not list. A probe that
fails for another reason proves nothing: the run then measures the failures.

This module does not know what a run asks (see loadgen/plan/budgets.py).
"""

import dataclasses
import re

from loadgen.errors import UsageError, say
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.target.control_api import ControlApi, ControlResponse
from loadgen.target.server_info import ServerInfo, with_gpus

PROBE_TIMEOUT_S = 10.0
REFUSAL = (
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|forbidden|not (permitted|allowed)|instead"
)


def identify(options: RunOptions, server: ServerInfo, api: ControlApi) -> ServerInfo:
    """Return the server with what the probe shows. Raises UsageError where it refuses a model that it does not list."""
    if server.emulated and not server.others:
        return server
    response = _ask(options, server, api)
    words = response.body.decode(errors="replace")
    if response.status in (400, 422) and _refuses(words, "max_tokens"):
        instead = dataclasses.replace(server, limit_field="max_completion_tokens")
        again = _ask(options, instead, api)
        if again.status == 200 or "max_completion_tokens" in words:
            server, response = instead, again
    if server.others and response.status in (400, 401, 403, 404, 422):
        raise UsageError(
            f"--model {server.model!r} is not served at {api.target}: it serves {server.others} "
            f"(HTTP {response.status}: {api.quote(response.body)})"
        )
    if server.others:
        say(f"warning: {api.target}/models does not list {server.model!r}; it lists {server.others}")
    if server.emulated:
        return server
    reply = response.json()
    return with_fingerprint(server, reply.get("system_fingerprint") if isinstance(reply, dict) else None)


def _ask(options: RunOptions, server: ServerInfo, api: ControlApi) -> ControlResponse:
    prompt = (
        {"prompt": "1+1="}
        if budgets.uses_completions(options)
        else {"messages": [{"role": "user", "content": "1+1?"}]}
    )
    body = {"model": server.model, **prompt, server.limit_field: 1, **options.extra_body}
    return api.post(f"{api.target}{budgets.path(options)}", body, timeout_s=PROBE_TIMEOUT_S)


def _refuses(words: str, field: str) -> bool:
    return field in words and re.search(REFUSAL, words, re.IGNORECASE) is not None


def with_fingerprint(server: ServerInfo, fingerprint: object) -> ServerInfo:
    """Add what a fingerprint of vLLM says about the server: each kind of parallelism that it does not name has size 1."""
    if not isinstance(fingerprint, str) or not re.fullmatch(r"vllm-[\w.+-]{1,200}", fingerprint, re.ASCII):
        return server
    sizes = {kind: int(size) for kind, size in re.findall(r"-(tp|pp|dp)([1-9]\d{0,4})(?![\w.])", fingerprint)}
    return with_gpus(
        dataclasses.replace(
            server,
            tensor_parallel_size=server.tensor_parallel_size or sizes.get("tp", 1),
            pipeline_parallel_size=sizes.get("pp", 1),
            data_parallel_size=sizes.get("dp", 1),
            fingerprint=fingerprint,
        )
    )
