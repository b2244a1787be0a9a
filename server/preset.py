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
PARSERS = (
    (r"r1-distill|deepseek-r1|qwq", "deepseek_r1"),
    (r"qwen3", "qwen3"),
    (r"magistral", "mistral"),
    (r"granite", "granite"),
)
"""Reasoning parsers of vLLM, by what stands in the model's id."""


def add_command(commands: Any) -> None:
    """Adds `preset` to the commands of `python -m server`."""
    command = commands.add_parser(
        "preset",
        help="write a preset for a model of your own, from its config.json",
        description="Print a preset for a model, from its config.json.",
        epilog="example: python -m server preset Qwen/Qwen3-8B > qwen3-8b.yaml",
    )
    command.add_argument(
        "model", metavar="MODEL", help="id on the Hugging Face Hub, or a folder with config.json"
    )
    command.set_defaults(execute=lambda args: print(preset(args.model), end="") or 0)


def preset(model: str) -> str:
    """The text of the preset. Raises ConfigError."""
    config = _read(model)
    where, name = f"{model}/config.json", str(Path(model).resolve()) if Path(model).is_dir() else model
    parser = next((parser for pattern, parser in PARSERS if re.search(pattern, model, re.IGNORECASE)), None)
    lines = [
        f"id: {json.dumps(name)}",
        f"prompt: {_prompt(model)} # the prompt style of the load generator: chat, r1, s1 or chatml",
        f"dtype: {_dtype(config)}",
        f"reasoning-parser: {parser or 'null'} # vllm serve --reasoning-parser{'' if parser else '; null: none is known for this model'}",
        *_quantization(config),
    ]
    if reason := next(
        (what for what, keys in NOT_DENSE.items() if any(_text(config).get(key) for key in keys)), None
    ):
        lines.insert(
            0, f"# The model is {reason}: it can be launched but not emulated, so the preset has no shape."
        )
        print(
            f"server: {model} is {reason}: it can be launched with this preset, but it cannot be emulated",
            file=sys.stderr,
        )
    else:
        shape, assumed = _shape(config, where)
        lines.append(f"shape: # from config.json{f'; assumed: {assumed}' if assumed else ''}")
        lines += [f"  {key}: {json.dumps(value)}" for key, value in msgspec.to_builtins(shape).items()]
    return "\n".join(
        [
            *lines,
            "# `text:` can describe the model's answers (docs/models.md). Without it, those of a 7B model are assumed.",
            "",
        ]
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


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The part on the language model, which models of images and text nest."""
    part = config.get("text_config")
    return config | part if isinstance(part, dict) else config


def _shape(config: dict[str, Any], where: str) -> tuple[Shape, str]:
    """The shape, and which of its values config.json does not state. Raises ConfigError."""
    text = _text(config)
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    # A config.json leaves out what its model class has as a default: Gemma's ties the embeddings, others' do not.
    defaults: dict[str, Any] = {"tie_word_embeddings": str(text.get("model_type", "")).startswith("gemma")}
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        defaults |= {"num_key_value_heads": heads, "head_dim": hidden // heads}
    names = list(Shape.__annotations__)
    found = {name: text[name] for name in names if text.get(name) is not None}
    try:
        shape = msgspec.convert(defaults | found, Shape)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from None
    return shape, ", ".join(name for name in names if name not in found)


def _prompt(model: str) -> str:
    for pattern, style in ((r"r1-distill|deepseek-r1", "r1"), (r"(^|/)s1(\.1)?-", "s1")):
        if re.search(pattern, model, re.IGNORECASE):
            return style
    return "chat"


def _dtype(config: dict[str, Any]) -> str:
    dtype = _text(config).get("torch_dtype", _text(config).get("dtype"))
    return dtype if isinstance(dtype, str) and dtype in WEIGHT_BYTES else "auto"


def _quantization(config: dict[str, Any]) -> list[str]:
    part = config.get("quantization_config")
    method = part.get("quant_method") if isinstance(part, dict) else None
    if not isinstance(method, str):
        return []
    if method in QUANTIZED_BYTES:
        return [f"quantization: {method}"]
    return [
        f"# quantization {json.dumps(method)} is not emulated: the emulator would assume unquantized weights"
    ]
