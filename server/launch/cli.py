"""The commands `python -m server up`, `down`, `logs` and `status`, for servers that outlive the command that started them.

People read stderr. Programs read the last line of stdout, which is one JSON object. A failed start is one line on stderr and
exit code 2. This module does not know how a server is started.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from server.arguments import EXAMPLES, above_zero, indices, port
from server.launch import docker_backend, lifecycle, readiness, running
from server.launch.commands import labels
from server.launch.spec import BACKENDS, LaunchFailedError, Spec


def add_commands(commands: Any) -> None:
    """Adds the four commands to the parser of `python -m server`."""
    texts: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES}
    up = commands.add_parser("up", help="start a server, wait until it is ready, leave it running", **texts)
    up.add_argument("config", help="serving configuration: a name in server/configs, or a .yaml file")
    up.add_argument("--model", required=True, help="preset in server/models, or a model id or path")
    up.add_argument(
        "--backend",
        choices=BACKENDS,
        default="docker",
        help="docker, process (vllm serve on this machine) or emulator [docker]",
    )
    up.add_argument("--port", type=port, default=0, help="port on 127.0.0.1 [the first free one from 8000]")
    up.add_argument("--gpus", type=indices, help="GPU indices, e.g. 0,1 [the first free ones]")
    up.add_argument("--image", help=f"image of backend docker [$VLLM_IMAGE, else {docker_backend.VLLM_IMAGE}]")
    up.add_argument(
        "--start-timeout",
        type=above_zero("--start-timeout"),
        default=900.0,
        metavar="S",
        help="longest time until the server is ready, in seconds [900]",
    )
    up.add_argument("--run", default="", help="label `run` of the server's Prometheus series")
    up.usage = "%(prog)s CONFIG --model M [options] [-- further options of vllm serve, or of the emulator]"
    up.set_defaults(execute=_up)
    down = commands.add_parser("down", help="stop servers that were started with this program", **texts)
    down.add_argument("name", nargs="?", help="configuration or server name")
    down.add_argument(
        "--all", action="store_true", help="stop all of this checkout, also those of a launcher that was killed"
    )
    down.add_argument("--everywhere", action="store_true", help="include servers that another checkout started")
    down.set_defaults(execute=_down)
    logs = commands.add_parser("logs", help="print a server's log", **texts)
    logs.add_argument("name", help="configuration or server name")
    logs.set_defaults(execute=_logs)
    status = commands.add_parser("status", help="list running servers", **texts)
    status.set_defaults(execute=_status)


def _print(line: str) -> None:
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
    # Raises ConfigError for a configuration or a model that does not exist, before an image is asked for.
    labels(spec)
    with lifecycle.watched() as watchdog:  # until it is ready, the server ends with this command
        try:
            server = lifecycle.start(spec, _print)
        finally:
            watchdog.kill()
    print(json.dumps({"name": server.name, "url": f"http://127.0.0.1:{server.port}/v1", "log": str(server.log)}))
    return 0


def _down(args: argparse.Namespace) -> int:
    if not args.name and not args.all:
        raise LaunchFailedError(
            "name a server (python -m server status lists them): python -m server down NAME, or --all"
        )
    stopped = running.stop_all(name=None if args.all else args.name, everywhere=args.everywhere)
    if args.name and not stopped:
        raise _no_server(args.name)
    print(json.dumps({"ended": stopped}))
    return 0


def _no_server(name: str) -> LaunchFailedError:
    return LaunchFailedError(f"no server {name!r} is running: python -m server status lists them")


def _status(_args: argparse.Namespace) -> int:
    rows = []
    for server in running.servers():
        row = {name: getattr(server, name) for name in ("name", "backend", "config", "model", "port")}
        rows.append({**row, "log": server.log or None, "healthy": readiness.healthy(server.port)})
    for row in rows:
        state = "healthy" if row["healthy"] else "not ready"
        _print(f"{row['name']}  {row['backend']}  {row['model']}  port {row['port']}  {state}")
    print(json.dumps({"servers": rows}))
    return 0


def _logs(args: argparse.Namespace) -> int:
    found = [server for server in running.servers() if args.name in {server.name, server.config}]
    if not found:
        raise _no_server(args.name)
    for server in found:
        log = Path(server.log).read_text(errors="replace") if server.log else docker_backend.log(server.name)
        _print(log)
    print(json.dumps({"logs": [server.name for server in found]}))
    return 0
