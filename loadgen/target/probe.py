"""Sends small requests before a run, to learn what a server says only in its responses.

One request is for one token. It shows the GPUs of a vLLM (in `system_fingerprint`, such as `vllm-0.33.0-tp2-pp2-dp4-1a2b3c4d`),
whether the server refuses `max_tokens` and wants `max_completion_tokens`, whether it refuses the temperature of the run, and
whether it serves a model that it does not list. If it fails for another reason, or is not answered in time, it proves nothing:
the run then measures the failures. With `native` budgets, a second request shows whether the server keeps them. With `--cache
reset`, the prefix cache is emptied, which shows whether the server can do that.

This module does not know what a run asks (see loadgen/plan/budgets.py).
"""

import re

from msgspec import structs

from loadgen.client.stream_chunk import Chunk, Delta, TokenUsage, chunk_of
from loadgen.errors import UsageError
from loadgen.exchange import THINK_END
from loadgen.options import RunOptions
from loadgen.plan import budgets
from loadgen.plan.workload import Workload, small_body
from loadgen.target.control_api import ControlApi, ControlResponse
from loadgen.target.server_info import ServerInfo, with_gpus
from loadgen.terminal import say

PROBE_BUDGET, PROBE_TOKENS = 16, 48
"""Of a probe with a thinking budget of 16 tokens, 16 are reasoning where the budget is kept, and some are the sentence that ends
it; the others are left for the answer. No reasoning model ends its reasoning within 16 tokens by itself. The probe is as short
as this so that a server with 12 tokens a second answers it in time."""
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


def check_mode(options: RunOptions, workload: Workload, api: ControlApi) -> None:
    """Raise UsageError where the server ignores a native budget or cannot reset its prefix cache. --dry-run sends no prompt."""
    if options.dry_run:
        return
    if options.budget_mode == "native":
        _probe_native(workload, api)
    if options.cache == "reset":
        response = api.post(f"{api.root}/reset_prefix_cache")
        if response.status != 200:
            raise UsageError(
                f"--cache reset: {api.root}/reset_prefix_cache answered {response.status or response.error} "
                "(vLLM needs VLLM_SERVER_DEV_MODE=1): use --cache salt"
            )


def _probe_native(workload: Workload, api: ControlApi) -> None:
    request = next(workload.requests(0, 1))
    body = request.body | {"stream": False, workload.limit_field: PROBE_TOKENS, "thinking_token_budget": PROBE_BUDGET}
    body.pop("stream_options", None)
    response = api.post(f"{api.target}{request.path}", body)
    if response.late:  # A slow or busy server may keep the budget. Its answers show whether it does.
        say(
            f"warning: --budget-mode native: the probe of {PROBE_TOKENS} tokens has no answer ({response.error}): whether the server "
            "keeps thinking_token_budget is judged after the run, by the reasoning tokens that it reports"
        )
    elif (reason := native_refusal(response)) is not None:
        raise UsageError(f"--budget-mode native: {api.quote(reason, 400)}: use --budget-mode forced or cut")


def native_refusal(response: ControlResponse) -> str | None:
    """Return why a response to the probe shows that the thinking budget is not kept; None where it is kept."""
    reply = response.json()
    if reply is None:
        return f"the probe was answered with {response.status or response.error} {response.body[:2000].decode(errors='replace')}".strip()
    chunk = chunk_of(reply) if isinstance(reply, dict) else Chunk()
    if not chunk.choices:
        return "the response to the probe is not a completion"
    choice, used = chunk.choices[0], (chunk.usage or TokenUsage()).reasoning() or 0
    if used > 2 * PROBE_BUDGET:
        return f"the server ignores thinking_token_budget (given {PROBE_BUDGET}, it used {used} reasoning tokens)"
    answer = choice.delta or Delta()
    text = answer.content or ""
    ended = bool(text.strip()) if answer.reasoning else THINK_END in text
    if choice.finish_reason == "length" and not ended:
        return f"the server ignores thinking_token_budget (after {PROBE_TOKENS} tokens at a budget of {PROBE_BUDGET} it was still reasoning)"
    return None
