"""Number formats: what they change in the step time, and which ones are refused in one line."""

from typing import Any

import pytest

from server.config import ConfigError, Model, load_model, load_serving, overrides_from
from server.emulator.engine.hardware import engine_versions, gpus
from server.emulator.engine.precision import quantized
from server.emulator.engine.step_time import StepModel

H200, ENGINE = gpus()["h200"], engine_versions()["0.32"]


def steps(size: str, **options: Any) -> StepModel:
    serving = load_serving("tp1", {name.replace("_", "-"): value for name, value in options.items()})
    return StepModel(quantized(load_model(f"r1-distill-qwen-{size}"), serving, H200), serving, H200, ENGINE)


def test_fp8_weights_shorten_steps_by_the_bytes_that_are_read() -> None:
    """14B gains about 1.6 times at one stream, as vLLM's documentation claims, and less where the host decides."""
    speedup = {
        size: float(steps(size).step_s(1, 1, 1, 800) / steps(size, quantization="fp8").step_s(1, 1, 1, 800))
        for size in ("1.5b", "7b", "14b")
    }
    assert 1 < speedup["1.5b"] < speedup["7b"] < speedup["14b"] < 1.65
    assert speedup["14b"] > 1.5


def test_the_output_layer_is_not_quantized() -> None:
    model: Model = load_model("r1-distill-qwen-1.5b")
    head_bytes = 2 * model.shape.hidden_size * model.shape.vocab_size
    plain, fp8 = steps("1.5b").weight_bytes, steps("1.5b", quantization="fp8").weight_bytes
    assert fp8 - head_bytes == pytest.approx((plain - head_bytes) / 2)


def test_an_fp8_kv_cache_holds_twice_the_tokens() -> None:
    assert 2 * steps("7b", kv_cache_dtype="fp8").kv_bytes == steps("7b").kv_bytes
    config = load_serving("tp1")
    assert steps("7b", kv_cache_dtype="fp8").kv_blocks(config) >= 2 * steps("7b").kv_blocks(config)


@pytest.mark.parametrize(
    ("options", "gpu", "message"),
    [
        ({"quantization": "fp8"}, "a100", "quantization: fp8: NVIDIA A100-SXM4-80GB has no FP8"),
        ({"kv-cache-dtype": "fp8"}, "a100", "kv-cache-dtype: fp8: NVIDIA A100-SXM4-80GB has no FP8"),
        ({"quantization": "awq"}, "h200", "quantization: 'awq' is not emulated here: choose from fp8"),
        ({"kv-cache-dtype": "fp8_e5m2"}, "h200", "kv-cache-dtype: 'fp8_e5m2' is not emulated here"),
        ({"dtype": "float32"}, "h200", "dtype: 'float32' is not emulated here"),
    ],
)
def test_a_format_without_figures_is_refused(options: dict[str, Any], gpu: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantized(load_model("r1-distill-qwen-7b"), load_serving("tp1", options), gpus()[gpu])


@pytest.mark.parametrize("option", ["-dp", "-pp", "--data-parallel-size", "--pipeline-parallel-size", "-dcp"])
def test_parallelism_other_than_tensor_parallelism_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="parallel-size: 2 is not emulated: only tensor parallelism is"):
        load_serving("tp1", overrides_from([option, "2"]))
    assert load_serving("tp1", overrides_from([option, "1"])).tensor_parallel_size == 1


@pytest.mark.parametrize("option", ["-ep", "--enable-expert-parallel"])
def test_expert_parallelism_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="enable-expert-parallel: True is not emulated"):
        load_serving("tp1", overrides_from([option]))
