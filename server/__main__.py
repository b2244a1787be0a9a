"""`python -m server`: list configurations, serve one without a GPU, or start and stop servers.

People read stderr. Programs read the last line of stdout, which is one JSON object. A mistake of the operator is one line
on stderr and exit code 2.
"""

import argparse
import json
import sys
from typing import Any

from server import preset, relay, watch
from server.arguments import EXAMPLES, ServerParser, above_zero, port
from server.config import CONFIGS, MODELS, ConfigError, load_model, names, read_config
from server.gpu import exporter
from server.launch import cli as launch_commands
from server.launch.commands import speculation
from server.launch.spec import LaunchFailedError


def _configs() -> int:
    configs, models = {}, {}
    for name in names(CONFIGS):
        config = read_config(name)
        gpus, method = config["tensor-parallel-size"], speculation(config)
        configs[name] = {"tensor_parallel_size": gpus, "speculation": method}
        print(f"{name:<12} {gpus} GPU{'s' if gpus > 1 else ''}{f', {method}' if method else ''}", file=sys.stderr)
    for name in names(MODELS):
        model = load_model(name)
        models[name] = {"id": model.id}
        print(f"{name:<22} {model.id}", file=sys.stderr)
    print(json.dumps({"configs": configs, "models": models}))
    return 0


def _add_emulate(commands: Any) -> None:
    command = commands.add_parser(
        "emulate",
        help="serve a configuration without a GPU",
        description="Serve a configuration without a GPU. Options of `vllm serve` that follow override the file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add("config", metavar="CONFIG", help="name in server/configs, or a .yaml file in vLLM's --config format")
    add("--model", required=True, metavar="PRESET", help="name in server/models, a model id, or a .yaml file")
    add("--gpu", default="h200", help="GPU model: h200 (default), h100, gh200, a100")
    add("--engine-version", default="0.32", help="vLLM version: 0.26, 0.32 (default), 0.33")
    add("--era", metavar="0.7.3", help="the engine version of the paper, instead of --engine-version")
    add("--host", default="127.0.0.1")
    problems = "problems whose answers the model knows, JSONL like MATH-500 (default: the sample set)"
    add("--dataset", metavar="FILE", help=problems)
    text = "generated text: trace (default), loop, random, or a JSONL file of recorded outputs"
    add("--text", default="trace", metavar="WHAT", help=text)
    acceptance = "accepted drafts: tokens of a step, a published curve, or a .yaml file (docs/emulator.md)"
    add("--acceptance", metavar="WHAT", help=acceptance)
    add("--port", type=port, default=8000)
    add("--seed", type=int, default=0)
    speed = "divide every waiting time by X (default: 1)"
    add("--speed", type=above_zero("--speed"), default=1.0, metavar="X", help=speed)
    faults = "inject a fault: error, stall, stall-rate, cut, crash-after, slow-start; may be repeated"
    add("--fault", action="append", default=[], metavar="KEY=NUMBER", help=faults)


def _parser() -> argparse.ArgumentParser:
    parser = ServerParser(
        prog="python -m server",
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("configs", help="list configurations and models")
    launch_commands.add_commands(commands)
    exporter.add_command(commands)
    relay.add_command(commands)
    preset.add_command(commands)
    watch.add_command(commands)
    _add_emulate(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    # argparse assigns the words after "--" to no positional argument if options stand in between (bpo-14191).
    end = words.index("--") if "--" in words else len(words)
    try:
        args, extra = parser.parse_known_args(words[:end])
        args.more = words[end + 1 :]
        if (extra and args.command != "emulate") or (args.more and args.command != "up"):
            parser.error(f"unrecognized arguments: {' '.join([*extra, *args.more])}")
        if args.command == "configs":
            return _configs()
        if args.command == "emulate":
            from server import emulate  # noqa: PLC0415 - the other commands work without numpy

            return emulate.main(args, extra)
        return int(args.execute(args))
    except (ConfigError, LaunchFailedError) as error:
        for line in getattr(error, "tail", ()):
            print(f"  | {line}", file=sys.stderr)
        print(f"server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("server: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
