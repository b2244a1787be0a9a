"""Lists and stops the servers that run on this machine, whichever launcher and backend started them.

This module does not know how a server is started.
"""

from concurrent.futures import ThreadPoolExecutor

from server.launch import docker_backend, processes, prometheus_targets
from server.launch.processes import SavedServer
from server.launch.spec import CHECKOUT


def servers() -> list[SavedServer]:
    """Every running server, in a process or in a container."""
    return [*processes.running(), *docker_backend.running()]


def stop_all(
    owner: str | None = None, name: str | None = None, grace_s: float = 10.0, *, everywhere: bool = False
) -> list[str]:
    """Stops the servers of one launcher (`owner`) or of this checkout, with one server or configuration name or with any.

    `everywhere` includes the servers that another checkout or installation has started.
    Returns the names of the stopped servers. Each server has `grace_s` seconds to end before it is killed.
    """
    meant = [
        each
        for each in servers()
        if (each.owner == owner if owner else everywhere or each.checkout == CHECKOUT)
        and name in {None, each.name, each.config}
    ]
    with ThreadPoolExecutor(max(len(meant), 1)) as threads:  # each may use its whole grace
        list(threads.map(lambda each: _stop(each, grace_s), meant))
    return [each.name for each in meant]


def _stop(server: SavedServer, grace_s: float) -> None:
    if server.backend == "docker":
        docker_backend.remove(server.name, grace_s)
    else:
        processes.stop(server, grace_s)
    prometheus_targets.remove(server.name)
