"""`python -m server up|down|logs|status`: servers that outlive the command that started them.

Rules: people read stderr, programs the last line of stdout, one JSON object. What an operator can mend is one line and
exit code 2. Does not know: how a server is started.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.arguments import above_zero, indices, port
from server.launch import docker_backend, lifecycle, processes, readiness
from server.launch.spec import BACKENDS, LaunchFailedError, Spec
from server.launch.watchdog import end_all

Verb = Callable[[argparse.Namespace], int]
EXAMPLES = """examples:
  python -m server up tp2-ngram --model r1-distill-qwen-14b --backend docker
  python -m server up tp1 --model r1-distill-qwen-1.5b --backend emulator -- --speed 10
  python -m server logs tp2-ngram
  python -m server down --all"""


def add_verbs(verbs: Any) -> None:
    """Add the four verbs to the parser of `python -m server`."""
    plain: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES}
    up = verbs.add_parser("up", help="start a server, wait until it generates, leave it running", **plain)
    up.add_argument("config", help="serving configuration: a name in server/configs or a file")
    up.add_argument("--model", required=True, help="preset in server/models, or a model id or path")
    up.add_argument(
        "--backend",
        choices=BACKENDS,
        default="docker",
        help="docker, process (vllm serve here) or emulator [docker]",
    )
    up.add_argument("--port", type=port, default=0, help="port on loopback [the first free one from 8000]")
    up.add_argument("--gpus", type=indices, help="GPU indices, e.g. 0,1 [the first free ones]")
    up.add_argument("--image", help=f"docker: image [$VLLM_IMAGE, else {docker_backend.VLLM_IMAGE}]")
    up.add_argument(
        "--start-timeout",
        type=above_zero("--start-timeout"),
        default=900.0,
        metavar="S",
        help="longest wait until it is ready [900]",
    )
    up.add_argument("--run", default="", help="label `run` of its Prometheus series")
    up.usage = "%(prog)s CONFIG --model M [options] [-- further options of vllm serve, or of the emulator]"
    up.set_defaults(verb=told(_up))
    down = verbs.add_parser("down", help="stop servers that were started here", **plain)
    down.add_argument("name", nargs="?", help="configuration or server name")
    down.add_argument("--all", action="store_true", help="everything, also what a killed launcher left")
    down.set_defaults(verb=told(_down))
    logs = verbs.add_parser("logs", help="print a server's log", **plain)
    logs.add_argument("name", help="configuration or server name")
    logs.set_defaults(verb=told(_logs))
    status = verbs.add_parser("status", help="list running servers", **plain)
    status.set_defaults(verb=told(_status))


def told(verb: Verb) -> Verb:
    """The verb, with what an operator can mend as one line and exit code 2, and Ctrl-C as 130."""

    def run(args: argparse.Namespace) -> int:
        try:
            return verb(args)
        except LaunchFailedError as error:
            report(error)
            return 2
        except KeyboardInterrupt:
            print("server: interrupted", file=sys.stderr)
            return 130

    return run


def report(error: LaunchFailedError) -> None:
    """The last lines of the log, then the one line that says why."""
    for line in error.tail:
        print(f"  | {line}", file=sys.stderr)
    print(f"server: {error.reason}", file=sys.stderr)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _up(args: argparse.Namespace) -> int:
    spec = Spec(
        config=args.config,
        model=args.model,
        backend=args.backend,
        port=args.port,
        gpus=args.gpus,
        image=args.image,
        start_timeout_s=args.start_timeout,
        run=args.run,
        emulate=tuple(args.more),
        vllm=tuple(args.more),
    )
    with lifecycle.Launcher(_say) as launcher:  # until it is ready, even `kill -9` of this command ends it
        try:
            server = lifecycle.start(spec, _say)
        finally:
            launcher.release()
    print(
        json.dumps({"name": server.name, "url": f"http://127.0.0.1:{server.port}/v1", "log": str(server.log)})
    )
    return 0


def _down(args: argparse.Namespace) -> int:
    if not args.name and not args.all:
        raise LaunchFailedError(
            "say which: python -m server down NAME, or --all (python -m server status lists them)"
        )
    ended = end_all(name=None if args.all else args.name)
    if args.name and not ended:
        raise LaunchFailedError(f"no server {args.name!r} runs: python -m server status lists them")
    print(json.dumps({"ended": ended}))
    return 0


def rows() -> list[dict[str, Any]]:
    """Every running server of ours, whatever its backend."""
    found = [
        {
            "name": n.name,
            "backend": n.backend,
            "config": n.config,
            "model": n.model,
            "port": n.port,
            "log": n.log,
        }
        for n in processes.notes()
    ]
    for container in docker_backend.running():
        label = {key: container.labels.get(f"thinkload.{key}") for key in ("config", "model", "port")}
        found.append(
            {
                "name": container.name,
                "backend": "docker",
                **label,
                "port": int(label["port"] or 0),
                "log": None,
            }
        )
    return found


def _status(_args: argparse.Namespace) -> int:
    servers = [{**row, "healthy": readiness.healthy(row["port"])} for row in rows()]
    for row in servers:
        _say(
            f"{row['name']}  {row['backend']}  {row['model']}  port {row['port']}  {'healthy' if row['healthy'] else 'not ready'}"
        )
    print(json.dumps({"servers": servers}))
    return 0


def _logs(args: argparse.Namespace) -> int:
    found = [row for row in rows() if args.name in {row["name"], row["config"]}]
    if not found:
        raise LaunchFailedError(f"no server {args.name!r} runs: python -m server status lists them")
    for row in found:
        _say(_log_of(row))
    print(json.dumps({"logs": [row["name"] for row in found]}))
    return 0


def _log_of(row: dict[str, Any]) -> str:
    if row["log"]:
        return Path(row["log"]).read_text(errors="replace")
    container = next(each for each in docker_backend.running() if each.name == row["name"])
    return str(container.logs().decode(errors="replace"))
