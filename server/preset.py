"""`python -m server preset MODEL > my.yaml`: writes a preset for a model of one's own, from its `config.json`.

MODEL is an id on the Hugging Face Hub or a folder with the model. The preset is printed to stdout, so that it can be read
and changed before it is used; every value that `config.json` does not state is marked as assumed. A model whose time of a step
the emulator cannot compute (mixture of experts, compressed keys and values, layers without attention) gets a preset without a
shape: the launcher can use it, and the emulator refuses it.

This module does not know how a preset is used.
"""

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import msgspec

from server.config import QUANTIZED_BYTES, WEIGHT_BYTES, ConfigError, Shape

LARGEST = 2**20
"""Bytes of a config.json; those of today's models have a few thousand."""
NOT_DENSE = {
    "a mixture of experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "a model with compressed keys and values (MLA)": ("kv_lora_rank",),
    "a model with layers without attention": (
        "mamba_d_state",
        "ssm_cfg",
        "linear_num_value_heads",
        "attn_layer_period",
    ),
}
"""What the emulator has no step time for, and the keys of config.json that show it."""
FAMILIES = (
    (r"r1-distill|deepseek-r1", "r1", "deepseek_r1"),
    (r"(^|/)s1(\.1)?-", "s1", None),
    (r"qwq", "chat", "deepseek_r1"),
    (r"qwen3", "chat", "qwen3"),
    (r"magistral", "chat", "mistral"),
    (r"granite", "chat", "granite"),
    (r"", "chat", None),
)
"""What stands in a model's name, the prompt style of the load generator, and the reasoning parser of vLLM."""


def add_command(commands: Any) -> None:
    """Adds `preset` to the commands of `python -m server`."""
    command = commands.add_parser(
        "preset",
        help="write a preset for a model of your own, from its config.json",
        description="Print a preset for a model, from its config.json.",
        epilog="example: python -m server preset Qwen/Qwen3-8B > qwen3-8b.yaml",
    )
    command.add_argument("model", metavar="MODEL", help="id on the Hugging Face Hub, or a folder with config.json")
    command.set_defaults(execute=lambda args: print(preset(args.model), end="") or 0)


def preset(model: str) -> str:
    """The text of the preset. Raises ConfigError."""
    config = _read(model)
    config |= config["text_config"] if isinstance(config.get("text_config"), dict) else {}  # beside images
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    style, parser = next(rest for pattern, *rest in FAMILIES if re.search(pattern, model, re.IGNORECASE))
    dtype, packed = config.get("torch_dtype", config.get("dtype")), config.get("quantization_config")
    method = packed.get("quant_method") if isinstance(packed, dict) else None
    lines = [
        f"id: {json.dumps(name)}",
        f"prompt: {style} # the prompt style of the load generator: chat, r1, s1 or chatml",
        f"dtype: {dtype if str(dtype) in WEIGHT_BYTES else 'auto'}",
        f"reasoning-parser: {parser or 'null'} # vllm serve --reasoning-parser{'' if parser else '; none is known for this name'}",
    ]
    if method is not None:
        known = str(method) in QUANTIZED_BYTES
        lines += [f"quantization: {method}" if known else f"# quantization {json.dumps(method)} is not emulated"]
    if reason := next((what for what, keys in NOT_DENSE.items() if any(config.get(key) for key in keys)), None):
        print(f"server: {model} is {reason}: it can be launched, but it cannot be emulated", file=sys.stderr)
        lines += [f"# no shape, because the emulator has no step time for {reason}"]
    else:
        lines += _shape(config, f"{model}/config.json")
    return "\n".join(
        [*lines, "# text: statistics of the answers (docs/models.md); without them, those of a 7B model", ""]
    )


def _read(model: str) -> dict[str, Any]:
    """The content of config.json. Raises ConfigError."""
    folder = Path(model)
    path = folder / "config.json" if folder.is_dir() else _fetched(model)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: is larger than {LARGEST >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: give the folder of a model in the format of Hugging Face"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a JSON object")
    return content


def _fetched(model: str) -> Path:
    """The config.json of a model on the Hub, from the cache where possible. Raises ConfigError."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII):
        raise ConfigError(f"preset {model!r}: there is no such folder, and a model id is OWNER/NAME")
    import huggingface_hub as hub  # noqa: PLC0415 - the import takes 0.4 s
    from huggingface_hub import constants  # noqa: PLC0415

    try:
        if isinstance(cached := hub.try_to_load_from_cache(model, "config.json"), str):
            return Path(cached)
        endpoint = urlsplit(constants.ENDPOINT)
        if endpoint.scheme not in getproxies():  # the Hub's client would try for half a minute
            port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
            socket.create_connection((endpoint.hostname, port), timeout=5).close()
        return Path(hub.hf_hub_download(model, "config.json"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise ConfigError(
            f"{model} cannot be fetched from the Hub ({reason}): give a folder with config.json"
        ) from error


def _shape(config: dict[str, Any], where: str) -> list[str]:
    """The lines of the shape, which name the values that config.json does not state. Raises ConfigError."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    # A config.json leaves out what its model class has as a default: Gemma's ties the embeddings, others' do not.
    defaults: dict[str, Any] = {"tie_word_embeddings": str(config.get("model_type", "")).startswith("gemma")}
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        defaults |= {"num_key_value_heads": heads, "head_dim": hidden // heads}
    found = {name: config[name] for name in Shape.__annotations__ if config.get(name) is not None}
    try:
        shape = msgspec.convert(defaults | found, Shape)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from None
    assumed = ", ".join(name for name in Shape.__annotations__ if name not in found)
    values = msgspec.to_builtins(shape).items()
    return [
        f"shape: # from config.json{assumed and f'; assumed: {assumed}'}",
        *(f"  {key}: {json.dumps(value)}" for key, value in values),
    ]
