"""Tells Prometheus which servers to scrape and with which labels: one file `prometheus/targets/NAME.json` for each server.

vLLM's own metrics contain neither tensor parallelism, nor speculation, nor the run, so these labels add them. Where the
folder does not exist, no file is written: an installed package has no repository around it. THINKLOAD_TARGETS names another
folder.

This module does not know the settings of the scrape (see prometheus/prometheus.yml).
"""

import json
import os
from pathlib import Path

from server.launch.atomic_file import replace_file

DEFAULT_FOLDER = Path(__file__).parents[2] / "prometheus" / "targets"


def folder() -> Path | None:
    """The folder of the target files, or None if it does not exist."""
    path = Path(os.environ.get("THINKLOAD_TARGETS") or DEFAULT_FOLDER)
    return path if path.is_dir() else None


def address(port: int) -> str:
    """The address at which Prometheus reaches a port of this machine: from a container, unless THINKLOAD_TARGET_HOST is set."""
    return f"{os.environ.get('THINKLOAD_TARGET_HOST', 'host.docker.internal')}:{port}"


def write(name: str, server: str, gpu: str | None, of_gpu: dict[str, str], labels: dict[str, str]) -> None:
    """Announces a server, and the telemetry of its GPUs where it is known, which has also the labels in `of_gpu`.

    A later call with the same name replaces the labels.
    """
    if (targets := folder()) is None:
        return
    entries = [{"targets": [server], "labels": {"job": "server", **labels}}]
    if gpu is not None:
        entries.append({"targets": [gpu], "labels": {"job": "gpu", **of_gpu, **labels}})
    replace_file(targets / f"{name}.json", (json.dumps(entries, indent=1) + "\n").encode())


def remove(name: str) -> None:
    """Removes a server that has ended."""
    if (targets := folder()) is not None:
        (targets / f"{name}.json").unlink(missing_ok=True)
