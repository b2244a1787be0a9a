"""Estimates the tokens and the duration of a cell before it runs, from a few outputs and the step-time model.

This module does not know queues or how the load changes over time; a simulated run does (simulated_cell.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from server.config import ConfigError, load_model, load_serving
from server.emulator.engine import hardware
from server.emulator.engine.model_runner import served
from server.emulator.engine.precision import quantized
from server.emulator.engine.step_time import StepModel
from server.emulator.simulated_cell import ModelOutputs, PreparedOutput, prepared_steps
from server.speculation import Speculation


@dataclass(frozen=True)
class Forecast:
    """Estimate for one cell."""

    requests: int
    tokens: float
    seconds: float

    def scaled(self, factor: float) -> "Forecast":
        """The estimate for `factor` times as many requests of the same kinds."""
        return Forecast(round(self.requests * factor), self.tokens * factor, self.seconds * factor)


SAMPLE = 12
"""Number of problems whose outputs are generated for a forecast."""


@cache
def _sample(model: str, dataset: str, tokens: int) -> list[PreparedOutput]:
    """Outputs of at most this many tokens for a few problems of the data set."""
    source = ModelOutputs(model, dataset)
    problems = source.problems[:: max(len(source.problems) // SAMPLE, 1)][:SAMPLE]
    return [
        source.prepare([{"role": "user", "content": problem.problem}], tokens, tokens).output for problem in problems
    ]


def forecast(
    config: str,
    model: str,
    dataset: str,
    count: int,
    limits: Sequence[int],
    *,
    gpu: str,
    engine_version: str = hardware.ENGINE_VERSION,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    concurrency: int | None = None,
    rate: float | None = None,
    whole_budget: bool = False,
) -> Forecast | None:
    """Estimate for `count` problems at each limit of output tokens; None if model, configuration or GPU is unknown.

    With `whole_budget`, every output reaches its limit, as with `ignore_eos`.
    """
    try:
        if (profile := hardware.gpus().get(gpu)) is None:
            return None
        serving, version = served(load_serving(config, overrides), engine_version, environment, gpu=profile)
        preset = quantized(load_model(model), serving, profile)
    except ConfigError:
        return None
    outputs = _sample(model, dataset, max(limits))
    streams = concurrency or serving.max_num_seqs // 8
    lengths = [
        limit if whole_budget else float(np.mean([min(len(output.ids), limit) for output in outputs]))
        for limit in limits
    ]
    tokens = sum(lengths) * count
    emitted, drafted = _tokens_per_step(outputs, serving.speculation)
    step_model = StepModel(preset, serving, profile, version)
    width = streams * (1 + drafted)
    context = streams * float(np.mean([len(output.prompt) + len(output.ids) / 2 for output in outputs]))
    step_s = float(step_model.step_s(streams, width, width, context))
    requests = count * len(limits)
    return Forecast(requests, tokens, requests / rate if rate else tokens / emitted * step_s / streams)


def _tokens_per_step(outputs: Sequence[PreparedOutput], settings: Speculation | None) -> tuple[float, float]:
    """Mean numbers of tokens that a decode step emits and drafts for each stream."""
    if settings is None:
        return 1.0, 0.0
    drafts = [prepared_steps(output, settings) for output in outputs]
    steps = sum(len(drafted) for drafted, _ in drafts)
    mean_drafted = sum(sum(drafted) for drafted, _ in drafts) / steps
    return sum(len(output.ids) for output in outputs) / steps, mean_drafted
