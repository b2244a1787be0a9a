"""Lists and stops the servers that run on this machine, whichever launcher and backend started them.

This module does not know how a server is started.
"""

from typing import Any

from server.launch import docker_backend, processes, prometheus_targets


def servers() -> list[dict[str, Any]]:
    """Every running server: its name, backend, configuration, model, port and log file (None for a container)."""
    found = [
        {
            "name": saved.name,
            "backend": saved.backend,
            "config": saved.config,
            "model": saved.model,
            "port": saved.port,
            "log": saved.log,
        }
        for saved in processes.running()
    ]
    for container in docker_backend.running():
        labels = {key: container.labels.get(f"thinkload.{key}") for key in ("config", "model")}
        port = int(container.labels.get("thinkload.port") or 0)
        found.append({"name": container.name, "backend": "docker", **labels, "port": port, "log": None})
    return found


def stop_all(owner: str | None = None, name: str | None = None, grace_s: float = 10.0) -> list[str]:
    """Stops the servers of one launcher (`owner`) or of all, with one server or configuration name or with any.

    Returns the names of the stopped servers. Each server has `grace_s` seconds to end before it is killed.
    """
    stopped = []
    for saved in processes.running():
        if owner in {None, saved.owner} and name in {None, saved.name, saved.config}:
            processes.stop(saved, grace_s)
            stopped.append(saved.name)
    for container in docker_backend.running(owner):
        if name in {None, container.name, container.labels.get("thinkload.config")}:
            docker_backend.remove(container, grace_s)
            stopped.append(container.name)
    for each in stopped:
        prometheus_targets.remove(each)
    return stopped
