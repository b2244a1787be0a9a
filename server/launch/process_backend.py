"""Backends `emulator` and `process`: a server as a subprocess of ours, in a session of its own, its log in a file.

Does not know: when it is ready, or what its log means.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from server.launch import ports, processes
from server.launch.spec import OWNER, Backend, LaunchFailedError, Spec


@dataclass
class LocalServer:
    """A running subprocess and its note."""

    note: processes.Note
    process: subprocess.Popen[bytes]
    backend: Backend
    gpus: tuple[int, ...]
    log: Path

    @property
    def name(self) -> str:
        """Label by which it is found again."""
        return self.note.name

    @property
    def port(self) -> int:
        """Port on loopback."""
        return self.note.port

    @property
    def emulated(self) -> bool:
        """It is our emulator."""
        return self.backend == "emulator"

    def exit_code(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.poll()

    def holds_port(self) -> bool:
        """It is this server that answers on the port, not one that took it in between."""
        return ports.held_by(self.port, processes.remains(self.note))

    def stop(self, grace_s: float = 30.0) -> None:
        """SIGTERM, then kill; returns when no process of it is left."""
        processes.end(self.note, grace_s)
        self.process.wait()

    def describe(self) -> dict[str, object]:
        """What a manifest should say."""
        return {"pid": self.note.pid, "command": self.note.command, "started": self.note.started}


def start_local(spec: Spec, name: str, port: int, gpus: tuple[int, ...], command: list[str]) -> LocalServer:
    """Start the command; raises LaunchFailedError where it is not there."""
    log = spec.log or processes.state_dir() / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**processes.environment(name), "PYTHONUNBUFFERED": "1"}
    if spec.backend == "process":
        environment |= {"VLLM_NO_USAGE_STATS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
    note = processes.Note(
        name=name,
        owner=OWNER,
        backend=spec.backend,
        config=spec.config,
        model=spec.model,
        port=port,
        log=str(log),
        gpus=gpus,
        command=command,
    )
    processes.remember(
        note
    )  # before the start: who is killed right after it leaves a label that a note names
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            processes.forget(name)
            reason = f"no command {command[0]!r} on PATH: install it (pip install 'thinkload[vllm]'), or --backend docker"
            raise LaunchFailedError(reason, kind="no_command") from error
    note.pid, note.started = process.pid, processes.start_time(process.pid) or "?"
    processes.remember(note)
    return LocalServer(note, process, spec.backend, gpus, log)
