"""Processes that carry our label, and how to end them: what containers have labels for, plain processes have this.

Rules: a started process leads a session of its own and has the label in its environment (`THINKLOAD_SERVER`); its
children inherit both. (Either alone is not enough: setproctitle, which vLLM's workers use, overwrites what /proc shows
of the environment, and a child may open a new session.) A note in the state folder says the rest. A note is trusted
only while pid and start time both match, so that a reused pid is never killed. Does not know: what the processes do.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec

VARIABLE = "THINKLOAD_SERVER"


class Note(msgspec.Struct, kw_only=True):
    """What is remembered of one started server."""

    name: str
    owner: str
    backend: str
    config: str
    model: str
    port: int
    log: str
    pid: int | None = None
    """None while it is being started."""
    started: str = "?"
    """The process's start time as the system tells it."""
    gpus: tuple[int, ...] = ()
    command: list[str] = []


def state_dir() -> Path:
    """Folder of the notes, logs and locks, per user."""
    default = Path.home() / ".local" / "state"
    folder = Path(
        os.environ.get("THINKLOAD_STATE") or Path(os.environ.get("XDG_STATE_HOME") or default) / "thinkload"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_time(pid: int) -> str | None:
    """When the process started, in the system's own words; None once it is gone or a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    out = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return out.stdout.strip() or None


def environment(name: str) -> dict[str, str]:
    """The environment of this process, with the label."""
    return {**os.environ, VARIABLE: name}


def remember(note: Note) -> None:
    """Keep the note until `forget`."""
    (state_dir() / f"{note.name}.json").write_bytes(msgspec.json.encode(note))


def forget(name: str) -> None:
    """Drop the note."""
    (state_dir() / f"{name}.json").unlink(missing_ok=True)


def notes() -> list[Note]:
    """Notes of the servers that still run; those of dead ones are dropped."""
    alive = []
    for path in sorted(state_dir().glob("*.json")):
        try:
            note = msgspec.json.decode(path.read_bytes(), type=Note)
        except (msgspec.DecodeError, FileNotFoundError):
            continue
        if remains(note):
            alive.append(note)
        else:
            forget(note.name)
    return alive


def _belongs(folder: Path, label: bytes, session: int | None) -> bool:
    try:
        if (
            session is not None
            and int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session
        ):
            return True
        return any(item.startswith(label) for item in (folder / "environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def labelled(name: str | None = None, session: int | None = None) -> list[int]:
    """Pids that carry the label of one server (or of any), or are of the session. Empty where there is no /proc."""
    label = f"{VARIABLE}={name or ''}".encode()
    found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _belongs(folder, label, session)]
    return [pid for pid in found if pid != os.getpid() and start_time(pid)]


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end(note: Note, grace_s: float = 30.0) -> None:
    """SIGTERM to the server, SIGKILL to whatever of it is left after `grace_s`; returns when all is gone."""
    # The leader alone: a vLLM whose workers get the signal too cannot drain what runs.
    _signal(_leader(note), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while remains(note) and time.monotonic() < deadline:
        time.sleep(0.05)
        if not _leader(note):
            _signal(remains(note), signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + 5.0)
    while left := remains(note):
        _signal(left, signal.SIGKILL)
        time.sleep(0.05)
    forget(note.name)


def remains(note: Note) -> list[int]:
    """Pids of the server that still run."""
    now = start_time(note.pid) if note.pid else None
    reused = now is not None and now != note.started
    return sorted({*_leader(note), *labelled(note.name, None if reused else note.pid)})


def _leader(note: Note) -> list[int]:
    """Pid of the process that was started, while it runs."""
    return [note.pid] if note.pid and start_time(note.pid) == note.started else []
