"""Decides which of vLLM's two model runners serves a configuration, and what n-gram speculation becomes under it.

Rules, as in vLLM's config/vllm.py: from 0.32 on, the V2 runner serves n-gram unless VLLM_USE_V2_MODEL_RUNNER is 0; before,
the V1 runner does. Under V1 the host looks drafts up while the GPU waits, so asynchronous scheduling is off. Under V2 the
GPU looks them up; 0.32 still turns asynchronous scheduling off, except for the method ngram_gpu, and 0.33 keeps it.

This module does not know how drafts are found (ngram.py) or how long a step takes (step_time.py).
"""

from collections.abc import Mapping
from dataclasses import replace

from server.config import ConfigError, Serving
from server.emulator.engine.hardware import EngineVersion, engine_versions

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
MEASURED_V1 = "0.26"
"""The version whose V1 runner was measured. Its n-gram code is the same in later versions."""


def served(serving: Serving, version: str, environment: Mapping[str, str]) -> tuple[Serving, EngineVersion]:
    """The configuration and the engine version as they run together. Raises ConfigError for what vLLM refuses."""
    engine, ngram, chosen = engine_versions()[version], serving.speculation, environment.get(RUNNER)
    if chosen not in (None, "0", "1"):
        raise ConfigError(f"{RUNNER}: must be 0 or 1, not {chosen!r}")
    if ngram is None:
        return serving, engine
    if chosen == "1" and not engine.ngram_v2:
        raise ConfigError(
            f"{RUNNER}: the V2 runner of vLLM {engine.release} does not support n-gram: unset it"
        )
    v2 = engine.ngram_v2 and chosen != "0"
    if engine.ngram_v2 and not v2:
        engine = replace(engine_versions()[MEASURED_V1], release=engine.release)
    if ngram.method == "ngram_gpu":
        if not v2:
            raise ConfigError(
                f"{serving.name}: speculative-config.method: ngram_gpu is emulated under the V2 runner only, which serves "
                f"it from vLLM 0.32 on"
            )
        engine = replace(engine, ngram_async=True)
    if serving.async_scheduling and not engine.ngram_async:
        raise ConfigError(
            f"{serving.name}: async-scheduling: vLLM {engine.release} does not support it with n-gram: remove it"
        )
    return replace(serving, speculation=replace(ngram, v2_runner=v2)), engine
