"""`python -m server watch URL`: lets Prometheus scrape a server that nobody here has started, for as long as the command runs.

It writes a target file with the labels that the dashboards need, and removes it when it ends by Ctrl-C, SIGTERM or the end of
its terminal. The server is asked once for its model, so that a wrong URL is a message and not an empty dashboard.

This module does not know the settings of the scrape or what the dashboards show.
"""

import argparse
import json
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from server.config import ConfigError
from server.launch import prometheus_targets

LARGEST = 2**20
"""Bytes of a list of models that are read."""
ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
DEADLINE_S = 5.0
LOOPBACK = r"localhost|127(\.\d+){3}|::1"


def add_command(commands: Any) -> None:
    """Adds `watch` to the commands of `python -m server`."""
    command = commands.add_parser(
        "watch",
        help="let Prometheus scrape a server of your own, until Ctrl-C",
        description="Write a target file for a server of your own, and remove it at the end.",
        epilog="example: python -m server watch http://10.0.0.7:8000/v1 --config tp2 --run friday",
    )
    add = command.add_argument
    add("url", metavar="URL", help="base URL of the server, with or without /v1")
    add("--config", default="own", help="label `config` of its series [own]")
    add("--model", help="label `model` [the first model that the server lists]")
    add("--tp", default="1", help="label `tp`: tensor parallel size [1]")
    add("--speculation", default="none", help="label `speculation` [none]")
    add("--run", default="none", help="label `run` [none]")
    add("--gpu-metrics", metavar="HOST:PORT", help="a DCGM exporter of the server's GPUs")
    command.set_defaults(execute=_watch)


def _watch(args: argparse.Namespace) -> int:
    """Writes the file, waits for a signal, and removes the file. Raises ConfigError."""
    url = _checked(args.url)
    if (folder := prometheus_targets.folder()) is None:
        hint = "thinkload files DIR makes one: export THINKLOAD_TARGETS=DIR/prometheus/targets"
        raise ConfigError(f"there is no folder for Prometheus' targets: {hint}")
    gpu = None if args.gpu_metrics is None else urlsplit(f"//{args.gpu_metrics}")
    labels = {
        "config": args.config,
        "model": args.model or _first_model(args.url, url),
        "tp": args.tp,
        "speculation": args.speculation,
        "run": args.run,
    }
    name = re.sub(r"[^\w.-]+", "-", f"watch-{url.netloc}", flags=re.ASCII)
    reserved = {"__scheme__": url.scheme, "__metrics_path__": f"{_base(url)}/metrics"}
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, ENDS
    )  # before there is a file that a signal would leave behind
    prometheus_targets.write(
        name, _address(url), None if gpu is None else _address(gpu), "/metrics", labels, reserved=reserved
    )
    try:
        print(f"server: Prometheus scrapes {url.netloc} as {labels}, until Ctrl-C", file=sys.stderr)
        print(json.dumps({"target": str(Path(folder) / f"{name}.json"), "labels": labels}), flush=True)
        signal.sigwait(ENDS)
    finally:
        prometheus_targets.remove(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _checked(text: str) -> SplitResult:
    """The URL. Raises ConfigError."""
    try:
        url = urlsplit(text)
        if (
            url.scheme in ("http", "https")
            and url.hostname
            and url.port != 0
            and "@" not in url.netloc
            and not url.query
        ):
            return url
    except ValueError:  # a port that is no number
        pass
    raise ConfigError(
        f"watch {text!r}: write a URL such as http://10.0.0.7:8000/v1, without a user and a query"
    )


def _base(url: SplitResult) -> str:
    return url.path.rstrip("/").removesuffix("/v1")


def _address(url: SplitResult) -> str:
    """The address at which Prometheus, which may be in a container, reaches the server."""
    port = url.port or (443 if url.scheme == "https" else 80)
    if re.fullmatch(LOOPBACK, url.hostname or ""):
        return prometheus_targets.address(port)
    return f"[{url.hostname}]:{port}" if ":" in (url.hostname or "") else f"{url.hostname}:{port}"


def _first_model(text: str, url: SplitResult) -> str:
    """The first model that the server lists. Raises ConfigError where there is none."""
    models = f"{url.scheme}://{url.netloc}{_base(url)}/v1/models"
    try:
        name = json.loads(_page(models))["data"][0]["id"]
    except urllib.error.HTTPError as error:
        raise ConfigError(f"{models} answered HTTP {error.code}: give the label with --model NAME") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"no server at {text} ({reason}): start it, or correct the URL") from None
    except (ValueError, RecursionError, LookupError, TypeError):
        raise ConfigError(f"{models} lists no model: give the label with --model NAME") from None
    if not isinstance(name, str) or not name.isprintable() or len(name) > 500:
        raise ConfigError(f"{models} lists no model with a name: give the label with --model NAME")
    return name


def _page(url: str) -> bytes:
    """The page, which must be there within the deadline however slowly it is sent. Raises OSError or HTTPException."""
    found: list[bytes | Exception] = []

    def read() -> None:
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - http(s), as checked
                found.append(answer.read(LARGEST))
        except (OSError, HTTPException) as error:
            found.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(DEADLINE_S)
    if not found:
        raise TimeoutError(f"no complete answer within {DEADLINE_S:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
