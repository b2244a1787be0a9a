"""`python -m server.launch.watchdog OWNER`: waits for its launcher's pipe to close, then ends what the launcher left.

The only way to learn of a `kill -9`: the kernel closes the pipe. Does not know: why the launcher ended.
"""

import sys

from server.launch import docker_backend, processes, prometheus_targets


def end_all(owner: str | None = None, name: str | None = None, grace_s: float = 10.0) -> list[str]:
    """End our processes and containers, of every launcher or of `owner`, of every name or of `name`; their names."""
    ended = []
    for note in processes.notes():
        if (owner in {None, note.owner}) and (name in {None, note.name, note.config}):
            processes.end(note, grace_s)
            ended.append(note.name)
    for container in docker_backend.running(owner):
        if name in {None, container.name, container.labels.get("thinkload.config")}:
            docker_backend.remove(container, grace_s)
            ended.append(container.name)
    for each in ended:
        prometheus_targets.remove(each)
    return ended


def main() -> None:
    """Read standard input to its end, then end all servers of the owner named in the first argument."""
    sys.stdin.buffer.read()
    end_all(owner=sys.argv[1])


if __name__ == "__main__":
    main()
