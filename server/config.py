"""Reading what we test: `configs/NAME.yaml` (vLLM's own `--config` format) and `models/NAME.yaml` (presets).

Rules: every error is one line that names the file and the key, before anything starts. A key that `vllm serve` has but
that changes nothing here is accepted, so that one file configures both; a key it does not have is refused.

Does not know: how an engine behaves, or how long anything takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
MODELS = HERE / "models"


class ConfigError(Exception):
    """The operator's mistake, as one line."""


@dataclass(frozen=True, slots=True)
class Ngram:
    """n-gram prompt lookup, as vLLM's `speculative-config` names it."""

    num_speculative_tokens: int
    prompt_lookup_min: int
    prompt_lookup_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One serving configuration. Defaults are vLLM 0.32's for a server on one large GPU."""

    name: str
    tensor_parallel_size: int = 1
    max_model_len: int = 20480
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool = True
    block_size: int = 16
    kv_cache_dtype: str = "auto"
    num_gpu_blocks_override: int | None = None
    seed: int = 0
    speculation: Ngram | None = None
    async_scheduling: bool | None = None
    """None: as the engine version decides."""
    enforce_eager: bool = False
    stream_interval: int = 1
    served_model_name: tuple[str, ...] = ()
    reasoning_parser: str | None = None
    api_key: tuple[str, ...] = ()
    enable_per_request_metrics: bool = False
    per_request_spec_decode_metrics: str = "none"
    enable_prompt_tokens_details: bool = False
    enable_force_include_usage: bool = False
    enable_server_load_tracking: bool = False
    enable_request_id_headers: bool = False
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """The file as read, command-line overrides applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What sets time and memory, from a model's `config.json`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model preset. `behaviour` is for the text model: whatever else the file says."""

    name: str
    id: str
    prompt: str
    weight_bytes: float
    """Bytes of one weight: 2 in bfloat16, 1 in fp8, about 0.56 in 4-bit groups."""
    reasoning_parser: str | None
    shape: Shape
    behaviour: dict[str, Any]


WEIGHT_BYTES = {"bfloat16": 2.0, "float16": 2.0, "half": 2.0, "float32": 4.0, "auto": 2.0}
QUANTISED_BYTES = {
    "fp8": 1.0,
    "int8": 1.0,
    "w8a8": 1.0,
    "awq": 0.56,
    "gptq": 0.56,
    "w4a16": 0.56,
    "mxfp4": 0.53,
}
# 4-bit: group 128 keeps a 16-bit scale and a zero point beside 128 half-bytes.

NOT_SPREAD = {"data-parallel-size", "pipeline-parallel-size"}
IGNORED = set("""
    allow-credentials allowed-local-media-path allowed-origins attention-backend chat-template
    compilation-config config-format data-parallel-size disable-cascade-attn disable-custom-all-reduce
    disable-log-requests disable-log-stats disable-uvicorn-access-log distributed-executor-backend
    download-dir dtype enable-chunked-prefill enable-log-requests enable-mfu-metrics enable-sleep-mode
    generation-config hf-overrides host kv-cache-memory-bytes kv-cache-metrics load-format logits-processors
    max-log-len max-logprobs max-seq-len-to-capture middleware model model-impl optimization-level
    override-generation-config performance-mode pipeline-parallel-size port prefix-caching-hash-algo
    quantization reasoning-config return-tokens-as-token-ids revision show-hidden-metrics-for-version
    skip-tokenizer-init swap-space tensor-parallel-backend tokenizer tokenizer-mode trust-remote-code
    uvicorn-log-level
""".split())  # noqa: SIM905 - fifty names read better as words  # fmt: skip
"""Options of `vllm serve` that change nothing an emulated server shows."""


def names(folder: Path) -> list[str]:
    """Names that a folder of YAML files offers."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _find(folder: Path, name: str, what: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"{what} {name}: no such file")
        return path
    if name not in names(folder):
        raise ConfigError(
            f"unknown {what} {name!r}: choose from {', '.join(names(folder))}, or give a .yaml file"
        )
    return folder / f"{name}.yaml"


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file of option names and values. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: must be a mapping of option names to values")
    return content


def _convert(value: object, type_: Any, where: str, key: str) -> Any:
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {key}: {error}") from error


def _size(value: object) -> object:
    """`2k`, `16K` and `1M` as vLLM reads them: lower case is decimal, upper case binary."""
    units = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
    if isinstance(value, str) and value[:-1].replace(".", "", 1).isdigit() and value[-1] in units:
        return int(float(value[:-1]) * units[value[-1]])
    return value


def _speculative(value: object, where: str) -> dict[str, Any] | None:
    """`speculative-config`: a mapping, or one as JSON."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{where}: speculative-config: not JSON ({error})") from error
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: speculative-config: must be a mapping")
    return value


def _ngram(value: dict[str, Any] | None, where: str) -> Ngram | None:
    if value is None:
        return None
    method = value.get("method")
    if method not in {"ngram", "ngram_gpu", "[ngram]"}:
        raise ConfigError(f"{where}: speculative-config.method: {method!r} is not emulated, only ngram is")
    low, high = value.get("prompt_lookup_min"), value.get("prompt_lookup_max")
    low, high = low or high or 5, high or low or 5  # one omitted mirrors the other, both: 5 (vLLM)
    numbers = {
        "num_speculative_tokens": value.get("num_speculative_tokens"),
        "prompt_lookup_min": low,
        "prompt_lookup_max": high,
    }
    for key, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ConfigError(
                f"{where}: speculative-config.{key}: must be a whole number of at least 1, not {number!r}"
            )
    ngram = msgspec.convert(numbers, Ngram)
    if ngram.prompt_lookup_min > ngram.prompt_lookup_max:
        raise ConfigError(
            f"{where}: speculative-config.prompt_lookup_min: {low} exceeds prompt_lookup_max {high}"
        )
    return ngram


def _check(serving: Serving, where: str) -> Serving:
    positive = (
        "tensor_parallel_size",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "block_size",
        "stream_interval",
    )
    for key in positive:
        if getattr(serving, key) < 1:
            raise ConfigError(
                f"{where}: {key.replace('_', '-')}: must be at least 1, not {getattr(serving, key)}"
            )
    if not 0 < serving.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"{where}: gpu-memory-utilization: must be in (0, 1], not {serving.gpu_memory_utilization}"
        )
    return serving


def config_file(name: str) -> Path:
    """The file that a configuration's name, or path, means. Raises ConfigError."""
    return _find(CONFIGS, name, "configuration")


def read_config(name: str) -> dict[str, Any]:
    """A configuration as written. Any method of speculation is fine here: the engine decides what it can do."""
    path = config_file(name)
    config = {key.replace("_", "-"): value for key, value in read_mapping(path).items()}
    if "speculative-config" in config:
        config["speculative-config"] = _speculative(config["speculative-config"], str(path))
    size = _convert(config.get("tensor-parallel-size", 1), int, str(path), "tensor-parallel-size")
    if size < 1:
        raise ConfigError(f"{path}: tensor-parallel-size: must be at least 1, not {size}")
    return config | {"tensor-parallel-size": size}


def load_serving(name: str, overrides: Mapping[str, Any] | None = None) -> Serving:
    """Read a configuration by name or path. `overrides` are further options, spelt as on vLLM's command line."""
    path, raw = config_file(name), read_config(name)
    raw.update(overrides or {})
    options = dict(raw)
    values: dict[str, Any] = {"name": path.stem, "raw": raw}
    speculative = _speculative(options.pop("speculative-config", None), str(path))
    values["speculation"] = _ngram(speculative, str(path))
    for key in ("max-model-len", "max-num-batched-tokens"):
        if key in options:
            options[key] = _size(options[key])
    types = {
        f.replace("_", "-"): t
        for f, t in Serving.__annotations__.items()
        if f not in {"name", "raw", "speculation"}
    }
    for key, value in options.items():
        positive = key.removeprefix("no-")
        if key in types:
            listed = types[key] == tuple[str, ...] and not isinstance(value, list)
            values[key.replace("-", "_")] = _convert([value] if listed else value, types[key], str(path), key)
        elif key != positive and positive in types:
            values[positive.replace("-", "_")] = not _convert(value, bool, str(path), key)
        elif key in NOT_SPREAD and value not in {1, "1"}:
            raise ConfigError(f"{path}: {key}: {value} is not emulated, only tensor parallelism is")
        elif positive not in IGNORED:
            raise ConfigError(f"{path}: {key}: not an option of vllm serve that is known here")
    return _check(Serving(**values), str(path))


SHORT = {"-tp": "tensor-parallel-size", "-sc": "speculative-config"}


def overrides_from(arguments: Iterable[str]) -> dict[str, Any]:
    """VLLM options given on the command line (`--api-key X`, `--no-async-scheduling`), as configuration keys."""
    found: dict[str, Any] = {}
    key: str | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--") or name in SHORT:
            key = SHORT.get(name) or name[2:].replace("_", "-")
            found[key] = value if equals else True
        elif key is None:
            raise ConfigError(f"unexpected argument {argument!r}")
        else:
            found[key] = (
                argument
                if found[key] is True
                else [*([found[key]] if isinstance(found[key], str) else found[key]), argument]
            )
    return found


def load_model(name: str) -> Model:
    """Read a preset by name, path or model id."""
    by_id = {str(read_mapping(path).get("id")): path.stem for path in MODELS.glob("*.yaml")}
    path = _find(MODELS, by_id.get(name, name), "model")
    raw = read_mapping(path)
    for key in ("id", "shape"):
        if key not in raw:
            raise ConfigError(f"{path}: {key}: missing")
    shape = _convert(raw["shape"], Shape, str(path), "shape")
    quantised, dtype = raw.get("quantization"), raw.get("dtype", "auto")
    table = QUANTISED_BYTES if quantised else WEIGHT_BYTES
    if (quantised or dtype) not in table:
        key = "quantization" if quantised else "dtype"
        raise ConfigError(
            f"{path}: {key}: {quantised or dtype!r} is not known: choose from {', '.join(table)}"
        )
    return Model(
        name=path.stem,
        id=str(raw["id"]),
        prompt=str(raw.get("prompt", "chat")),
        weight_bytes=table[quantised or dtype],
        reasoning_parser=raw.get("reasoning-parser"),
        shape=shape,
        behaviour=raw,
    )


def check_parallel(serving: Serving, model: Model) -> None:
    """Refuse what vLLM refuses: heads that tensor parallelism does not divide."""
    tp, shape = serving.tensor_parallel_size, model.shape
    if shape.num_attention_heads % tp:
        raise ConfigError(
            f"tensor-parallel-size {tp} does not divide the {shape.num_attention_heads} attention heads of {model.name}"
        )
    heads = shape.num_key_value_heads
    if heads % tp and tp % heads:
        raise ConfigError(
            f"tensor-parallel-size {tp} and the {heads} key-value heads of {model.name}: neither divides the other"
        )
