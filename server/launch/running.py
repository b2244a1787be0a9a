"""Lists and stops the servers that run on this machine, whichever launcher and backend started them.

This module does not know how a server is started.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server.launch import docker_backend, processes, prometheus_targets
from server.launch.spec import CHECKOUT


def servers() -> list[dict[str, Any]]:
    """Every running server: its name, backend, configuration, model, port and log file (None for a container)."""
    shown = ("name", "backend", "config", "model", "port", "log")
    found = [{field: getattr(saved, field) for field in shown} for saved in processes.running()]
    for container in docker_backend.running():
        labels = {key: container.labels.get(f"thinkload.{key}") for key in ("config", "model")}
        port = int(container.labels.get("thinkload.port") or 0)
        found.append({"name": container.name, "backend": "docker", **labels, "port": port, "log": None})
    return found


def stop_all(
    owner: str | None = None, name: str | None = None, grace_s: float = 10.0, *, everywhere: bool = False
) -> list[str]:
    """Stops the servers of one launcher (`owner`) or of this checkout, with one server or configuration name or with any.

    `everywhere` includes the servers that another checkout or installation has started.
    Returns the names of the stopped servers. Each server has `grace_s` seconds to end before it is killed.
    """

    def meant(owner_of: str, checkout: str | None) -> bool:
        return owner_of == owner if owner else everywhere or checkout == CHECKOUT

    saved = [
        each
        for each in processes.running()
        if meant(each.owner, each.checkout) and name in {None, each.name, each.config}
    ]
    with ThreadPoolExecutor(max(len(saved), 1)) as threads:  # each may use its whole grace
        list(threads.map(lambda each: processes.stop(each, grace_s), saved))
    stopped = [each.name for each in saved]
    for container in docker_backend.running(owner):
        labels = container.labels
        if meant(owner or "", labels.get("thinkload.checkout")) and name in {
            None,
            container.name,
            labels.get("thinkload.config"),
        }:
            docker_backend.remove(container, grace_s)
            stopped.append(container.name)
    for each in stopped:
        prometheus_targets.remove(each)
    return stopped
