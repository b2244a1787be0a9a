"""Completes a configuration as a release of vLLM does: its default batch sizes and, with speculation, the model runner that serves it.

Rules, as in vLLM's config/vllm.py: from 0.32 on, the V2 runner serves n-gram unless VLLM_USE_V2_MODEL_RUNNER is 0; before, the V1
runner does. Under V1 the host looks drafts up while the GPU waits, so asynchronous scheduling is off. Under V2 the GPU looks them
up; 0.32 still turns asynchronous scheduling off, except for the method ngram_gpu, and 0.33 keeps it. Suffix decoding is served
by V1 alone, without asynchronous scheduling. Drafters with weights keep asynchronous scheduling under both.

This module does not know how drafts are found (drafts.py) or how long a step takes (step_time.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.config import ConfigError, Serving, check_release
from server.emulator.engine.acceptance import with_acceptance
from server.emulator.engine.hardware import EngineVersion, Gpu, engine_versions
from server.speculation import Drafter, Ngram

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
MEASURED_V1 = "0.26"
"""The version whose V1 runner was measured. Its n-gram code is the same in later versions."""


def served(
    serving: Serving,
    version: str,
    environment: Mapping[str, str],
    acceptance: str | None = None,
    gpu: Gpu | None = None,
) -> tuple[Serving, EngineVersion]:
    """The configuration and the engine version as they run together, with the acceptance that `--acceptance` asks for.

    Raises ConfigError for what vLLM refuses and for what is not emulated.
    """
    engine, settings, chosen = engine_versions()[version], serving.speculation, environment.get(RUNNER)
    check_release(serving, engine.release)
    serving = _with_batch_sizes(serving, engine, gpu)
    if chosen not in (None, "0", "1"):
        raise ConfigError(f"{RUNNER}: must be 0 or 1, not {chosen!r}")
    if settings is None:
        if acceptance is not None:
            raise ConfigError(f"--acceptance {acceptance}: {serving.name} does not speculate: leave it out")
        return serving, engine
    if engine.v0 and settings.method not in ("ngram", "draft_model"):
        raise ConfigError(f"{serving.name}: speculative-config.method: vLLM {engine.release} has no {settings.method}")
    if not isinstance(settings, Drafter):
        serving, engine = _looked_up(serving, engine, chosen)
    may_be_async = engine.may_be_async(settings)
    if serving.async_scheduling and not may_be_async:
        raise ConfigError(
            f"{serving.name}: async-scheduling: vLLM {engine.release} does not support it with {settings.method}: remove it"
        )
    is_async = may_be_async if serving.async_scheduling is None else serving.async_scheduling
    settings = with_acceptance(serving.speculation or settings, acceptance, environment)
    return replace(serving, speculation=settings, async_scheduling=is_async), engine


def _with_batch_sizes(serving: Serving, engine: EngineVersion, gpu: Gpu | None) -> Serving:
    """The configuration with vLLM's default batch sizes, which are smaller on an A100 and on a GPU with less than 70 GiB.

    The V0 engine has the same defaults on every GPU. Without `gpu`, the defaults are those of a larger GPU.
    Raises ConfigError for more sequences than tokens in a step, which vLLM refuses.
    """
    sizes: dict[str, Any] = {}
    if engine.v0:
        sizes = {"max_num_seqs": 256}
    elif gpu is not None and (gpu.memory_gib < 70 or "A100" in gpu.name):
        sizes = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
    serving = replace(serving, **{k: v for k, v in sizes.items() if k.replace("_", "-") not in serving.raw})
    if "max-num-seqs" not in serving.raw:
        return replace(serving, max_num_seqs=min(serving.max_num_seqs, serving.max_num_batched_tokens))
    if serving.max_num_seqs > serving.max_num_batched_tokens:
        raise ConfigError(
            f"{serving.name}: max-num-batched-tokens: {serving.max_num_batched_tokens} must be at least max-num-seqs, "
            f"which is {serving.max_num_seqs}"
        )
    return serving


def _looked_up(serving: Serving, engine: EngineVersion, chosen: str | None) -> tuple[Serving, EngineVersion]:
    """The same for n-gram and suffix decoding. Raises ConfigError."""
    settings = serving.speculation
    has_v2 = engine.ngram_v2 and isinstance(settings, Ngram)
    if chosen == "1" and not has_v2:
        method = "n-gram" if isinstance(settings, Ngram) else "suffix decoding"
        raise ConfigError(f"{RUNNER}: the V2 runner of vLLM {engine.release} does not support {method}: unset it")
    v2 = has_v2 and chosen != "0"
    if engine.ngram_v2 and not v2:
        engine = replace(engine_versions()[MEASURED_V1], release=engine.release)
    if not isinstance(settings, Ngram):
        return serving, engine
    if settings.method == "ngram_gpu":
        if not v2:
            raise ConfigError(
                f"{serving.name}: speculative-config.method: ngram_gpu is emulated under the V2 runner only, which serves "
                f"it from vLLM 0.32 on"
            )
        engine = replace(engine, ngram_async=True)
    return replace(serving, speculation=replace(settings, v2_runner=v2)), engine
