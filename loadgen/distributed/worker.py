"""A Locust worker: takes numbers from the master, has them sent by a process beside it, and tells Locust of each.

Rules: nothing here touches a token (docs/decisions/0031); a request is Locust's `request` event, TTFT and TPOT are rows of
their own that its totals leave out. What it holds is a little more than it has users, so that none waits for the master.

Does not know: how a request is sent (bridge), what a number stands for, who else sends.
"""

import logging
import platform
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from locust.env import Environment

from loadgen.distributed.clock_sync import Probe, zero_of
from loadgen.distributed.messages import READY, FinishedRequest, RunSetup, SenderSetup, Slots, Work

LOG = logging.getLogger("loadgen")
PROBES = 7
"""Before the run. One more every PROBE_S shows whether the clocks drift apart."""
PROBE_S = 5.0
TELL_S = 0.1
WAIT_S = 8.0
"""Longest wait for the sending process: Locust's master waits 10 s for a worker."""


class LocustWorker:
    """Of one Locust worker; a run after the other."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.slots = 0
        """Users here."""
        self.sending: Sending | None = None

    def begin(self) -> None:
        """Tell the master that we are here, and learn what its clock says."""
        before, self.sending = self.sending, None
        if before is not None:
            before.wait()
        self.sending = Sending(self)
        self.sending.probe()

    def pong(self, said: dict[str, Any]) -> None:
        """The master's answer."""
        if self.sending is not None:
            probe = Probe(said["sent_s"], said["master_s"], time.perf_counter())
            self.sending.probed(probe, msgspec.convert(said["plan"], RunSetup))

    def work(self, said: dict[str, Any]) -> None:
        """Numbers from the master."""
        if self.sending is not None:
            self.sending.given([Work(*each) for each in said["work"]], no_more=said["no_more"])

    def users(self, count: int) -> None:
        """So many run here now."""
        self.slots = count
        if self.sending is not None:
            self.sending.resize()

    def end(self) -> None:
        """No more comes. Not waited for here: Locust's last report must be in time."""
        if self.sending is not None:
            self.sending.close()

    def wait(self) -> None:
        """Until the sending process has ended."""
        if self.sending is not None:
            self.sending.wait()

    def report(self, told: FinishedRequest) -> None:
        """Locust's event for a request; TTFT and TPOT beside it."""
        name = f"budget {told.budget}"
        failed = f"{told.outcome}: {told.error or ''}".strip(": ")
        fire: Any = self.environment.events.request.fire
        fire(
            request_type="POST", name=name, response_time=told.seconds * 1e3, response_length=told.tokens,
            exception=None if told.outcome == "ok" else RuntimeError(failed), context={"seq": told.seq},
            response=None, url=None, start_time=None,
        )  # fmt: skip
        for kind, seconds in (("TTFT", told.ttft_s), ("TPOT", told.tpot_s)):
            if seconds is not None:
                self.environment.stats.get(name, kind).log(round(seconds * 1e3, 3), 0)  # type: ignore[arg-type]  # as Locust does itself


class Sending:
    """One run on one worker: the process that sends, and the numbers that it holds."""

    def __init__(self, hand: LocustWorker) -> None:
        self.hand = hand
        self.plan: RunSetup | None = None
        self.probes: list[Probe] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = Event()
        self.held = 0
        """Numbers given to the process that have not ended."""
        self.asked = False
        self.no_more = False
        self.ended = 0
        """Not told to the master yet."""

    def probe(self) -> None:
        """Ask the master for the time."""
        self.hand.runner.send_message("thinkload-ping", {"sent_s": time.perf_counter()})

    def probed(self, probe: Probe, plan: RunSetup) -> None:
        """The master has said what time it is, and what is to be run."""
        if self.process is not None:
            self._write(probe)
            return
        self.probes.append(probe)
        if len(self.probes) < PROBES:
            self.probe()
        else:
            self._start(plan)

    def _start(self, plan: RunSetup) -> None:
        self.plan = plan
        zero_s, error_s = zero_of(plan.boot, plan.zero_s, self.probes)
        index = max(getattr(self.hand.runner, "worker_index", 0), 0)
        name = f"{platform.node()}-{index}".replace("/", "-")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.distributed.sender_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._write(SenderSetup(plan=plan, name=name, zero_s=zero_s, error_s=error_s, probes=self.probes))
        gevent.spawn(self._listen, self.process, name)

    def _write(self, line: msgspec.Struct) -> None:
        stdin = self.process.stdin if self.process is not None else None
        if stdin is not None and not stdin.closed:
            with suppress(BrokenPipeError):  # it died: _listen says so
                stdin.write(msgspec.json.encode(line) + b"\n")
                stdin.flush()

    def _listen(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        """Until the process ends: what it says of each request."""
        assert process.stdout is not None  # noqa: S101  Popen was given PIPE
        decode = msgspec.json.Decoder(FinishedRequest).decode
        for line in process.stdout:
            if line == READY:
                self.ready.set()
                self.hand.runner.send_message("thinkload-ready", {"name": name})
                gevent.spawn(self._keep_probing)
                self.resize()
            else:
                self._ended(decode(line))
        if process.wait() != 0:
            LOG.error("thinkload: the sending process ended with %s: this worker stops", process.returncode)
            self.hand.environment.process_exit_code = 2 if process.returncode == 2 else 1
            self.hand.runner.quit()

    def _keep_probing(self) -> None:
        while self.process is not None and self.process.poll() is None:
            gevent.sleep(PROBE_S)
            self.probe()

    def _ended(self, told: FinishedRequest) -> None:
        if self.hand.sending is self:  # else Locust counts another run by now
            self.hand.report(told)
        self.held -= 1
        self.ended += 1
        self.refill()
        if self.ended == 1:
            gevent.spawn_later(TELL_S, self._tell, self.plan.run_id if self.plan else "")

    def _tell(self, run_id: str) -> None:
        count, self.ended = self.ended, 0
        self.hand.runner.send_message("thinkload-ended", {"count": count, "run_id": run_id})

    def given(self, work: list[Work], *, no_more: bool) -> None:
        """On to the process: it sends when the time has come, or a slot is free."""
        self.asked, self.no_more = False, no_more
        self.held += len(work)
        for each in work:
            self._write(each)
        self.refill()

    def resize(self) -> None:
        """As many slots as there are users; an open loop has none."""
        if self.ready.is_set() and self.plan is not None and not self.plan.open:
            self._write(Slots(self.hand.slots))
            self.refill()

    def refill(self) -> None:
        """Ask for what is missing."""
        slots = self.hand.slots
        wanted = slots + max(2, slots // 4)
        if (
            self.plan is not None
            and not self.plan.open
            and slots
            and not (self.asked or self.no_more)
            and self.held < wanted
        ):
            self.asked = True
            self.hand.runner.send_message("thinkload-take", {"count": wanted - self.held})

    def close(self) -> None:
        """The process ends what it has begun."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self) -> None:
        """Until it has."""
        self.close()
        if self.process is not None:
            try:
                self.process.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
