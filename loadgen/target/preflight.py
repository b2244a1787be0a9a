"""Checks before the first request: that the server answers, which server it is, and that it serves the model.

Whatever can be refused is refused here, with one line. No prompt is sent (see probe.py). What a server does not report stays
None: nothing is guessed that would look measured. An emulated server says so at /version. A value of another type than
expected counts as not reported, except the time scale of an emulated server, without which every time would be wrong.

Servers write the list of their models as `{"data": [...]}`, as a bare array, or as `{"models": [...]}`, and the length of the
context under several names, sometimes as a string. A model that is not in the list can be asked for by --model, because
gateways do not list everything that they serve. A name that is nearly a listed one is a typing mistake and is refused.

This module does not know whether the server really answers for the model, or how the load is generated.
"""

import asyncio
import difflib
import re
import time
from typing import Annotated, Any

import msgspec

from loadgen.errors import UsageError, check_rules
from loadgen.network import is_loopback
from loadgen.options import RunOptions
from loadgen.target.control_api import ControlApi, ControlResponse, lenient
from loadgen.target.server_info import Reported, ServerInfo, with_gpus
from loadgen.target.server_metrics import MetricsPage, engines, read_page
from loadgen.terminal import printable, say

TELEMETRY_WAIT_S = 3.0
"""How long to wait for a telemetry exporter. A sweep starts its own exporter just before the run."""
TIME_SCALES = (1e-3, 1e6)
LOOPBACK_URL = r"https?://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/[\w./-]*)?"
"""A plain form, about which no two URL parsers disagree."""

MODELS_LIMIT = 2000
"""Of a longer list only the beginning is searched for similar names."""
SIMILAR = 0.8
GIVEN = ("gpu", "preset", "num_gpus", "tensor_parallel_size", "speculation")
"""Options that describe the server, with the names of the fields of ServerInfo."""
Tokens = Annotated[int, msgspec.Meta(gt=0, le=10**9)]


class _Row(msgspec.Struct):
    """The fields of a listed model that matter here."""

    id: str = ""
    name: str = ""
    max_model_len: Tokens | None = None
    context_length: Tokens | None = None
    context_window: Tokens | None = None
    max_context_length: Tokens | None = None


def inspect(options: RunOptions, api: ControlApi) -> ServerInfo:
    """Return the description of the server; options take precedence over what it reports. Raises UsageError."""
    model_list, version, page = asyncio.run(_ask(api))
    server = choose_model(options, api, model_list)
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
    server = msgspec.structs.replace(
        server,
        time_scale=_time_scale(version, reported, api),
        metrics="# TYPE vllm:" in metrics,
        engines=max(1, engines(metrics)),
        replicas=page.replicas,
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


def choose_model(options: RunOptions, api: ControlApi, response: ControlResponse) -> ServerInfo:
    """Return the server with the model that --model names, or the first listed one. Raises UsageError where it cannot be used."""
    _check_response(options, api, response)
    models = listed(response.json())
    if not models and options.model is None:
        hint = "check that --target ends with /v1, or give --model"
        raise UsageError(f"{api.target}/models lists no model (HTTP {response.status}): {hint}")
    found = next((server for server in models if options.model in (None, server.model)), None)
    if found is not None:
        return found
    name = options.model or ""
    names = printable(", ".join(server.model for server in models[:5]), 400)
    if (similar := similar_name(name, [server.model for server in models[:MODELS_LIMIT]])) is not None:
        meant = f"it serves {names}; did you mean {printable(similar, 200)!r}?"
        raise UsageError(f"--model {name!r} is not served at {api.target}: {meant}")
    return ServerInfo(name, others=names)


def _check_response(options: RunOptions, api: ControlApi, response: ControlResponse) -> None:
    """Raise UsageError where the response shows that the server cannot be used. With --model, it need not list its models."""
    status, named = response.status, options.model is not None
    refused = status in (401, 403)
    key = options.api_key_env or ("--header" if options.headers else None)
    rules = [
        (not response.reached or (status is None and not named), f"no server at {api.target} ({response.error}): start one (python -m server emulate tp1) or give --target"),
        (refused and key is None, f"{api.target} requires a key (HTTP {status}): name the variable that holds it with --api-key-env NAME"),
        (refused and not named, f"{api.target} rejects the key in {key} (HTTP {status})"),
        (status == 503 and not named, f"{api.target} is not ready (HTTP 503): wait until its /health answers"),
    ]  # fmt: skip
    check_rules(rules)


def listed(said: Any) -> list[ServerInfo]:
    """Return the server with each model of a list in any of its shapes. An id that cannot be printed on one line is not a model's."""
    rows = said
    if isinstance(said, dict):
        rows = next((said[key] for key in ("data", "models") if isinstance(said.get(key), list)), [])
    if not isinstance(rows, list):
        return []
    found = []
    for said_row in rows:
        row = _Row(id=said_row) if isinstance(said_row, str) else lenient(said_row, _Row)
        name = row.id or row.name
        lengths = (row.max_model_len, row.context_length, row.context_window, row.max_context_length)
        if name and len(name) <= 500 and name.isprintable():
            found.append(ServerInfo(name, next((length for length in lengths if length is not None), None)))
    return found


def similar_name(name: str, names: list[str]) -> str | None:
    """Return the listed name that was probably meant, or None.

    Names with other numbers in them, such as another size or date, are other models.
    """
    alike = {other.lower(): other for other in names if _numbers(other) == _numbers(name)}
    for lower, other in alike.items():
        if lower.rpartition("/")[2] == name.lower().rpartition("/")[2]:
            return other
    matches = difflib.get_close_matches(name.lower(), list(alike), n=1, cutoff=SIMILAR)
    return alike[matches[0]] if matches else None


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)
