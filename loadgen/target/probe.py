"""Sends one request for one token before a run, to learn what a server says only in its responses.

These are the GPUs of a vLLM (in `system_fingerprint`, such as `vllm-0.33.0-tp2-pp2-dp4-1a2b3c4d`), whether the server
refuses `max_tokens` and wants `max_completion_tokens`, whether it refuses the temperature of the run, and whether it serves a
model that it does not list. A probe that fails for another reason, or is not answered in time, proves nothing: the run then
measures the failures.

This module does not know what a run asks (see loadgen/plan/budgets.py).
"""

import re

from msgspec import structs

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.workload import small_body
from loadgen.target.control_api import ControlApi, ControlResponse
from loadgen.target.server_info import ServerInfo, with_gpus
from loadgen.terminal import say

REFUSAL = r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|forbidden|not (permitted|allowed)|instead"


def identify(options: RunOptions, server: ServerInfo, api: ControlApi) -> ServerInfo:
    """Return the server with what the probe shows. Raises UsageError where it refuses the model or the temperature."""
    if server.emulated and not server.others:
        return server
    response = _ask(options, server, api)
    if _refuses(response, "max_tokens"):
        instead = structs.replace(server, limit_field="max_completion_tokens")
        again = _ask(options, instead, api)
        _check_temperature(again, api)
        if again.status == 200 or b"max_completion_tokens" in response.body:
            server, response = instead, again
    _check_temperature(response, api)
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
    body = small_body(options, server.model, server.limit_field, "1+1=", 1)
    response = api.post(f"{api.target}{budgets.path(options)}", body)
    if response.late:
        say(
            f"warning: {api.target} did not answer a request for one token ({response.error}): its GPUs are not known from it"
        )
    return response


def _refuses(response: ControlResponse, field: str) -> bool:
    words = response.body.decode(errors="replace")
    refused = response.status in (400, 422) and field in words
    return refused and re.search(REFUSAL, words, re.IGNORECASE) is not None


def _check_temperature(response: ControlResponse, api: ControlApi) -> None:
    """Raise UsageError where the server refuses the temperature. New models of OpenAI accept only their default."""
    if _refuses(response, "temperature"):
        default = re.search(rb"default \((\d+(?:\.\d+)?)\)", response.body)
        option = f"--temperature {default[1].decode()}" if default else "--sampling recommended"
        raise UsageError(f"{api.target} refuses the temperature ({api.quote(response.body)}): give {option}")


def with_fingerprint(server: ServerInfo, fingerprint: object) -> ServerInfo:
    """Add what a fingerprint of vLLM says about the server: each kind of parallelism that it does not name has size 1."""
    if not isinstance(fingerprint, str) or not re.fullmatch(r"vllm-[\w.+-]{1,200}", fingerprint, re.ASCII):
        return server
    sizes = {kind: int(size) for kind, size in re.findall(r"-(tp|pp|dp)([1-9]\d{0,4})(?![\w.])", fingerprint)}
    return with_gpus(
        structs.replace(
            server,
            tensor_parallel_size=server.tensor_parallel_size or sizes.get("tp", 1),
            pipeline_parallel_size=sizes.get("pp", 1),
            data_parallel_size=sizes.get("dp", 1),
            fingerprint=fingerprint,
        )
    )
