"""Starts a server, waits until it is ready, announces it to Prometheus and stops it, in the same way for every backend.

The process that starts a server stops it in every case. A failed start leaves nothing running and raises LaunchFailedError with
one line and the end of the log. Ports and GPUs are chosen under a lock, so that two launchers never choose the same ones.

This module does not know what the server is used for.
"""

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from server.launch import commands, docker_backend, gpus, ports, processes, prometheus_targets, readiness, running
from server.launch.process_backend import start_local
from server.launch.spec import CHECKOUT, OWNER, LaunchFailedError, RunningServer, Spec
from server.launch.startup_log import StartupPhases, explain

POLL_S = 0.2
EXIT_GRACE_S = 1.0
"""How long a server whose log shows a fatal error may take to end by itself before it is stopped."""
PORT_ATTEMPTS = 3
EXPORTER_START_S = 10.0
"""How long to wait until the exporter of GPU telemetry listens."""
Report = Callable[[str], None]
"""Receives one line of progress."""


@contextmanager
def watched() -> Iterator[subprocess.Popen[bytes]]:
    """In the block, a watchdog process stops the servers of this process if it ends without having stopped them.

    The servers outlive this process if the watchdog, which is yielded, is killed.
    """
    command = [sys.executable, "-m", "server.launch.watchdog", OWNER]
    # The watchdog has a session of its own, so that Ctrl-C on the launcher does not end it.
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    said = b""
    try:
        yield watchdog
        said = b"stopped"
    finally:
        watchdog.communicate(said)  # closes its standard input and waits for its end


def start(spec: Spec, report: Report) -> RunningServer:
    """Starts a server and returns it when it is ready. The caller stops it. Raises LaunchFailedError.

    A port that was not asked for is replaced by another one if a program opens it before the server does.
    """
    for _ in range(PORT_ATTEMPTS - 1 if not spec.port else 0):
        try:
            return _start(spec, report)
        except LaunchFailedError as error:
            if error.kind != "port_taken":
                raise
    return _start(spec, report)


def _start(spec: Spec, report: Report) -> RunningServer:
    server = _start_process(spec)
    report(f"{server.name}: started on port {server.port}" + (f", GPUs {server.gpus}" if server.gpus else ""))
    try:
        _wait_until_ready(server, spec, report)
    except BaseException:
        stop(server, grace_s=2.0)
        raise
    announce(server, spec)
    return server


def stop(server: RunningServer, grace_s: float = 30.0) -> None:
    """Stops a server and removes it from Prometheus' targets."""
    withdraw(server)
    server.stop(grace_s)
    ports.start_cooldown(server.port, processes.state_dir())


def announce(server: RunningServer, spec: Spec, telemetry: str | None = None) -> None:
    """Makes Prometheus scrape the server. A later call replaces the labels, for example when the next run begins.

    `telemetry` is the URL of the exporter of its GPUs. Without one, that of all GPUs of this machine is expected on port 9400.
    """
    address = prometheus_targets.address(server.port)
    if server.emulated:
        gpu, gpu_labels = address, {"__metrics_path__": "/dcgm/metrics"}
    else:
        gpu = prometheus_targets.address((telemetry and urlsplit(telemetry).port) or 9400)
        gpu_labels = {"gpu_indices": f",{','.join(map(str, server.gpus))},"} if server.gpus else {}
    prometheus_targets.write(server.name, address, gpu, gpu_labels, commands.labels(spec))


def withdraw(server: RunningServer) -> None:
    """Makes Prometheus scrape the server no longer, because it has ended or is paused."""
    prometheus_targets.remove(server.name)


@contextmanager
def gpu_metrics(indices: tuple[int, ...], report: Report) -> Iterator[str]:
    """The URL of an exporter of only these GPUs, which runs during the block and ends with this process."""
    port = ports.first_free(9400)
    command = [sys.executable, "-m", "server", "gpu-exporter", "--port", str(port)]
    exporter = subprocess.Popen(
        [*command, "--gpus", ",".join(map(str, indices)), "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # what it prints would be written over the screen of a sweep
    )
    report(f"GPU telemetry of GPUs {indices} on port {port}")
    deadline = time.monotonic() + EXPORTER_START_S
    while ports.is_free(port) and exporter.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if exporter.poll() is not None:
        report(f"no GPU telemetry: {exporter.communicate()[1].decode(errors='replace').strip()}")
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        exporter.terminate()
        exporter.communicate()


@contextmanager
def _allocation_lock() -> Iterator[None]:
    """Only one launcher of this user chooses ports and GPUs at a time."""
    with (processes.state_dir() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_process(spec: Spec) -> RunningServer:
    wanted = spec.options["tensor-parallel-size"]
    name = f"thinkload-{Path(spec.config).stem}-{uuid4().hex[:6]}"
    log = spec.log or processes.state_dir() / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _allocation_lock():
        saved = processes.SavedServer(
            name=name,
            owner=OWNER,
            checkout=CHECKOUT,
            backend=spec.backend,
            config=spec.config,
            model=spec.model,
            port=_choose_port(spec),
            gpus=_choose_gpus(spec, wanted),
            log=str(log),
        )
        return docker_backend.start_container(spec, saved) if spec.backend == "docker" else start_local(spec, saved)


def _choose_port(spec: Spec) -> int:
    if not spec.port:
        taken = {saved.port for saved in processes.running()} | ports.cooling_down(processes.state_dir())
        return ports.first_free(taken=frozenset(taken))
    if not ports.is_free(spec.port):
        raise LaunchFailedError(f"port {spec.port} is taken: free it or choose another with --port")
    return spec.port


def _choose_gpus(spec: Spec, wanted: int) -> tuple[int, ...]:
    """GPUs for a real engine; none for an emulated one, or on a machine whose GPUs cannot be seen."""
    if spec.backend == "emulator" or docker_backend.emulates(spec):
        return ()
    present = len(gpus.inventory())
    if spec.gpus is not None:
        return _check_gpus(spec.gpus, wanted, present)
    if not present:
        return ()
    if wanted > present:
        reason = f"tensor-parallel-size {wanted} needs {wanted} GPUs, this machine has {present}: choose a smaller configuration"
        raise LaunchFailedError(reason)
    free = free_gpus()
    if (chosen := gpus.allocate(wanted, free)) is None:
        reason = (
            f"{wanted} GPUs wanted, {len(free)} of {present} free: wait, or stop other servers (python -m server down)"
        )
        raise LaunchFailedError(reason)
    return chosen


def free_gpus() -> set[int]:
    """The indices of this machine's GPUs that no server of ours uses; empty on a machine whose GPUs cannot be seen."""
    taken = {index for server in running.servers() for index in server.gpus}
    return {row["index"] for row in gpus.inventory()} - taken


def _check_gpus(indices: tuple[int, ...], wanted: int, present: int) -> tuple[int, ...]:
    """The GPUs of --gpus. Raises LaunchFailedError if they are too few or do not exist."""
    if len(indices) < wanted:
        reason = f"tensor-parallel-size {wanted} needs {wanted} GPUs, --gpus names {len(indices)}: name more, or choose a smaller configuration"
        raise LaunchFailedError(reason)
    if present and max(indices) >= present:
        reason = f"--gpus {max(indices)}: this machine has GPUs 0 to {present - 1}"
        raise LaunchFailedError(reason)
    return indices


def _wait_until_ready(server: RunningServer, spec: Spec, report: Report) -> None:
    """Returns when the server generates. Raises LaunchFailedError as soon as its log or its exit shows a failure."""
    started_s = time.monotonic()
    failed_s: float | None = None
    phases, first_token = StartupPhases(), readiness.FirstToken(server.port)
    while not (first_token.received(POLL_S) and server.holds_port()):
        code = server.exit_code()
        log = server.log.read_text(errors="replace")
        for phase in phases.new_phases(log):
            report(f"{server.name}: {phase} ({time.monotonic() - started_s:.0f} s)")
        cause = explain(log)
        failed_s = failed_s or (time.monotonic() if cause else None)
        if code is not None or (failed_s and time.monotonic() - failed_s > EXIT_GRACE_S):
            raise LaunchFailedError(cause[1] if cause else _exit_reason(code, log), log, cause[0] if cause else "")
        if time.monotonic() - started_s > spec.start_timeout_s:
            reason = f"not ready after {spec.start_timeout_s:g} s: see the log, or raise --start-timeout"
            raise LaunchFailedError(reason, log)
        time.sleep(POLL_S)
    report(f"{server.name}: ready at http://127.0.0.1:{server.port}/v1 ({time.monotonic() - started_s:.1f} s)")


def _exit_reason(code: int | None, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    if code in {-9, 137}:
        return f"the server was killed before it was ready, probably by the kernel because memory ran out (see dmesg): {last}"
    return f"the server ended with status {code} before it was ready: {last}"
