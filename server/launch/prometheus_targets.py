"""What Prometheus should scrape, and under which labels: `prometheus/targets/NAME.json`, one file a server.

vLLM's own metrics say neither tensor parallelism nor speculation nor the run: these labels do. Rules: no folder, no file
(an installed package without the repository has none; THINKLOAD_TARGETS names another). Does not know: the scrape's own
settings (prometheus/prometheus.yml).
"""

import json
import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2] / "prometheus" / "targets"


def folder() -> Path | None:
    """Where target files go, if anywhere."""
    path = Path(os.environ.get("THINKLOAD_TARGETS") or REPOSITORY)
    return path if path.is_dir() else None


def address(port: int) -> str:
    """A port of this machine as Prometheus sees it: from a container unless told otherwise."""
    return f"{os.environ.get('THINKLOAD_TARGET_HOST', 'host.docker.internal')}:{port}"


def write(name: str, server: str, gpu: str | None, gpu_path: str, labels: dict[str, str]) -> None:
    """Announce a server, and where its GPUs' telemetry is; again with other labels to change them."""
    if (into := folder()) is None:
        return
    entries = [{"targets": [server], "labels": {"job": "server", **labels}}]
    if gpu:
        entries.append({"targets": [gpu], "labels": {"job": "gpu", "__metrics_path__": gpu_path, **labels}})
    partial = into / f"{name}.partial"
    partial.write_text(json.dumps(entries, indent=1) + "\n")
    partial.replace(into / f"{name}.json")


def remove(name: str) -> None:
    """The server is gone."""
    if (into := folder()) is not None:
        (into / f"{name}.json").unlink(missing_ok=True)
