"""A real Prometheus in a folder of its own, with the committed configuration and rules, and targets that a test names.

Skips where no Prometheus is installed, and fails there if this is CI. Knows nothing of dashboards.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

ROOT = Path(__file__).parent.parent
REASON = "no prometheus on PATH (Debian: apt-get install prometheus)"

T = TypeVar("T")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None and not os.environ.get("CI"), reason=REASON
)


def free_port() -> int:
    """Return a port of the loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Prometheus:
    """One running server."""

    url: str
    folder: Path

    def get(self, path: str, **parameters: str | list[str]) -> Any:
        """GET an API path and return its `data`; a query Prometheus refuses raises with Prometheus' own words."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from error

    def instant(self, expr: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """Evaluate at one instant, now unless told."""
        at = {} if at_s is None else {"time": str(at_s)}
        return list(self.get("query", query=expr, **at)["result"])

    def range(self, expr: str, start_s: float, end_s: float, step_s: float = 1) -> list[dict[str, Any]]:
        """Evaluate every `step_s` from start to end."""
        span = {"start": str(start_s), "end": str(end_s), "step": str(step_s)}
        return list(self.get("query_range", query=expr, **span)["result"])

    def firing(self, instance: str | None = None) -> set[str]:
        """Names of the alerts that fire now, of one instance or of all."""
        alerts = (alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing")
        return {a["labels"]["alertname"] for a in alerts if instance in (None, a["labels"].get("instance"))}

    def aim(self, name: str, targets: list[dict[str, Any]]) -> None:
        """Write one target file, as a launcher does, whole or not at all; return when Prometheus scrapes what it names."""
        partial = self.folder / "targets" / f"{name}.partial"
        partial.write_text(json.dumps(targets))
        partial.replace(partial.with_suffix(".json"))
        pages = {
            (address, entry["labels"].get("__metrics_path__", "/metrics"))
            for entry in targets
            for address in entry["targets"]
        }
        assert until(lambda: pages <= self.aimed_at(), 60), f"prometheus did not read targets/{name}.json"

    def aimed_at(self) -> set[tuple[str, str]]:
        """Address and path of every target, whether it answers or not."""
        found = (
            target["discoveredLabels"] for target in self.get("targets", state="active")["activeTargets"]
        )
        return {(labels["__address__"], labels["__metrics_path__"]) for labels in found}


def configure(folder: Path, *, quick_alerts: bool = False) -> None:
    """Copy the committed configuration; only what would reach outside the test, and waiting, is changed."""
    shutil.copytree(ROOT / "prometheus" / "rules", folder / "rules")
    (folder / "targets").mkdir()
    config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    config.pop(
        "scrape_config_files", None
    )  # the compose file's own services; Debian 12's Prometheus knows no such key
    config["scrape_configs"] = [job for job in config["scrape_configs"] if "file_sd_configs" in job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    if quick_alerts:
        path = folder / "rules" / "alerts.yml"
        rules = yaml.safe_load(path.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule["for"] = "1s"
        path.write_text(yaml.safe_dump(rules))


@contextmanager
def prometheus(folder: Path, *, quick_alerts: bool = False) -> Iterator[Prometheus]:
    """Run one until the block ends."""
    assert shutil.which("prometheus"), REASON
    configure(folder, quick_alerts=quick_alerts)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], stderr=log, stdout=log
        )
        server = Prometheus(f"http://127.0.0.1:{port}", folder)
        try:
            wait(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=20)


def until(asked: Callable[[], T], patience_s: float) -> T:
    """Ask four times a second until the answer is true, or patience ends; returns the last answer."""
    deadline_s = time.monotonic() + patience_s
    while not (answer := asked()) and time.monotonic() < deadline_s:
        time.sleep(0.25)
    return answer


def wait(server: Prometheus, process: "subprocess.Popen[Any]") -> None:
    """Wait until it answers."""

    def ready() -> bool:
        assert process.poll() is None, f"prometheus ended: see {server.folder}/prometheus.log"
        try:
            urllib.request.urlopen(f"{server.url}/-/ready", timeout=1).close()
        except OSError:
            return False
        return True

    assert until(ready, 60), "prometheus did not become ready"
