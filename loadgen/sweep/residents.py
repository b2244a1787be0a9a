"""The servers of one group: they start together, one of those on the same GPUs is awake at a time, and they stop together.

A paused server keeps its memory and uses no computing time. Prometheus scrapes a server only while it is awake, because a
paused one does not answer. A server that has ended is started again when its next cell begins.

This module does not know what a cell measures, or in which order cells run.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from loadgen.sweep.groups import Server
from server.launch.lifecycle import announce, gpu_metrics, start, stop, withdraw
from server.launch.readiness import healthy
from server.launch.running import stop_all
from server.launch.spec import OWNER, LaunchFailedError, RunningServer, Spec
from server.launch.startup_log import explain

HEALTH_ATTEMPTS = 3


@dataclass
class Resident:
    """A server of the group."""

    server: Server
    spec: Spec
    running: RunningServer | None = None
    state: Literal["down", "paused", "awake"] = "down"

    @property
    def started(self) -> RunningServer:
        """The running server. Raises LaunchFailedError if there is none."""
        if self.running is None:
            raise LaunchFailedError(f"{self.server.name} is not running")
        return self.running

    @property
    def ended(self) -> str | None:
        """Why the server does not serve any more, or None if it does. The server must be awake."""
        if self.running is None:
            return "the server is not running"
        cause = explain(self.running.log.read_text(errors="replace"))
        said = f": {cause[1]}" if cause else ""
        if (code := self.running.exit_code()) is not None:
            return f"the server ended with status {code}{said}"
        if not any(healthy(self.running.port) for _ in range(HEALTH_ATTEMPTS)):
            return f"the server does not answer /health any more{said}"
        return None


@dataclass
class Residents:
    """The started servers of a group. Used as a context, it stops them."""

    members: list[Resident]
    report: Callable[[str], None]
    telemetry: dict[tuple[int, ...], str] = field(default_factory=dict)

    def start(self) -> list[tuple[Resident, LaunchFailedError]]:
        """Starts all servers together and returns those that did not start."""
        with ThreadPoolExecutor(len(self.members)) as threads:
            try:
                failures = list(threads.map(self._start, self.members))
            except BaseException:  # Ctrl-C: the threads end when their servers have ended
                stop_all(owner=OWNER, grace_s=1.0)
                raise
        failed = [(m, error) for m, error in zip(self.members, failures, strict=True) if error]
        self.members = [member for member in self.members if member.running]
        for member in self.members:
            self.rest(member)
        return failed

    def _start(self, member: Resident) -> LaunchFailedError | None:
        try:
            member.running, member.state = start(member.spec, self.report), "awake"
        except LaunchFailedError as error:
            return error
        return None

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Exports the telemetry of the GPUs in the block: one exporter for each set of GPUs."""
        with ExitStack() as stack:
            for gpus in {member.running.gpus for member in self.members if member.running}:
                if gpus:
                    self.telemetry[gpus] = stack.enter_context(gpu_metrics(gpus, self.report))
            yield

    def wake(self, member: Resident, run: str) -> tuple[RunningServer, str | None]:
        """The member's server, awake and announced to Prometheus with the label of the run, and the URL of its telemetry.

        A server that has ended is started again. Raises LaunchFailedError.
        """
        if member.running is not None and member.state == "paused":
            member.running.wake()
            member.state = "awake"
        if (why := member.ended) is not None:
            self.report(f"sweep: {member.server.name}: {why}: starting it again")
            self.stop(member)
            if error := self._start(member):
                raise error
        telemetry = self.telemetry.get(member.started.gpus)
        announce(member.started, dataclasses.replace(member.spec, run=run), telemetry)
        return member.started, telemetry

    def rest(self, member: Resident) -> None:
        """Pauses the server, after its start or after a cell, if it is not the only one of its group."""
        if len(self.members) > 1 and member.running and member.running.exit_code() is None:
            withdraw(member.running)
            member.running.pause()
            member.state = "paused"

    def beside(self, member: Resident) -> list[dict[str, Any]]:
        """The other servers of the group: on which GPUs they stand, and whether they are paused or awake."""
        return [
            {"server": m.server.name, "gpus": list(m.server.gpus), "state": m.state}
            for m in self.members
            if m is not member and m.running
        ]

    def stop(self, member: Resident) -> None:
        """Stops one server."""
        if member.running is not None:
            stop(member.running)
            member.running, member.state = None, "down"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(max(len(self.members), 1)) as threads:
            list(threads.map(self.stop, self.members))
