"""What a cell will about take, before it runs: tokens from a few texts, time from the step model.

Does not know: queues, or how a load comes and goes; a simulated run does (simulate.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.config import ConfigError, Ngram, load_model, load_serving
from server.emulator.engine import hardware
from server.emulator.engine.step_time import StepModel
from server.emulator.simulated_cell import ENGINE_VERSION, Cast, Script, rehearse


@dataclass(frozen=True)
class Forecast:
    """About what a cell will take."""

    requests: int
    tokens: float
    seconds: float


SAMPLE = 12
"""Problems whose outputs are looked at for a forecast."""
_casts: dict[str, list[Script]] = {}


def forecast(
    config: str,
    model: str,
    dataset: str,
    count: int,
    limits: Sequence[int],
    *,
    gpu: str,
    concurrency: int | None = None,
    rate: float | None = None,
) -> Forecast | None:
    """Tokens and time of `count` problems at every limit, from a few texts and the step model; None where nothing is known."""
    try:
        serving, preset = load_serving(config), load_model(model)
    except ConfigError:
        return None
    if gpu not in hardware.gpus():
        return None
    if model not in _casts:
        cast = Cast(model, dataset)
        sample = cast.problems[:: max(len(cast.problems) // SAMPLE, 1)][:SAMPLE]
        _casts[model] = [cast.part(_ask(row), max(limits), max(limits)).script for row in sample]
    scripts = _casts[model]
    streams = concurrency or serving.max_num_seqs // 8
    tokens = (
        sum(float(np.mean([min(len(script.ids), limit) for script in scripts])) for limit in limits) * count
    )
    emitted, drafted = _speculated(scripts, serving.speculation)
    step_model = StepModel(preset, serving, hardware.gpus()[gpu], hardware.engine_versions()[ENGINE_VERSION])
    width = streams * (1 + drafted)
    context = streams * float(np.mean([len(script.prompt) + len(script.ids) / 2 for script in scripts]))
    step_s = float(step_model.step_s(streams, width, width, context))
    requests = count * len(limits)
    return Forecast(requests, tokens, requests / rate if rate else tokens / emitted * step_s / streams)


def _ask(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(row["problem"])}]


def _speculated(scripts: Sequence[Script], ngram: Ngram | None) -> tuple[float, float]:
    """Tokens that a step emits and drafts on average, for each stream."""
    if ngram is None:
        return 1.0, 0.0
    rehearsed = [rehearse(script, ngram) for script in scripts]
    steps = sum(len(drafted) for drafted, _ in rehearsed)
    drafted = sum(sum(each) for each, _ in rehearsed) / steps
    return sum(len(script.ids) for script in scripts) / steps, drafted
