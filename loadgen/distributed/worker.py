"""A Locust worker: asks the master for requests, passes them to its sender process, and reports the results to Locust.

Rules: nothing that happens for each token passes through this process (docs/decisions/0031). Each request is one `request`
event of Locust; TTFT and TPOT are rows of their own, which Locust's totals do not include. A worker has a few more requests
assigned than it has users, so that no user waits for the master.

This module does not know how a request is sent (`sender_process`), what a number stands for, or which other workers there are.
"""

import logging
import platform
import subprocess
import time
from contextlib import suppress
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from locust.env import Environment

from loadgen.distributed.clock_sync import ClockProbe, estimate_start_s
from loadgen.distributed.messages import Failed, FinishedRequest, RunSetup, SenderSetup, Slots, Work
from loadgen.run.process_protocol import Ready, command, encode
from loadgen.terminal import printable

LOG = logging.getLogger("loadgen")
PROBES = 7
"""Probes of the master's clock before the run. During the run, one every PROBE_S seconds shows whether the clocks drift."""
PROBE_S = 5.0
REPORT_S = 0.1
WAIT_S = 8.0
"""The longest wait for the sender process to end. Locust's master waits 10 s for a worker."""

_message = msgspec.json.Decoder(Ready | FinishedRequest | Failed)


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

    def probe_answered(self, data: dict[str, Any]) -> None:
        """Handle the master's answer to a probe."""
        probe = ClockProbe(data["sent_s"], data["master_s"], time.perf_counter())
        self.run.probe_answered(probe, msgspec.convert(data["setup"], RunSetup))

    def work_assigned(self, data: dict[str, Any]) -> None:
        """Handle requests that the master has assigned."""
        self.run.pass_on([Work(*each) for each in data["work"]], no_more=data["no_more"])

    def set_users(self, count: int) -> None:
        """Note how many users run in this worker now."""
        self.slots = count
        self.run.resize()

    def end_run(self) -> None:
        """Send no more work. This does not wait for the sender process, because Locust's last report must be in time."""
        self.run.close()

    def wait(self) -> None:
        """Wait until the sender process has ended."""
        self.run.wait()

    def report(self, finished: FinishedRequest) -> None:
        """Give a request to Locust as an event, and its TTFT and TPOT as statistics of their own."""
        name = f"budget {finished.budget}"
        failure = printable(f"{finished.outcome}: {finished.error or ''}".strip(": "))
        fire: Any = self.environment.events.request.fire
        fire(
            request_type="POST", name=name, response_time=finished.seconds * 1e3, response_length=finished.tokens,
            exception=None if finished.outcome == "ok" else RuntimeError(failure), context={"seq": finished.seq},
            response=None, url=None, start_time=None,
        )  # fmt: skip
        for kind, seconds in (("TTFT", finished.ttft_s), ("TPOT", finished.tpot_s)):
            if seconds is not None:
                self.environment.stats.get(name, kind).log(round(seconds * 1e3, 3), 0)  # type: ignore[arg-type]  # as Locust does itself


class WorkerRun:
    """One run in one worker: the sender process, and the requests that are assigned to it."""

    def __init__(self, worker: LocustWorker) -> None:
        self.worker = worker
        self.setup: RunSetup | None = None
        self.probes: list[ClockProbe] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = Event()
        self.unfinished = 0
        """Assigned requests that have not ended."""
        self.work_requested = False
        self.no_more = False
        self.unreported = 0
        """Finished requests that the master has not been told of."""

    def send_probe(self) -> None:
        """Ask the master for the time."""
        self.worker.runner.send_message("thinkload-probe", {"sent_s": time.perf_counter()})

    def probe_answered(self, probe: ClockProbe, setup: RunSetup) -> None:
        """Use an answered probe, and start the sender process after enough of them."""
        if self.process is not None:
            self._send(probe)
            return
        self.probes.append(probe)
        if len(self.probes) < PROBES:
            self.send_probe()
        else:
            self._start(setup)

    def _start(self, setup: RunSetup) -> None:
        self.setup = setup
        start_s, error_s = estimate_start_s(setup.boot_id, setup.start_s, self.probes)
        index = max(getattr(self.worker.runner, "worker_index", 0), 0)
        name = f"{platform.node()}-{index}".replace("/", "-")
        sender = command("loadgen.distributed.sender_process")
        self.process = subprocess.Popen(sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._send(SenderSetup(run=setup, name=name, start_s=start_s, error_s=error_s, probes=self.probes))
        gevent.spawn(self._listen, self.process, name)

    def _send(self, message: msgspec.Struct) -> None:
        stdin = self.process.stdin if self.process is not None else None
        if stdin is not None and not stdin.closed:
            with suppress(BrokenPipeError):  # the process has died, which _listen reports
                stdin.write(encode(message))
                stdin.flush()

    def _listen(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        """Handle the messages of the sender process until it ends."""
        assert process.stdout is not None  # noqa: S101  Popen was given PIPE
        for line in process.stdout:
            message = _message.decode(line)
            if isinstance(message, Ready):
                self.ready.set()
                self.worker.runner.send_message("thinkload-ready", {"name": name})
                gevent.spawn(self._keep_probing)
                self.resize()
            elif isinstance(message, Failed):
                self.worker.runner.send_message("thinkload-failed", {"name": name, "reason": message.reason})
            else:
                self._finished(message)
        if process.wait() != 0:
            LOG.error(
                "thinkload: the sender process ended with exit status %s: this worker stops",
                process.returncode,
            )
            self.worker.environment.process_exit_code = 2 if process.returncode == 2 else 1
            self.worker.runner.quit()

    def _keep_probing(self) -> None:
        while self.process is not None and self.process.poll() is None:
            gevent.sleep(PROBE_S)
            self.send_probe()

    def _finished(self, finished: FinishedRequest) -> None:
        if self.worker.run is self:  # otherwise Locust's statistics are of the next run already
            self.worker.report(finished)
        self.unfinished -= 1
        self.unreported += 1
        self.request_work()
        if self.unreported == 1:
            gevent.spawn_later(REPORT_S, self._report_finished, self.setup.run_id if self.setup else "")

    def _report_finished(self, run_id: str) -> None:
        count, self.unreported = self.unreported, 0
        self.worker.runner.send_message("thinkload-finished", {"count": count, "run_id": run_id})

    def pass_on(self, work: list[Work], *, no_more: bool) -> None:
        """Pass assigned requests to the sender process, which sends each when it is due or when a slot is free."""
        self.work_requested, self.no_more = False, no_more
        self.unfinished += len(work)
        for each in work:
            self._send(each)
        self.request_work()

    def resize(self) -> None:
        """Set the number of slots to the number of users. An open loop has no slots."""
        if self.ready.is_set() and self.setup is not None and not self.setup.open_loop:
            self._send(Slots(self.worker.slots))
            self.request_work()

    def request_work(self) -> None:
        """Ask the master for more requests in a closed loop, if the worker has fewer than it needs."""
        slots = self.worker.slots
        wanted = slots + max(2, slots // 4)
        if self.setup is None or self.setup.open_loop or not slots or self.work_requested or self.no_more:
            return
        if self.unfinished < wanted:
            self.work_requested = True
            self.worker.runner.send_message("thinkload-request-work", {"count": wanted - self.unfinished})

    def close(self) -> None:
        """Tell the sender process that no more work follows."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self) -> None:
        """Wait until the sender process has ended, or kill it."""
        self.close()
        if self.process is not None:
            try:
                self.process.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
