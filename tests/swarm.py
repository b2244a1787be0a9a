"""Real Locust as processes: a master, its workers, and what `gather` makes of their files."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from loadgen.record import Record, read_records
from tests.emulated import ROOT

T = TypeVar("T")
Process = subprocess.Popen[bytes]


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def locust(*arguments: str, log: Path, before: tuple[str, ...] = (), own_terminal: bool = False) -> Process:
    """Start `locust -f loadgen/locustfile.py …`; what it says goes to `log`."""
    command = [*before, sys.executable, "-m", "locust", "-f", "loadgen/locustfile.py", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=own_terminal
        )


class Swarm:
    """A master and its workers, headless."""

    def __init__(self, out: Path, *options: str, workers: int) -> None:
        self.out = out
        self.port = str(free_port())
        self.log = out.with_suffix(".master")
        self.master = locust(
            *("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", self.port, "--headless"),
            *("--only-summary", "--expect-workers", str(workers), "--out", str(out), *options),
            log=self.log,
        )
        self.workers: list[Process] = []

    def join(self, *before: str) -> Process:
        """One worker more; `before` is a command that runs it."""
        log = self.out.with_suffix(f".worker{len(self.workers)}")
        self.workers.append(locust("--worker", "--master-port", self.port, log=log, before=before))
        return self.workers[-1]

    def end(self) -> None:
        """Wait for the end, which is a good one."""
        assert self.master.wait(timeout=200) == 0, self.log.read_text()
        for worker in self.workers:
            worker.wait(timeout=20)


@contextmanager
def swarm(out: Path, *options: str, workers: Sequence[tuple[str, ...]] = ((), (), ())) -> Iterator[Swarm]:
    """A swarm with a worker for each command that is to run one; whatever is left of it is ended."""
    found = Swarm(out, *options, workers=len(workers))
    try:
        for before in workers:
            found.join(*before)
        yield found
    finally:
        for process in (found.master, *found.workers):
            process.kill()
            process.wait()


def sender_of(worker: Process) -> int:
    """The process that sends for a worker."""
    (pid,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return int(pid)


def kill(*pids: int) -> None:
    """Without a word."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """The process has ended, whether or not anybody asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def recorded(out: Path) -> set[int]:
    """Requests that the workers have recorded as ended so far."""
    found = (record for path in out.glob("records.*.jsonl") for record in read_records(path))
    return {record.seq for record in found if record.outcome != "cancelled"}


def until(condition: Callable[[], T]) -> T:
    """What `condition()` says once it is true; pytest's timeout ends a wait that is in vain."""
    while not (value := condition()):
        time.sleep(0.1)
    return value


def gather(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """`python -m loadgen gather …`."""
    command = [sys.executable, "-m", "loadgen", "gather", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def gathered(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    """Its last line, and what it says to people."""
    done = gather(*arguments)
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = msgspec.json.decode(done.stdout.splitlines()[-1])
    return line, done.stderr


def records(folder: Path) -> list[Record]:
    """Of a gathered run."""
    return list(read_records(folder / "records.jsonl"))


def locust_rows(run: list[Record]) -> dict[tuple[str, str], int]:
    """What Locust's statistics have to count: a name a budget, TTFT and TPOT apart where there is one, each request once in total."""
    rows: Counter[tuple[str, str]] = Counter({("", "Aggregated"): len(run)})
    for record in run:
        for kind, figure in (("POST", 0.0), ("TTFT", record.ttft_s), ("TPOT", record.tpot_s)):
            rows[kind, f"budget {record.budget}"] += figure is not None
    return dict(rows)
