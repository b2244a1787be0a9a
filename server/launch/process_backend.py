"""Backends `emulator` and `process`: a server as a subprocess in a session of its own, with its log in a file.

This module does not know when the server is ready, or what its log means.
"""

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from server.launch import commands, ports, processes
from server.launch.spec import LaunchFailedError, RunningServer, Spec


@dataclass
class LocalServer(RunningServer):
    """A running subprocess and what its state file contains."""

    saved: processes.SavedServer
    process: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        """The exit status of the process, or None while it runs."""
        return self.process.poll()

    def holds_port(self) -> bool:
        """True if this server listens on the port, and not another program that has opened it in the meantime."""
        return ports.held_by(self.port, processes.pids_of(self.saved))

    def pause(self) -> None:
        """Sends SIGSTOP to all its processes."""
        processes.signal_all(self.saved, signal.SIGSTOP)

    def wake(self) -> None:
        """Sends SIGCONT to all its processes."""
        processes.signal_all(self.saved, signal.SIGCONT)

    def stop(self, grace_s: float = 30.0) -> None:
        """Sends SIGTERM, after `grace_s` seconds SIGKILL, and returns when no process of the server is left."""
        processes.stop(self.saved, grace_s)
        self.process.wait()

    def describe(self) -> dict[str, object]:
        """What a run's manifest says about the server: pid, command and start time."""
        return {"pid": self.saved.pid, "command": self.saved.command, "started": self.saved.started}


def start_local(spec: Spec, saved: processes.SavedServer) -> LocalServer:
    """Starts the command. Raises LaunchFailedError if it is not on PATH."""
    saved.command, log = commands.local_command(spec, saved.port), Path(saved.log)
    # The state file is written before the start, so that the server is found even if this process is killed right after it.
    processes.save(saved)
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                saved.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=_environment(spec, saved),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            processes.forget(saved.name)
            reason = (
                f"no command {saved.command[0]!r} on PATH: install it (pip install vllm), or choose --backend docker"
            )
            raise LaunchFailedError(reason) from error
    saved.pid, saved.started = process.pid, processes.start_time(process.pid) or "?"
    processes.save(saved)
    emulated = spec.backend == "emulator"
    return LocalServer(saved.name, saved.port, saved.gpus, log, spec.backend, emulated, saved, process)


def _environment(spec: Spec, saved: processes.SavedServer) -> dict[str, str]:
    environment = {**processes.environment(saved.name), "PYTHONUNBUFFERED": "1"}
    if spec.backend == "process":
        environment |= {"VLLM_NO_USAGE_STATS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, saved.gpus))} if saved.gpus else {}
    return {**environment, **spec.environment}
