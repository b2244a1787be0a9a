"""Finds and stops the processes of a server, as Docker does for containers with labels.

Each started process leads a session of its own and has the server's name in its environment (`THINKLOAD_SERVER`). Its children
inherit both. Neither is enough alone: vLLM's workers call setproctitle, which overwrites the environment that /proc shows, and
a child may open a new session. A file in the state folder holds the rest. Its pid is used only while pid and start time both
match, so that a process with a reused pid is never killed.

This module does not know what the processes do.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec

from server.launch import prometheus_targets
from server.launch.atomic_file import replace_file

LABEL_VARIABLE = "THINKLOAD_SERVER"


class SavedServer(msgspec.Struct, kw_only=True):
    """One started server, as its state file describes it, or the labels of its container."""

    name: str
    owner: str
    checkout: str = ""
    """The folder of the repository or installation that started it."""
    backend: str
    config: str
    model: str
    port: int
    log: str = ""
    """Its file; empty for a container, whose log Docker keeps."""
    pid: int | None = None
    """None until the process has been started."""
    started: str = "?"
    """The start time of the process, in the format of the operating system."""
    gpus: tuple[int, ...] = ()
    command: list[str] = []


def state_dir() -> Path:
    """The user's folder of state files, logs and locks. Creates the folder if it does not exist."""
    default = Path.home() / ".local" / "state"
    folder = Path(os.environ.get("THINKLOAD_STATE") or Path(os.environ.get("XDG_STATE_HOME") or default) / "thinkload")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_time(pid: int) -> str | None:
    """The start time of the process, in the format of the operating system. None if it has ended or is a zombie."""
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        return None if not fields or fields[0] == "Z" else fields[19]
    out = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return out.stdout.strip() or None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state of the process on; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _in_session(pid: int, session: int | None) -> bool:
    return _stat(pid)[3:4] == [str(session)]


def environment(name: str) -> dict[str, str]:
    """The environment of this process, with the label of the server `name`."""
    return {**os.environ, LABEL_VARIABLE: name}


def save(server: SavedServer) -> None:
    """Writes the server's state file, which `forget` removes."""
    replace_file(state_dir() / f"{server.name}.json", msgspec.json.encode(server))


def forget(name: str) -> None:
    """Removes the server's state file and its Prometheus target."""
    prometheus_targets.remove(name)
    (state_dir() / f"{name}.json").unlink(missing_ok=True)


def running() -> list[SavedServer]:
    """The servers of which a process still runs. The state files of other servers are removed."""
    found = []
    for path in sorted(state_dir().glob("*.json")):
        try:
            server = msgspec.json.decode(path.read_bytes(), type=SavedServer)
        except (msgspec.DecodeError, FileNotFoundError):
            continue
        if pids_of(server):
            found.append(server)
        else:
            forget(server.name)
    return found


def _has_label(pid: int, label: bytes) -> bool:
    try:
        return any(item.startswith(label) for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def labelled(name: str, session: int | None = None) -> list[int]:
    """The pids that carry the label of the server or belong to the session. Empty on a machine without /proc."""
    label = f"{LABEL_VARIABLE}={name}".encode()
    found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    found = [pid for pid in found if _in_session(pid, session) or _has_label(pid, label)]
    return [pid for pid in found if pid != os.getpid() and start_time(pid)]


def _signal(pids: list[int], signal_number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal_number)


def signal_all(server: SavedServer, number: int) -> None:
    """Sends a signal to every process of the server, but not to helpers of the launcher, which run in the launcher's session."""
    _signal([pid for pid in pids_of(server) if not _in_session(pid, os.getsid(0))], number)


def stop(server: SavedServer, grace_s: float = 30.0) -> None:
    """Sends SIGTERM, after `grace_s` seconds SIGKILL, and returns when no process of the server is left."""
    _signal(pids_of(server), signal.SIGCONT)  # a paused process receives SIGTERM only after it continues
    # Only the leader gets the first SIGTERM: vLLM cannot finish running requests if its workers get the signal too.
    _signal(_leader(server), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while pids_of(server) and time.monotonic() < deadline:
        time.sleep(0.05)
        if not _leader(server):
            _signal(pids_of(server), signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + 5.0)
    while pids := pids_of(server):
        _signal(pids, signal.SIGKILL)
        time.sleep(0.05)
    forget(server.name)


def pids_of(server: SavedServer) -> list[int]:
    """The pids of the server's processes that still run."""
    now = start_time(server.pid) if server.pid else None
    reused = now is not None and now != server.started
    return sorted({*_leader(server), *labelled(server.name, None if reused else server.pid)})


def _leader(server: SavedServer) -> list[int]:
    """The pid of the process that was started; empty when it has ended."""
    return [server.pid] if server.pid and start_time(server.pid) == server.started else []
