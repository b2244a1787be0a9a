"""`python -m server`: list configurations, serve one of them without a GPU, or start and stop servers.

Rules: operator errors are one line on stderr and exit 2; the last line on stdout is one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

from server import relay
from server.arguments import ServerParser, above_zero, port
from server.config import (
    CONFIGS,
    MODELS,
    ConfigError,
    check_parallel,
    load_model,
    load_serving,
    names,
    overrides_from,
    read_config,
)
from server.gpu import exporter
from server.launch import cli as launching
from server.launch import commands

EXAMPLES = """examples:
  python -m server configs
  python -m server up tp2-ngram --model r1-distill-qwen-14b --backend docker
  python -m server emulate tp1 --model r1-distill-qwen-1.5b
  python -m server emulate tp2-ngram --model r1-distill-qwen-14b --gpu h100 --port 8001 --speed 20
  python -m server emulate tp1 --model s1.1-7b --dataset math500.jsonl --api-key secret --enable-per-request-metrics
"""
SAMPLE = Path(__file__).parent.parent / "loadgen" / "data" / "sample.jsonl"


def _configs() -> int:
    configs, models = {}, {}
    for name in names(CONFIGS):
        config = read_config(name)
        gpus, method = commands.tensor_parallel_size(config), commands.speculation(config)
        configs[name] = {"tensor_parallel_size": gpus, "speculation": method}
        print(
            f"{name:<12} {gpus} GPU{'s' if gpus > 1 else ''}{f', {method}' if method else ''}",
            file=sys.stderr,
        )
    for name in names(MODELS):
        model = load_model(name)
        models[name] = {"id": model.id}
        print(f"{name:<22} {model.id}", file=sys.stderr)
    print(json.dumps({"configs": configs, "models": models}))
    return 0


def _emulate(args: argparse.Namespace, extra: list[str]) -> int:
    from server.emulator.api.app import EmulatorSettings  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.api.faults import FaultInjector, read_faults  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.api.serve import serve  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.engine import hardware  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.engine.step_time import StepModel  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.text.model import MODES  # noqa: PLC0415 - `configs` and --help need no numpy
    from server.emulator.text.problems import read_problems  # noqa: PLC0415 - `configs` and --help need no numpy

    serving = load_serving(args.config, overrides_from(extra))
    model = load_model(args.model)
    check_parallel(serving, model)
    gpus, versions = hardware.gpus(), hardware.engine_versions()
    version = args.era or args.engine_version
    for value, known, flag in ((args.gpu, gpus, "--gpu"), (version, versions, "--engine-version")):
        if value not in known:
            raise ConfigError(f"{flag} {value}: choose from {', '.join(known)}")
    if args.text not in MODES and not Path(args.text).is_file():
        raise ConfigError(
            f"--text {args.text}: choose from {', '.join(MODES)}, or a file of recorded outputs"
        )
    path = Path(args.dataset) if args.dataset else SAMPLE
    if not path.is_file():
        raise ConfigError(f"--dataset {path}: no such file")
    try:
        problems = read_problems(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not problems:
        raise ConfigError(f"--dataset {path}: no problem in it")
    room = (
        StepModel(model, serving, gpus[args.gpu], versions[version]).kv_blocks(serving) * serving.block_size
    )
    if room < serving.max_model_len:
        raise ConfigError(
            f"{serving.name}: max-model-len: {serving.max_model_len} tokens do not fit into the KV cache, which holds "
            f"{max(room, 0)} beside {model.name} on {serving.tensor_parallel_size} x {args.gpu}"
        )
    setting = EmulatorSettings(
        serving=serving, model=model, gpu_name=args.gpu, gpu=gpus[args.gpu], version=versions[version], seed=args.seed, speed=args.speed, text=args.text
    )  # fmt: skip
    faults = FaultInjector(read_faults(args.fault), args.seed)
    code = serve(setting, problems, faults, args.host, args.port)
    print(json.dumps({"stopped": serving.name, "status": code}))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = ServerParser(
        prog="python -m server",
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verbs.add_parser("configs", help="list configurations and models")
    launching.add_verbs(verbs)
    exporter.add_verb(verbs)
    relay.add_verb(verbs)
    emulate = verbs.add_parser(
        "emulate",
        help="serve a configuration without a GPU",
        description="Serve a configuration without a GPU. Options of `vllm serve` that follow override the file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    emulate.add_argument(
        "config", metavar="CONFIG", help="name in server/configs, or a .yaml file in vLLM's --config format"
    )
    emulate.add_argument(
        "--model", required=True, metavar="PRESET", help="name in server/models, a model id, or a .yaml file"
    )
    emulate.add_argument("--gpu", default="h200", help="h200 (default), h100, gh200, a100")
    emulate.add_argument("--engine-version", default="0.32", help="0.26, 0.32 (default), 0.33")
    emulate.add_argument("--era", metavar="0.7.3", help="the paper's engine instead")
    emulate.add_argument("--host", default="127.0.0.1")
    emulate.add_argument("--port", type=port, default=8000)
    emulate.add_argument(
        "--dataset",
        metavar="FILE",
        help="problems the model knows, JSONL in MATH-500's schema (default: the sample set)",
    )
    emulate.add_argument(
        "--text",
        default="trace",
        metavar="WHAT",
        help="what the model writes: trace (default), loop, random, or a JSONL file of recorded outputs",
    )
    emulate.add_argument("--seed", type=int, default=0)
    emulate.add_argument(
        "--speed",
        type=above_zero("--speed"),
        default=1.0,
        metavar="X",
        help="divide all waiting by X (default: 1)",
    )
    emulate.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KEY=NUMBER",
        help="error, stall, stall-rate, cut, crash-after, slow-start; repeatable",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    # Cut by hand: argparse gives what follows "--" to no positional once options stand between (bpo-14191).
    cut = words.index("--") if "--" in words else len(words)
    try:
        args, extra = parser.parse_known_args(words[:cut])
        args.more = words[cut + 1 :]
        if (extra and args.command != "emulate") or (args.more and args.command != "up"):
            parser.error(f"unrecognized arguments: {' '.join([*extra, *args.more])}")
        if args.command == "configs":
            return _configs()
        return _emulate(args, extra) if args.command == "emulate" else int(args.verb(args))
    except ConfigError as error:
        print(f"server: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
