"""Reads serving configurations (`configs/NAME.yaml`, in vLLM's `--config` format) and model presets (`models/NAME.yaml`).

Every error is one line that names the file and the key, and it is raised before anything starts. An option of `vllm serve`
that has no effect in the emulator is accepted, so that one file configures both servers. An unknown option is refused.

This module does not know how an engine behaves, or how long anything takes.
"""

import difflib
import itertools
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from server.speculation import Positive, Speculation, speculation_of
from server.yaml_file import YamlFileError, read_yaml

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
MODELS = HERE / "models"


class ConfigError(Exception):
    """A mistake in a file or in an argument. The message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One serving configuration. The defaults are those of vLLM 0.32 for one large GPU."""

    name: str
    tensor_parallel_size: Positive = 1
    max_model_len: Positive = 20480
    max_num_seqs: Positive = 1024
    max_num_batched_tokens: Positive = 8192
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.92
    enable_prefix_caching: bool = True
    block_size: Positive = 16
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    num_gpu_blocks_override: int | None = None
    kv_cache_memory_bytes: int | None = None
    seed: int = 0
    speculation: Speculation | None = None
    async_scheduling: bool | None = None
    """None means that the engine version decides."""
    enforce_eager: bool = False
    stream_interval: Positive = 1
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
    """The content of the file, with the command-line overrides applied."""


NEGATIONS = (("no-", ""), ("disable-", "enable-"), ("enable-", "disable-"))
"""How vLLM negates an option: a prefix, and what the option has in its place. The last two came with 0.33."""

Size = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Style = Literal["chat", "bare", "r1", "s1", "chatml"]
"""How a problem is asked (loadgen/plan/prompts.toml)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a model that determine time and memory, from its `config.json`."""

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    intermediate_size: Size
    vocab_size: Size
    tie_word_embeddings: bool = False
    extra_parameters: int = 0
    """Of projections beside the layers, which the head of a drafter has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model preset. `behaviour` is the whole content of the file, which the emulator's text model reads."""

    name: str
    id: str
    prompt: str
    weight_bytes: float
    """Bytes of one weight: 2 in bfloat16, 1 in fp8, about 0.56 in 4-bit formats."""
    reasoning_parser: str | None
    shape: Shape
    behaviour: dict[str, Any]


WEIGHT_BYTES = {"bfloat16": 2.0, "float16": 2.0, "half": 2.0, "float32": 4.0, "auto": 2.0}


class KnownOptions(msgspec.Struct):
    """The content of `vllm_options.yaml`."""

    ignored: set[str]
    parallelism: set[str]
    removed: set[str]
    added: dict[str, int]
    short: dict[str, str]
    quantized_bytes: dict[str, float]


VLLM = msgspec.yaml.decode((HERE / "vllm_options.yaml").read_bytes(), type=KnownOptions)
"""Options of `vllm serve` that are no fields of Serving."""
QUANTIZED_BYTES = VLLM.quantized_bytes
"""Bytes of one weight, by values of `quantization`."""


def names(folder: Path) -> list[str]:
    """The names of the YAML files in a folder, without their suffix, in alphabetical order."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _find(folder: Path, name: str, what: str) -> Path:
    """The file with this name in `folder`, or the YAML file at this path. Raises ConfigError."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"{what} {name}: no such file")
        return path
    known = names(folder)
    if name not in known:
        ids = [str(read_mapping(folder / f"{each}.yaml").get("id")) for each in known] if what == "model" else []
        own = f"a .yaml file{f' (python -m server preset {shlex.quote(name)} > my.yaml)' if what == 'model' else ''}"
        raise ConfigError(
            f"unknown {what} {name!r}{meant(name, known, ids) or ':'} choose from {', '.join(known)}, or give {own}"
        )
    return folder / f"{name}.yaml"


def meant(name: str, *known: Iterable[str]) -> str:
    """`: did you mean NAME?` for the known name that is most like this one, whatever its case; empty if none is."""
    lower = {each.lower(): each for each in itertools.chain(*known)}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.75)
    return f": did you mean {lower[close[0]]}?" if close else ""


def config_file(name: str) -> Path:
    """The file of the configuration with this name, or at this path. Raises ConfigError."""
    return _find(CONFIGS, name, "configuration")


def model_file(model: str) -> Path | None:
    """The preset with this name, with this model id or at this path; None for a model without a preset.

    Raises ConfigError for the path of a YAML file that does not exist, and for a name that is nearly a preset's. Inside vLLM's
    image, which does not contain this package, `server/vllm.sh` finds presets by the same rules.
    """
    if model in names(MODELS) or Path(model).suffix in {".yaml", ".yml"}:
        return _find(MODELS, model, "model")
    path = next((path for path in MODELS.glob("*.yaml") if read_mapping(path).get("id") == model), None)
    # A name without an owner that is nearly a preset's is a typing mistake, because hardly any model id has no owner.
    hint = "" if path or "/" in model or Path(model).is_dir() else meant(model, names(MODELS))
    if hint:
        raise ConfigError(f"unknown model {model!r}{hint}")
    return path


def read_preset(model: str) -> dict[str, Any]:
    """The content of the model's preset; empty for a model without a preset. Raises ConfigError."""
    path = model_file(model)
    return read_mapping(path) if path else {}


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a YAML file that maps option names to values. Raises ConfigError."""
    try:
        content = read_yaml(path)
    except YamlFileError as error:
        raise ConfigError(f"{path}: {error}") from error
    named = isinstance(content, dict) and all(isinstance(key, str) and key.isprintable() for key in content)
    if not isinstance(content, dict) or not named:
        raise ConfigError(f"{path}: must be a mapping of option names to values")
    return content


def _convert(value: object, type_: Any, where: str, key: str) -> Any:
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        choices = f": choose from {', '.join(get_args(type_))}" if get_origin(type_) is Literal else ""
        raise ConfigError(f"{where}: {key}: {error}{choices}") from error


OWN = {"name", "raw", "speculation"}
"""Fields of Serving that are not options."""
OBEYED = {name.replace("_", "-"): kind for name, kind in Serving.__annotations__.items() if name not in OWN}
"""The options that an emulated server obeys, with their types."""
SIZES = {"max-model-len", "max-num-batched-tokens", "kv-cache-memory-bytes"}
"""Options whose value can have a unit."""


def _size(value: object) -> object:
    """Converts `2k`, `16K` and `3G` as vLLM does: a lower-case unit is decimal, an upper-case unit is binary."""
    units = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2, "g": 1000**3, "G": 1024**3}
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?[kKmMgG]", value):
        return int(float(value[:-1]) * units[value[-1]])
    return value


def _speculative(value: object, where: str) -> dict[str, Any] | None:
    """The value of `speculative-config`, which is a mapping or its JSON text. Raises ConfigError."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"{where}: speculative-config: not JSON ({error})") from error
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: speculative-config: must be a mapping")
    return value


def read_config(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of a configuration file and those added to it, for any engine. Raises ConfigError.

    None adds nothing. Every speculation method is accepted here, because the engine decides what it supports.
    """
    path, added = config_file(name), _added(overrides)
    config = {"tensor-parallel-size": 1} | {key.replace("_", "-"): value for key, value in read_mapping(path).items()}
    config |= added
    config |= {key: _size(config[key]) for key in SIZES & config.keys()}
    if "speculative-config" in config:
        where = _where(path, "speculative-config", added)
        config["speculative-config"] = _speculative(config["speculative-config"], where)
    key = "tensor-parallel-size"
    return config | {key: _convert(config[key], Positive, _where(path, key, added), key)}


def _added(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that are added to a file. None adds nothing."""
    return {key: value for key, value in (overrides or {}).items() if value is not None}


def _where(path: Path, key: str, added: Collection[str]) -> str:
    """What an error about an option names: the file, if it has the option from there."""
    return f"an option added to {path}" if key in added else str(path)


def load_serving(name: str, overrides: Mapping[str, Any] | None = None) -> Serving:
    """Reads a configuration for the emulator. `overrides` are options of vLLM's command line. Raises ConfigError."""
    path, added, raw = config_file(name), _added(overrides), read_config(name, overrides)
    speculative = raw.get("speculative-config")
    try:
        speculation = None if speculative is None else speculation_of(speculative)
    except ValueError as error:
        raise ConfigError(f"{_where(path, 'speculative-config', added)}: speculative-config{error}") from error
    values: dict[str, Any] = {}
    known = VLLM.ignored | VLLM.parallelism | VLLM.removed
    for key, value in raw.items():
        option, where = _option(key, OBEYED), _where(path, key, added)
        if key in OBEYED:
            listed = OBEYED[key] == tuple[str, ...] and not isinstance(value, list)
            values[key.replace("-", "_")] = _convert([value] if listed else value, OBEYED[key], where, key)
        elif option in OBEYED:
            values[option.replace("-", "_")] = not _convert(value, bool, where, key)
        elif key in VLLM.parallelism and (value is True or value not in (False, 1, "1")):
            shown = value if str(value).isprintable() else repr(value)
            raise ConfigError(f"{where}: {key}: {shown} is not emulated: only tensor parallelism is")
        elif key != "speculative-config" and _option(key, known) is None:
            hint = meant(key, OBEYED, VLLM.ignored)
            raise ConfigError(f"{where}: {key}: not an option of vllm serve that the emulator knows{hint}")
    return Serving(name=path.stem, raw=raw, speculation=speculation, **values)


def _option(key: str, known: Collection[str]) -> str | None:
    """The known option that a key sets or negates, or None."""
    if key in known:
        return key
    meanings = (other + key.removeprefix(prefix) for prefix, other in NEGATIONS if key.startswith(prefix))
    return next((option for option in meanings if option in known), None)


def release_number(release: str) -> tuple[int, int]:
    """The first two parts of the name of a release of vLLM, so that releases can be compared: (0, 32) of `0.32.0+cpu`."""
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


def check_release(serving: Serving, release: str) -> None:
    """Refuses the options and the spellings that this release of vLLM does not have. Raises ConfigError."""
    number = release_number(release)
    known = OBEYED.keys() | VLLM.ignored
    for key in serving.raw:
        positive = key.removeprefix("no-")
        option = _option(positive, known) or positive
        if (option in VLLM.removed and number >= (0, 26)) or number < (0, VLLM.added.get(option, 0)):
            raise ConfigError(f"{serving.name}: {key}: vLLM {release} has no such option: remove it")
        if option != positive and (0, 26) <= number < (0, 33):
            raise ConfigError(f"{serving.name}: {key}: vLLM {release} does not know this spelling: write no-{option}")


def overrides_from(arguments: Iterable[str]) -> dict[str, Any]:
    """Converts options of vLLM's command line (`--api-key X`, `--no-async-scheduling`) to keys and values of a configuration.

    Raises ConfigError for a value that follows no option.
    """
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if re.match("--|-[a-zA-Z]", argument):
            key = VLLM.short.get(name) or name.removeprefix("--").replace("_", "-")
            values = found[key] = [value] if equals else []
        elif values is None:
            raise ConfigError(f"unexpected argument {argument!r}")
        else:
            values.append(argument)
    return {key: given if len(given) > 1 else given[0] if given else True for key, given in found.items()}


def load_model(name: str) -> Model:
    """Reads a preset for the emulator, by name, model id or path. Raises ConfigError."""
    path = model_file(name) or _find(MODELS, name, "model")
    raw = read_mapping(path)
    for key in ("id", "shape"):
        if key not in raw:
            raise ConfigError(f"{path}: {key}: missing")
    shape = _convert(raw["shape"], Shape, str(path), "shape")
    key, table = ("quantization", QUANTIZED_BYTES) if raw.get("quantization") else ("dtype", WEIGHT_BYTES)
    weight_type = raw.get(key, "auto")
    if not isinstance(weight_type, str) or weight_type not in table:
        raise ConfigError(f"{path}: {key}: {weight_type!r} is not known: choose from {', '.join(table)}")
    return Model(
        name=path.stem,
        id=_convert(raw["id"], str, str(path), "id"),
        prompt=_convert(raw.get("prompt", "chat"), Style, str(path), "prompt"),
        weight_bytes=table[weight_type],
        reasoning_parser=_convert(raw.get("reasoning-parser"), str | None, str(path), "reasoning-parser"),
        shape=shape,
        behaviour=raw,
    )


def check_parallel(serving: Serving, model: Model) -> None:
    """Refuses a model whose heads tensor parallelism cannot divide, as vLLM does. Raises ConfigError."""
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
