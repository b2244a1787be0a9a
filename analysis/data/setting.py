"""Define a *setting*: everything that must be equal before requests are pooled, and its description in words.

A setting is a model on a serving configuration, under conditions (GPU, load, sampling and request options, budget mode,
dataset), at one token budget, from one source. Every option that can change a measured value separates settings. Runs of the
same setting are repeats. Seeds, labels and the numbers of samples and requests are not part of a setting.

This module does not know accuracy, latency or cost.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from loadgen.measure.dependence import Load
from loadgen.record import RunInfo

CONDITIONS = ["gpu", "load", "asked", "budget_mode", "dataset"]
"""Settings are compared only under equal conditions: model, configuration and budget are the choice to be made."""
SETTING = ["model", "config", *CONDITIONS, "budget", "source"]
ANSWER_TOKENS = 512  # the default of the load generator, which is not mentioned in a label


def load_label(load: dict[str, Any]) -> str:
    """The load in few characters: `c16` (16 requests in flight), `2/s poisson`, `ramp 1→4/s`, `burst`."""
    if load.get("concurrency") is not None and load.get("kind") != "open":
        return f"c{load['concurrency']}"
    if load.get("ramp"):
        return f"ramp {'→'.join(_short(step[0]) for step in load['ramp'])}/s"
    if load.get("rate") is not None:
        return f"{_short(load['rate'])}/s {load.get('arrival', 'poisson')}"
    return str(load.get("arrival") or load.get("kind", "unknown"))


def load_point(label: str) -> tuple[str, float]:
    """The kind of a load (`streams`, or the arrival process of an open loop) and its size; NaN where the load is not constant."""
    if label[:1] == "c" and label[1:].isdigit():
        return "streams", float(label[1:])
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[+-]\d+)?)/s (\S+)", label)
    return (found[2], float(found[1])) if found else ("", float("nan"))


def with_load_points(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns `load_kind` and `load_value`, from its column `load` (load_point)."""
    points = [load_point(str(label)) for label in table["load"]]
    kinds, values = [kind for kind, _ in points], [value for _, value in points]
    return table.assign(load_kind=kinds, load_value=np.array(values, dtype=float))


def joined_sources(sources: Iterable[str]) -> str:
    """The words of several sources, each once: `emulated` and `emulated, derived` are `emulated and derived`."""
    return " and ".join(dict.fromkeys(word for source in sources for word in source.split(", ")))


def origin(source: str) -> str:
    """Where numbers come from in the end: what was derived from measured requests is measured."""
    return "measured" if source == "derived" else source.removesuffix(", derived")


def dependence(load: str) -> Load:
    """How requests under a load depend on each other: not at all one by one, through the server in a closed loop, or a queue."""
    if load == "c1":
        return "alone"
    return "closed" if load[:1] == "c" or load == "unknown" else "open"


def asked_labels(runs: list[RunInfo]) -> list[str]:
    """Sampling and request options without the defaults: `greedy`, `T 0.6, top_p 0.95`, `greedy, ignore_eos, cache salt`.

    The prompt style is named only where one model was run with several styles. Otherwise each model uses its own template,
    and models must remain comparable.
    """
    prompts: dict[str, set[str]] = {}
    for run in runs:
        prompts.setdefault(run.model, set()).add(_prompt(run))
    return [_asked(run, name_prompt=len(prompts[run.model]) > 1 or _prompt(run) == "bare") for run in runs]


def _prompt(run: RunInfo) -> str:
    return str(run.sampling.get("prompt") or run.options.get("prompt") or "chat")


def _asked(run: RunInfo, *, name_prompt: bool) -> str:
    sampling, options = run.sampling, run.options
    temperature = sampling.get("temperature")
    parts = ["unknown" if temperature is None else f"T {_short(temperature)}" if temperature else "greedy"]
    parts += [
        f"{name} {_short(sampling[name])}" for name in ("top_p", "top_k", "min_p") if sampling.get(name) is not None
    ]
    body = options.get("extra_body")
    for name, value in sorted(body.items()) if isinstance(body, dict) else []:
        parts += [name if value is True else f"{name} {_short(value)}"] if name not in sampling else []
    parts += [f"prompt {_prompt(run)}"] if name_prompt else []
    parts += ["completions"] if options.get("path") == "completions" else []
    answer = options.get("answer_tokens", ANSWER_TOKENS)
    parts += [f"answer {_short(answer)}"] if run.budget_mode != "cut" and answer != ANSWER_TOKENS else []
    parts += [f"cache {run.cache}"] if run.cache != "keep" else []
    return ", ".join(parts)


def config_labels(runs: list[RunInfo]) -> list[str]:
    """The configuration's name, with GPUs and speculation added where servers of one name differ in them."""
    servers: dict[str, set[str]] = {}
    for run in runs:
        servers.setdefault(run.config, set()).add(_server(run))
    return [f"{run.config} ({_server(run)})" if len(servers[run.config]) > 1 else run.config for run in runs]


def gpus_label(run: RunInfo) -> str:
    """Return how many GPUs the server of a run uses, in words."""
    if run.num_gpus is None:
        return "unknown number of GPUs"
    return f"{run.num_gpus} GPU{'s' if run.num_gpus > 1 else ''}"


def _server(run: RunInfo) -> str:
    tp = f", TP {run.tensor_parallel_size}" if run.tensor_parallel_size != run.num_gpus else ""
    return gpus_label(run) + tp + (f", {run.speculation}" if run.speculation else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def by_conditions(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Split a table by conditions; those nearest to the paper's (greedy, mode `cut`, one request in flight) come first."""
    groups = [rows for _, rows in table.groupby(CONDITIONS, observed=True, sort=False)]
    yield from sorted(groups, key=lambda rows: _distance_from_paper(rows.iloc[0]))


def _distance_from_paper(row: "pd.Series[Any]") -> tuple[Any, ...]:
    asked, (kind, size) = str(row["asked"]), load_point(str(row["load"]))
    return (
        not asked.startswith("greedy"),
        row["budget_mode"] != "cut",
        kind != "streams",
        0.0 if math.isnan(size) else size,
        asked,
        str(row["gpu"]),
    )


def conditions(row: Any, names: list[str]) -> str:
    """Some conditions in words: `32 in flight, greedy, ignore_eos`."""
    return ", ".join(in_flight(str(row[name])) if name == "load" else str(row[name]) for name in names)


def varying(table: pd.DataFrame) -> list[str]:
    """The conditions that have more than one value in a table."""
    return [name for name in CONDITIONS if name in table and len(table[name].astype(str).unique()) > 1]


def in_flight(load: str) -> str:
    """A load label in words: `c8` becomes `8 in flight`."""
    return f"{load[1:]} in flight" if load[:1] == "c" and load[1:].isdigit() else load


def setting(row: Any) -> str:
    """A setting in words, with its load; greedy sampling and the mode `cut` are not mentioned."""
    asked = str(row.get("asked", "greedy"))
    mode = str(row.get("budget_mode", "cut"))
    parts = [] if row.get("load") is None else [in_flight(str(row["load"]))]
    parts += [] if asked in ("greedy", "unknown") else [asked]
    parts += [] if mode == "cut" else [f"budget mode {mode}"]
    budget = f"with a budget of {row['budget']:,.0f} tokens" if row["budget"] else "without a token budget"
    return f"{row['model']} on {row['config']} {budget}" + (f" ({', '.join(parts)})" if parts else "")
