"""Applies the number formats of a configuration to a model, and refuses those that the step-time model has no figures for.

Rules: `quantization: fp8` halves the bytes of the body's weights and doubles the rate of its matrix multiplications; the
embedding and the output layer stay in 16 bits. FP8 halves the bytes of keys and values. Both need tensor cores that compute
in FP8. This module does not know how long anything takes (step_time.py), or how precision changes answers.
"""

from dataclasses import replace

from server.config import QUANTIZED_BYTES, ConfigError, Model, Serving
from server.emulator.engine.hardware import Gpu

FP8 = "fp8"
DTYPES = ("auto", "bfloat16", "float16", "half")
KV_DTYPES = ("auto", "bfloat16", "float16", FP8, "fp8_e4m3")


def quantized(model: Model, serving: Serving, gpu: Gpu) -> Model:
    """The model with the weights that the configuration gives it. Raises ConfigError for what is not emulated."""
    own = model.behaviour.get("quantization")
    for key, value, known in (
        ("dtype", serving.dtype, DTYPES),
        ("kv-cache-dtype", serving.kv_cache_dtype, KV_DTYPES),
        ("quantization", serving.quantization or own or FP8, (own or FP8,)),
    ):
        if value not in known:
            raise ConfigError(f"{serving.name}: {key}: {value!r} is not emulated here: choose from {', '.join(known)}")
    asked = {"quantization": serving.quantization or own, "kv-cache-dtype": serving.kv_cache_dtype}
    for key, value in asked.items():
        if str(value).startswith(FP8) and not gpu.fp8:
            raise ConfigError(f"{serving.name}: {key}: {value}: {gpu.name} has no FP8 tensor cores; not emulated")
    return replace(model, weight_bytes=QUANTIZED_BYTES[FP8]) if serving.quantization == FP8 else model
