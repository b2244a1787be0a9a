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
import urllib.request
from contextlib import suppress
from http.client import HTTPException
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
    add("--model", metavar="ID", help="label `model` of its series [the first model that the server lists]")
    for name, default in (("config", "own"), ("tp", "1"), ("speculation", "none"), ("run", "none")):
        add(f"--{name}", default=default, metavar="LABEL", help=f"label `{name}` [{default}]")
    command.set_defaults(execute=_watch)


def _watch(args: argparse.Namespace) -> int:
    """Writes the file, waits for a signal, and removes the file. Raises ConfigError."""
    url = _checked(args.url)
    if prometheus_targets.folder() is None:
        hint = "thinkload files DIR makes one: export THINKLOAD_TARGETS=DIR/prometheus/targets"
        raise ConfigError(f"there is no folder for Prometheus' targets: {hint}")
    base = url.path.rstrip("/").removesuffix("/v1")
    model = args.model or _first_model(f"{url.scheme}://{url.netloc}{base}/v1/models")
    labels = {name: getattr(args, name) for name in ("config", "tp", "speculation", "run")} | {"model": model}
    reserved = {"__scheme__": url.scheme, "__metrics_path__": f"{base}/metrics"}
    name = re.sub(r"[^\w.-]+", "-", f"watch-{url.netloc}", flags=re.ASCII)
    # Whichever of the signals ends the command, the file is removed. Blocking them for `sigwait` would not do: a thread of a
    # library does not block them, and would get the one that comes before the wait.
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            prometheus_targets.write(name, _address(url), None, {}, reserved | labels)
            print(f"server: Prometheus scrapes {url.netloc} until this command ends (Ctrl-C)", file=sys.stderr)
            print(json.dumps({"target": name, "labels": labels}), flush=True)
            threading.Event().wait()
    finally:
        prometheus_targets.remove(name)
    return 0


def _checked(text: str) -> SplitResult:
    """The URL. Raises ConfigError."""
    try:
        url = urlsplit(text)
        plain = "@" not in url.netloc and not url.query
        if url.scheme in ("http", "https") and url.hostname and url.port != 0 and plain:
            return url
    except ValueError:  # a port that is no number
        pass
    raise ConfigError(f"watch {text!r}: write a URL such as http://10.0.0.7:8000/v1, without a user and a query")


def _address(url: SplitResult) -> str:
    """The address at which Prometheus, which may be in a container, reaches the server."""
    port = url.port or (443 if url.scheme == "https" else 80)
    if re.fullmatch(LOOPBACK, url.hostname or ""):
        return prometheus_targets.address(port)
    return f"[{url.hostname}]:{port}" if ":" in (url.hostname or "") else f"{url.hostname}:{port}"


def _first_model(url: str) -> str:
    """The first model of the list at this URL. Raises ConfigError where there is none."""
    try:
        name = json.loads(_page(url))["data"][0]["id"]
        if isinstance(name, str) and name.isprintable() and len(name) <= 500:
            return name
        reason = "no name"
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", error))
    except (ValueError, RecursionError, LookupError, TypeError):
        reason = "no list of models"
    raise ConfigError(f"{url} names no model ({reason}): start the server, correct the URL, or give --model ID")


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
