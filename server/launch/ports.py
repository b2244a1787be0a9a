"""Which TCP ports of this machine are free, as far as one can know before binding."""

import contextlib
import socket
import time
from pathlib import Path

REST_S = 12.0
"""Prometheus hears of a target's end up to 10 s late (file discovery hands changes on every 5 s, twice). Whoever took the
port in that time would be scraped under the old name: a sweep's next configuration would count as the one before."""


def is_free(port: int) -> bool:
    """Nothing listens on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def held_by(port: int, pids: list[int]) -> bool:
    """One of the processes listens on the port; True where there is no /proc to tell."""
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    sockets = {
        f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
    }
    for pid in pids if rows else ():
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return True
    return not rows


def first_free(start: int = 8000, taken: frozenset[int] = frozenset()) -> int:
    """The first free port from `start` on that is not promised to somebody in `taken`."""
    return next(port for port in range(start, 65536) if port not in taken and is_free(port))


def rest(port: int, state: Path) -> None:
    """Note that a server which had been announced on this port has ended."""
    (state / f"port-{port}").touch()


def resting(state: Path) -> frozenset[int]:
    """Ports whose last server Prometheus may still be looking for."""
    now_s = time.time()
    notes = {path: path.stat().st_mtime for path in state.glob("port-*")}
    return frozenset(
        int(path.name.removeprefix("port-")) for path, at_s in notes.items() if now_s - at_s < REST_S
    )
