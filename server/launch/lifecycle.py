"""start → ready → endpoint → stop, the same for every backend.

Rules: whoever starts a server stops it, whatever happens in between; a failed start leaves nothing running and raises
LaunchFailedError with one line and the last lines of the log. Ports and GPUs are promised under a lock, so that two
launchers do not promise the same. Does not know: what the server is used for.
"""

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

from server.config import read_config
from server.launch import commands, docker_backend, gpus, ports, processes, prometheus_targets, readiness
from server.launch.process_backend import start_local
from server.launch.spec import OWNER, LaunchFailedError, RunningServer, Spec
from server.launch.startup_log import StartupProgress, explain

POLL_S = 0.2
LINGER_S = 1.0
"""How long a server that printed its doom may take to end by itself before it is ended."""
Say = Callable[[str], None]


def _quiet(_line: str) -> None:
    pass


@dataclass
class Launcher:
    """Starts servers, and keeps one watchdog for all of them: it ends them if this process dies without doing so."""

    say: Say = _quiet
    _watchdog: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "server.launch.watchdog", OWNER]
        # A session of its own: Ctrl-C on the launcher must not end the one that cleans up after it.
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watchdog and self._watchdog.stdin:
            self._watchdog.stdin.close()
            self._watchdog.wait()

    def release(self) -> None:
        """Let what was started outlive this process."""
        if self._watchdog:
            self._watchdog.kill()

    @contextmanager
    def launched(self, spec: Spec) -> Iterator[RunningServer]:
        """A ready server, for as long as the block lasts."""
        server = start(spec, self.say)
        try:
            yield server
        finally:
            stop(server)


@contextmanager
def launched(spec: Spec, say: Say = _quiet) -> Iterator[RunningServer]:
    """One ready server, ended with the block or with this process."""
    with Launcher(say) as launcher, launcher.launched(spec) as server:
        yield server


def start(spec: Spec, say: Say = _quiet) -> RunningServer:
    """Start a server and return it when it is ready; it then runs until somebody stops it. Raises LaunchFailedError."""
    server = _begin(spec)
    say(f"{server.name}: started on port {server.port}" + (f", GPUs {server.gpus}" if server.gpus else ""))
    try:
        _await_ready(server, spec, say)
    except BaseException:
        stop(server, grace_s=2.0)
        raise
    announce(server, spec)
    return server


def stop(server: RunningServer, grace_s: float = 30.0) -> None:
    """End a server and what was announced of it."""
    prometheus_targets.remove(server.name)
    server.stop(grace_s)
    ports.rest(server.port, processes.state_dir())


def announce(server: RunningServer, spec: Spec) -> None:
    """Tell Prometheus of the server; again, with another `run`, when the run on it changes."""
    address = prometheus_targets.address(server.port)
    gpu = address if server.emulated else prometheus_targets.address(9400)
    prometheus_targets.write(
        server.name, address, gpu, "/dcgm/metrics" if server.emulated else "/metrics", commands.labels(spec)
    )


@contextmanager
def gpu_metrics(server: RunningServer, launcher: Launcher) -> Iterator[str | None]:
    """URL of the telemetry of just this server's GPUs, over NVML; None where it has none of its own."""
    if not server.gpus:
        yield None
        return
    port = ports.first_free(9400)
    command = [sys.executable, "-m", "server", "gpu-exporter", "--port", str(port)]
    exporter = subprocess.Popen(
        [*command, "--gpus", ",".join(map(str, server.gpus))], env=processes.environment(server.name)
    )
    launcher.say(f"{server.name}: GPU telemetry on port {port}")
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        exporter.terminate()
        exporter.wait()


@contextmanager
def _promising() -> Iterator[None]:
    """Only one launcher of this user chooses ports and GPUs at a time."""
    with (processes.state_dir() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _begin(spec: Spec) -> RunningServer:
    config = read_config(spec.config)
    name = f"thinkload-{Path(spec.config).stem}-{uuid4().hex[:6]}"
    with _promising():
        port = _port(spec)
        chosen = _gpus(spec, commands.tensor_parallel_size(config))
        if spec.backend == "docker":
            return docker_backend.start_container(spec, name, port, chosen)
        return start_local(spec, name, port, chosen, commands.local_command(spec, port))


def _port(spec: Spec) -> int:
    if not spec.port:
        taken = {note.port for note in processes.notes()} | ports.resting(processes.state_dir())
        return ports.first_free(taken=frozenset(taken))
    if not ports.is_free(spec.port):
        raise LaunchFailedError(
            f"port {spec.port} is taken: free it or choose another with --port", kind="port_taken"
        )
    return spec.port


def _gpus(spec: Spec, wanted: int) -> tuple[int, ...]:
    """GPUs for a real engine; none for an emulated one, or where none can be seen."""
    if spec.backend == "emulator" or docker_backend.emulates(spec):
        return ()
    present = len(gpus.inventory())
    if spec.gpus is not None:
        return _named(spec.gpus, wanted, present)
    if not present:
        return ()
    if wanted > present:
        reason = f"tensor-parallel-size {wanted} needs {wanted} GPUs, this machine has {present}: choose a smaller configuration"
        raise LaunchFailedError(reason, kind="too_few_gpus")
    taken = {index for note in processes.notes() for index in note.gpus} | docker_backend.taken_gpus()
    if (chosen := gpus.allocate(wanted, present, taken)) is None:
        reason = f"{wanted} GPUs wanted, {present - len(taken)} of {present} free: wait, or python -m server down what holds them"
        raise LaunchFailedError(reason, kind="gpus_taken")
    return chosen


def _named(indices: tuple[int, ...], wanted: int, present: int) -> tuple[int, ...]:
    """GPUs that the operator named, as far as can be known here."""
    if len(indices) < wanted:
        reason = f"tensor-parallel-size {wanted} needs {wanted} GPUs, --gpus names {len(indices)}: name more, or choose a smaller configuration"
        raise LaunchFailedError(reason, kind="too_few_gpus")
    if present and max(indices) >= present:
        reason = f"--gpus {max(indices)}: this machine has GPUs 0 to {present - 1}"
        raise LaunchFailedError(reason, kind="too_few_gpus")
    return indices


def _await_ready(server: RunningServer, spec: Spec, say: Say) -> None:
    """Return when the server generates; raise as soon as the log or the exit says that it never will."""
    began = time.monotonic()
    doomed_at: float | None = None
    progress, token = StartupProgress(), readiness.FirstToken(server.port)
    while not (token.came(POLL_S) and server.holds_port()):
        code = server.exit_code()
        log = server.log.read_text(errors="replace")
        for phase in progress.feed(log):
            say(f"{server.name}: {phase} ({time.monotonic() - began:.0f} s)")
        cause = explain(log)
        doomed_at = doomed_at or (time.monotonic() if cause else None)
        if code is not None or (doomed_at and time.monotonic() - doomed_at > LINGER_S):
            kind, reason = cause or ("died", _died(code, log))
            raise LaunchFailedError(reason, log, kind)
        if time.monotonic() - began > spec.start_timeout_s:
            reason = f"not ready after {spec.start_timeout_s:g} s: see the log, or raise --start-timeout"
            raise LaunchFailedError(reason, log, "timeout")
        time.sleep(POLL_S)
    say(f"{server.name}: ready at http://127.0.0.1:{server.port}/v1 ({time.monotonic() - began:.1f} s)")


def _died(code: int | None, log: str) -> str:
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "it printed nothing")
    if code in {-9, 137}:
        return f"the server was killed before it was ready, by the kernel for memory as a rule (dmesg tells): {last}"
    return f"the server ended with status {code} before it was ready: {last}"
