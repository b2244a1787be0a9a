"""Finds TCP ports of this machine that are free, as far as this can be known before binding them.

This module does not know which server a port is for.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""
COOLDOWN_S = 12.0
"""How long a port is not used again after its server has ended. Prometheus notices the end of a target up to 10 s late, because
file discovery applies changes every 5 s, in two steps. A new server on the port would be scraped under the old labels during
that time, and a sweep's next configuration would be recorded as the previous one."""


def is_free(port: int) -> bool:
    """True if nothing listens on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listeners() -> Iterator[tuple[str, int, str]]:
    """The address, the port and the inode of each listening socket, as /proc shows them; none on a machine without /proc."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for row in map(str.split, table.read_text().splitlines()[1:] if table.exists() else ()):
            if row[3] == LISTEN:
                address, _, port = row[1].partition(":")
                yield address, int(port, 16), row[9]


def held_by(port: int, pids: list[int]) -> bool:
    """True if one of the processes listens on the port. Also True on a machine without /proc, where this cannot be known."""
    sockets = {f"socket:[{inode}]" for _, listening, inode in listeners() if listening == port}
    for pid in pids:
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return True
    return not Path("/proc/net/tcp").exists()


def first_free(start: int = 8000, taken: frozenset[int] = frozenset()) -> int:
    """The first free port from `start` on that is not in `taken`."""
    return next(port for port in range(start, 65536) if port not in taken and is_free(port))


def start_cooldown(port: int, state: Path) -> None:
    """Notes in the state folder that the server on this port has ended now."""
    (state / f"port-{port}").touch()


def cooling_down(state: Path) -> frozenset[int]:
    """The ports whose last server ended less than COOLDOWN_S ago."""
    now_s = time.time()
    ended_s = {path: path.stat().st_mtime for path in state.glob("port-*")}
    return frozenset(
        int(path.name.removeprefix("port-")) for path, at_s in ended_s.items() if now_s - at_s < COOLDOWN_S
    )
