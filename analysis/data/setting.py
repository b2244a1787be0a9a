"""A setting: everything that must be equal before two requests may be pooled, and its name in words.

Rules: a setting is what serves (model, configuration, GPU) under conditions (load, how it was asked, how the budget is
enforced, the problems), at one budget, from one source. Whatever an operator can change and a number can feel keeps two
settings apart; runs of one setting are repeats. Seeds, labels, sample and request counts are no part of it.

Does not know: what a setting gives or costs.
"""

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from loadgen.record import RunInfo

CONDITIONS = ["gpu", "load", "asked", "budget_mode", "dataset"]
"""What settings share where they compete: a choice of model, configuration and budget is made under these."""
SETTING = ["model", "config", *CONDITIONS, "budget", "source"]
ANSWER_TOKENS = 512  # loadgen's default, not worth a word


def load_label(load: dict[str, Any]) -> str:
    """How the server was loaded, in a few characters: `c16`, `2/s poisson`, `ramp 1→4/s`, `burst`."""
    if load.get("concurrency") is not None and load.get("kind") != "open":
        return f"c{load['concurrency']}"
    if load.get("ramp"):
        return f"ramp {'→'.join(_short(step[0]) for step in load['ramp'])}/s"
    if load.get("rate") is not None:
        return f"{_short(load['rate'])}/s {load.get('arrival', 'poisson')}"
    return str(load.get("arrival") or load.get("kind", "unknown"))


def asked_labels(runs: list[RunInfo]) -> list[str]:
    """How requests were asked, what is usual left out: `greedy`, `T 0.6, top_p 0.95`, `greedy, ignore_eos, cache salt`.

    A prompt is named where one model was asked in several: each model's own template is no condition that models differ in.
    """
    prompts: dict[str, set[str]] = {}
    for run in runs:
        prompts.setdefault(run.model, set()).add(_prompt(run))
    return [_asked(run, prompt_said=len(prompts[run.model]) > 1 or _prompt(run) == "bare") for run in runs]


def _prompt(run: RunInfo) -> str:
    return str(run.sampling.get("prompt") or run.options.get("prompt") or "chat")


def _asked(run: RunInfo, *, prompt_said: bool) -> str:
    said, options = run.sampling, run.options
    heat = said.get("temperature")
    parts = ["not said" if heat is None else f"T {_short(heat)}" if heat else "greedy"]
    parts += [
        f"{name} {_short(said[name])}" for name in ("top_p", "top_k", "min_p") if said.get(name) is not None
    ]
    body = options.get("extra_body")
    for name, value in sorted(body.items()) if isinstance(body, dict) else []:
        parts += [name if value is True else f"{name} {_short(value)}"] if name not in said else []
    parts += [f"prompt {_prompt(run)}"] if prompt_said else []
    parts += ["completions"] if options.get("path") == "completions" else []
    room = options.get("answer_tokens", ANSWER_TOKENS)
    parts += [f"answer {_short(room)}"] if run.budget_mode != "cut" and room != ANSWER_TOKENS else []
    parts += [f"cache {run.cache}"] if run.cache != "keep" else []
    return ", ".join(parts)


def config_labels(runs: list[RunInfo]) -> list[str]:
    """The configuration's name, with what tells servers apart where one name stands for several."""
    servers: dict[str, set[str]] = {}
    for run in runs:
        servers.setdefault(run.config, set()).add(_server(run))
    return [f"{run.config} ({_server(run)})" if len(servers[run.config]) > 1 else run.config for run in runs]


def _server(run: RunInfo) -> str:
    gpus = f"{run.num_gpus} GPU{'s' if run.num_gpus > 1 else ''}"
    tp = f", TP {run.tensor_parallel_size}" if run.tensor_parallel_size != run.num_gpus else ""
    return gpus + tp + (f", {run.speculation}" if run.speculation else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def by_conditions(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table under each set of conditions, nearest to the paper's first: greedy, hard cut, one request at a time."""
    groups = [rows for _, rows in table.groupby(CONDITIONS, observed=True, sort=False)]
    yield from sorted(groups, key=lambda rows: _from_the_paper(rows.iloc[0]))


def _from_the_paper(row: "pd.Series[Any]") -> tuple[Any, ...]:
    asked, load = str(row["asked"]), str(row["load"])
    rate = float(found.group()) if (found := re.search(r"\d+(\.\d+)?", load)) else 0.0
    return (
        not asked.startswith("greedy"),
        row["budget_mode"] != "cut",
        load[:1] != "c",
        rate,
        asked,
        str(row["gpu"]),
    )


def conditions(row: Any, names: list[str] | None = None) -> str:
    """Conditions in words: `32 in flight, greedy, ignore_eos`."""
    names = CONDITIONS if names is None else names
    return ", ".join(in_flight(str(row[name])) if name == "load" else str(row[name]) for name in names)


def varying(table: pd.DataFrame) -> list[str]:
    """The conditions that are not the same in all of a table."""
    return [name for name in CONDITIONS if name in table and len(table[name].astype(str).unique()) > 1]


def in_flight(load: str) -> str:
    """A load in words: `c8` is `8 in flight`."""
    return f"{load[1:]} in flight" if load[:1] == "c" and load[1:].isdigit() else load


def setting(row: Any) -> str:
    """A setting in words, what is usual left unsaid."""
    asked = str(row.get("asked", "greedy"))
    mode = str(row.get("budget_mode", "cut"))
    usual = {
        "load": row.get("load") in ("c1", None),
        "asked": asked in ("greedy", "not said"),
        "mode": mode == "cut",
    }
    parts = [] if usual["load"] else [in_flight(str(row["load"]))]
    parts += [] if usual["asked"] else [asked]
    parts += [] if usual["mode"] else [f"budget {mode}"]
    return f"{row['model']} on {row['config']} with a budget of {row['budget']:,.0f} tokens" + (
        f" ({', '.join(parts)})" if parts else ""
    )
