"""End servers that nobody holds any more: all of them, one launcher's, or one by name.

Does not know: why they were started.
"""

from server.launch import containers, labelled, targets


def end_all(owner: str | None = None, name: str | None = None, grace_s: float = 10.0) -> list[str]:
    """End our processes and containers, of every launcher or of `owner`, of every name or of `name`; their names."""
    ended = []
    for note in labelled.notes():
        if (owner in {None, note.owner}) and (name in {None, note.name, note.config}):
            labelled.end(note, grace_s)
            ended.append(note.name)
    for container in containers.running(owner):
        if name in {None, container.name, container.labels.get("thinkload.config")}:
            containers.remove(container, grace_s)
            ended.append(container.name)
    for each in ended:
        targets.remove(each)
    return ended
