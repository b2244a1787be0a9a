"""A Locust worker: passes the requests that the master assigns to its sender process, and reports the results to Locust.

Rules: nothing that happens for each token passes through this process (docs/decisions/0031). Each request is one `request`
event of Locust; TTFT and TPOT are rows of their own, which Locust's totals do not include. The master learns how many users the
worker has and how many requests it has finished, and assigns it more.

This module does not know how a request is sent (`sender_process`), what a number stands for, or which other workers there are.
"""

import logging
import platform
import socket
import subprocess
import time
from contextlib import suppress
from typing import Any

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from locust.env import Environment

from loadgen.distributed.clock_sync import ClockProbe, estimate_start_s
from loadgen.distributed.messages import RunSetup, SenderSetup, Slots, Work
from loadgen.record import Record
from loadgen.run.process_protocol import REPORTS, command, encode
from loadgen.terminal import printable

LOG = logging.getLogger("loadgen")
PROBES = 7
"""Probes of the master's clock before the run. During the run, one every PROBE_S seconds shows whether the clocks drift."""
PROBE_S = 5.0
REPORT_S = 0.1
WAIT_S = 8.0
"""The longest wait for the sender process to end. Locust's master waits 10 s for a worker."""


class LocustWorker:
    """One Locust worker, which can do several runs, one after the other."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.slots = 0
        """The number of users in this worker."""
        self.run = WorkerRun(self)

    def start_run(self) -> None:
        """Begin by comparing the clocks: the master answers with its time and the setup of the run."""
        previous, self.run = self.run, WorkerRun(self)
        previous.wait()
        self.run.send_probe()

    def set_users(self, count: int) -> None:
        """Note how many users run in this worker now."""
        self.slots = count
        self.run.resize()


class WorkerRun:
    """One run in one worker: the sender process, and how many requests it has finished."""

    setup: RunSetup
    name: str
    channel: socket.socket
    """These are known once the sender process is started."""

    def __init__(self, worker: LocustWorker) -> None:
        self.worker = worker
        self._sending = BoundedSemaphore()
        self.probes: list[ClockProbe] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.finished = 0
        """Requests that have ended."""
        self.reported = 0
        """How many of them the master knows of."""

    def send_probe(self) -> None:
        """Ask the master for the time."""
        self.worker.runner.send_message("thinkload-probe", {"sent_s": time.perf_counter()})

    def probe_answered(self, data: dict[str, Any]) -> None:
        """Use the master's answer to a probe, and start the sender process after enough of them."""
        probe = ClockProbe(data["sent_s"], data["master_s"], time.perf_counter())
        if self.process is not None:
            self._send(probe)
            return
        self.probes.append(probe)
        if len(self.probes) < PROBES:
            self.send_probe()
        else:
            self._start(msgspec.convert(data["setup"], RunSetup))

    def work_assigned(self, work: list[tuple[int, float]]) -> None:
        """Pass on requests that the master has assigned. Each is sent when it is due or when a slot is free."""
        for seq, due_s in work:
            self._send(Work(seq, due_s))

    def _start(self, setup: RunSetup) -> None:
        self.setup = setup
        index = max(getattr(self.worker.runner, "worker_index", 0), 0)
        self.name = f"{platform.node()}-{index}".replace("/", "-")
        start_s, error_s = estimate_start_s(setup.boot_id, setup.start_s, self.probes)
        self.channel, its = socket.socketpair()
        with its:
            self.process = subprocess.Popen(
                command("loadgen.distributed.sender_process"), stdin=its.fileno(), stdout=subprocess.DEVNULL
            )
        self._send(SenderSetup(run=setup, name=self.name, start_s=start_s, error_s=error_s, probes=self.probes))
        gevent.spawn(self._listen, self.process)

    def _send(self, message: msgspec.Struct) -> None:
        """Send a message to the sender process, if there is one."""
        if self.process is not None:
            # Several greenlets send. One that waits for room in the socket must not be interrupted by another one's line.
            with self._sending, suppress(OSError):  # it has died, which _listen reports, or it needs no more work
                self.channel.sendall(encode(message))

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Handle the reports of the sender process until it ends."""
        with suppress(ConnectionError):  # it was killed before it had read everything
            for line in self.channel.makefile("rb"):
                report = REPORTS.decode(line)
                if report.disk_full is not None:
                    self.worker.runner.send_message("thinkload-failed", {"name": self.name, "reason": report.disk_full})
                elif not self.ready:
                    self.ready = True
                    self.resize()
                    gevent.spawn(self._keep_probing)
                for record in report.records:
                    self._finished(record)
        if process.wait() != 0:
            LOG.error("thinkload: the sender process ended with exit status %s: this worker stops", process.returncode)
            self.worker.environment.process_exit_code = 2 if process.returncode == 2 else 1
            self.worker.runner.quit()

    def _keep_probing(self) -> None:
        while self.process is not None and self.process.poll() is None:
            gevent.sleep(PROBE_S)
            self.send_probe()

    def _finished(self, record: Record) -> None:
        if self.worker.run is self:  # otherwise Locust's statistics are of the next run already
            self._show(record)
        self.finished += 1
        if self.finished == self.reported + 1:
            # In a closed loop the worker may wait for more. An open loop can end many requests in a short time.
            gevent.spawn_later(REPORT_S if self.setup.open_loop else 0, self._tell_master)

    def _show(self, record: Record) -> None:
        """Give a request to Locust as an event, and its TTFT and TPOT as statistics of their own."""
        name = f"budget {record.budget}"
        end_s = record.last_token_s if record.outcome == "ok" else record.end_s
        seconds = max(0.0, (end_s or record.due_s) - record.due_s)
        failure = printable(f"{record.outcome}: {record.error or ''}".strip(": "))
        fire: Any = self.worker.environment.events.request.fire
        fire(
            request_type="POST", name=name, response_time=seconds * 1e3, response_length=record.completion_tokens or 0,
            exception=None if record.outcome == "ok" else RuntimeError(failure), context={"seq": record.seq},
            response=None, url=None, start_time=None,
        )  # fmt: skip
        for kind, latency_s in (("TTFT", record.ttft_s), ("TPOT", record.tpot_s)):
            if latency_s is not None:
                self.worker.environment.stats.get(name, kind).log(round(latency_s * 1e3, 3), 0)  # type: ignore[arg-type]  # as Locust does itself

    def _tell_master(self) -> None:
        self.reported = self.finished
        state = {"run_id": self.setup.run_id, "name": self.name, "slots": self.worker.slots, "finished": self.finished}
        self.worker.runner.send_message("thinkload-state", state)

    def resize(self) -> None:
        """Set the number of slots to the number of users. An open loop has no slots."""
        if self.ready:
            if not self.setup.open_loop:
                self._send(Slots(self.worker.slots))
            self._tell_master()

    def close(self) -> None:
        """Tell the sender process that no more work follows. Locust's last report must be in time, so nothing is awaited."""
        if self.process is not None:
            with suppress(OSError):
                self.channel.shutdown(socket.SHUT_WR)

    def wait(self) -> None:
        """Wait until the sender process has ended, or kill it."""
        self.close()
        if self.process is not None:
            try:
                self.process.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
