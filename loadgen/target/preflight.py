"""Checks before the first request: that the server answers, which server it is, and that it can do what was asked.

Whatever can be refused is refused here, with one line. No prompt is sent, except the probe that `native` budgets need (and
that of probe.py). What a server does not report stays None: nothing is guessed that would look measured. An emulated server
says so at /version. A value of another type than expected counts as not reported, except the time scale of an emulated
server, without which every time would be wrong.

This module does not know how the load is generated.
"""

import asyncio
import re
import time
from typing import Any

import msgspec

from loadgen.client.stream_chunk import Chunk, Delta, TokenUsage, chunk_of
from loadgen.errors import UsageError
from loadgen.exchange import THINK_END
from loadgen.network import is_loopback
from loadgen.options import RunOptions
from loadgen.plan.workload import Workload
from loadgen.target import models
from loadgen.target.control_api import ControlApi, ControlResponse, lenient
from loadgen.target.server_info import Reported, ServerInfo, with_gpus
from loadgen.target.server_metrics import MetricsPage, engines, read_page
from loadgen.terminal import printable, say

TELEMETRY_WAIT_S = 3.0
"""How long to wait for a telemetry exporter. A sweep starts its own exporter just before the run."""
PROBE_BUDGET, PROBE_TOKENS = 16, 48
"""Of a probe with a thinking budget of 16 tokens, 16 are reasoning where the budget is kept, and some are the sentence that ends
it; the others are left for the answer. No reasoning model ends its reasoning within 16 tokens by itself. The probe is as short
as this so that a server with 12 tokens a second answers it in time."""
TIME_SCALES = (1e-3, 1e6)
LOOPBACK_URL = r"https?://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/[\w./-]*)?"
"""A plain form, about which no two URL parsers disagree."""

GIVEN = ("gpu", "preset", "num_gpus", "tensor_parallel_size", "speculation")
"""Options that describe the server, with the names of the fields of ServerInfo."""


def inspect(options: RunOptions, api: ControlApi) -> ServerInfo:
    """Return the description of the server; options take precedence over what it reports. Raises UsageError."""
    model_list, version, page = asyncio.run(_ask(api))
    model = models.choose(options, api, model_list)
    if options.gpu_metrics:
        _check_telemetry(options.gpu_metrics, api)
    reported = lenient(version.json(), Reported)
    metrics = page.response.text()
    facts = {name: _plain(said) for name, said in msgspec.structs.asdict(reported).items()}
    facts["gpu_metrics"] = options.gpu_metrics or _telemetry_url(options, api, reported)
    if "vllm:spec_decode_num_drafts" in metrics:
        # vLLM has these metrics only where it speculates, and does not report the method.
        facts["speculation"] = facts["speculation"] or "unnamed"
    given = {name: getattr(options, name) for name in GIVEN} | {"config": options.config_name}
    facts |= {name: value for name, value in given.items() if value}
    if facts["speculation"] == "none":
        facts["speculation"] = None
    server = ServerInfo(
        model=model.id,
        max_model_len=model.max_model_len,
        time_scale=_time_scale(version, reported, api),
        metrics="# TYPE vllm:" in metrics,
        engines=max(1, engines(metrics)),
        replicas=page.replicas,
        others=model.others,
        **facts,
    )
    check_lengths(options, server)
    return with_gpus(server)


async def _ask(api: ControlApi) -> tuple[ControlResponse, ControlResponse, MetricsPage]:
    """Ask everything at once, so that a server that never answers costs one deadline and not three."""
    return await asyncio.gather(api.fetch(f"{api.target}/models"), api.fetch(f"{api.root}/version"), read_page(api))


def _plain(said: Any) -> Any:
    """A value that can be printed on one line; None for an empty text."""
    return (printable(said, 200) or None) if isinstance(said, str) else said


def _time_scale(version: ControlResponse, reported: Reported, api: ControlApi) -> float:
    """Return how much faster than its model an emulated server runs. Raises UsageError where the value cannot be true."""
    said = version.json()
    unreadable = "(unreadable)" if version.status == 200 and b'"time_scale"' in version.body else None
    value = said.get("time_scale") if isinstance(said, dict) else unreadable
    if value is None:
        return 1.0
    least, most = TIME_SCALES
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(
            f"{api.root}/version reports the time scale {api.quote(str(value), 40)}, by which no time can be measured: "
            f"it must be a number from {least:g} to {most:g}"
        )
    if value != 1 and not (reported.emulated or reported.simulated):
        raise UsageError(
            f"{api.root}/version reports the time scale {value:g} of a server that is not emulated: only emulated time is scaled"
        )
    return float(value)


def _telemetry_url(options: RunOptions, api: ControlApi, reported: Reported) -> str | None:
    """Return the telemetry that the server names: a path of its own, or another port of this machine if it is emulated here."""
    named = reported.gpu_metrics
    if not named:
        return None
    if re.fullmatch(r"/[\w.-][\w./-]*", named, re.ASCII):
        return f"{api.root}{named}"
    if reported.emulated and is_loopback(options.target) and re.fullmatch(LOOPBACK_URL, named, re.ASCII):
        return named
    say(
        f"warning: {api.root} names {api.quote(named)!r} as its GPU telemetry, which is another host: "
        "it is not read (--gpu-metrics URL if you trust it)"
    )
    return None


def _check_telemetry(url: str, api: ControlApi) -> None:
    """Raise UsageError where the telemetry exporter does not answer: the run would have no energy figures and not say why."""
    deadline_s = time.monotonic() + TELEMETRY_WAIT_S
    while (response := api.get(url)).status != 200:
        if time.monotonic() > deadline_s:
            why = response.error or f"HTTP {response.status}"
            raise UsageError(f"--gpu-metrics {url}: {why}: start the exporter, or leave the option out")
        time.sleep(0.25)


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
        workload.limit_field: PROBE_TOKENS,
        "thinking_token_budget": PROBE_BUDGET,
    }
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
