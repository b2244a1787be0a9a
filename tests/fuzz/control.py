"""Checks that nothing that a server says of itself ends, hangs or fills `python -m loadgen`: a fuzz test with a seed.

    python -m tests.fuzz.control --cases 2000 --seed 1

In each case one control endpoint of a real server on loopback (the models, the version, /metrics, GPU telemetry, the
tokenizer, the probe of native budgets) answers with a damaged body or in a damaged way, and everything else answers well. A
command of the load generator then has to end at most HANG_S seconds later than usual and within MEMORY_MB megabytes, either
with its result or with one line and exit code 2. Commands run one after another in a few processes, because starting 2,000 processes takes half an
hour. A process that hangs is replaced.

This module does not know whether a result is right, and does not damage the stream of a generation (see
tests/fixtures/hostile.py).
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fixtures.hostile_control import Case, ControlServer, damaged_case, undamaged_cases

HANG_S = 5.0
"""Longest time that a damaged answer may add to a command."""
KILL_S = 30.0
"""A command that takes longer is ended with its process. Between HANG_S and KILL_S, its duration is measured."""
MEMORY_MB = 500


@dataclass(frozen=True)
class Outcome:
    """How one command ended."""

    code: int | None
    """None for a command that had to be killed."""
    stdout: str
    stderr: str
    seconds: float
    memory_mb: float


def problem(outcome: Outcome, usual_s: float) -> str | None:
    """What is wrong with an outcome; None for a result or a refusal in one line. `usual_s`: the time without damage."""
    text = outcome.stdout + outcome.stderr
    last = (outcome.stderr.strip().splitlines() or [""])[-1]
    checks = (
        (outcome.code is None, f"hung for more than {KILL_S:g} s, or its process ended"),
        ("Traceback (most recent call last)" in text, f"traceback: {last[:160]!r}"),
        (not all(char.isprintable() or char == "\n" for char in text), "control characters in the output"),
        (outcome.seconds > HANG_S + usual_s, f"took {outcome.seconds:.1f} s, without damage {usual_s:.1f} s"),
        (outcome.memory_mb > MEMORY_MB, f"used {outcome.memory_mb:.0f} MB"),
        (outcome.code not in (0, 1, 2, 4), f"exit code {outcome.code}"),
        (outcome.code == 2 and not _is_refusal(outcome.stderr), f"not one line: {outcome.stderr[:300]!r}"),
        (outcome.code in (0, 1, 4) and not _is_result(outcome.stdout), "no JSON result in the last line of stdout"),
    )
    return next((what for wrong, what in checks if wrong), None)


def _is_refusal(stderr: str) -> bool:
    return stderr.startswith("loadgen: ") and stderr.endswith("\n") and stderr.count("\n") == 1


def _is_result(stdout: str) -> bool:
    try:
        return isinstance(json.loads(stdout.splitlines()[-1]), dict)
    except (IndexError, ValueError):
        return False


def words(case: Case, target: str, folder: Path) -> list[str]:
    """The command line of a case."""
    short = ["--dataset", "sample", "--problems", "2", "--budgets", "4", "--timeout", "3", "--concurrency", "2"]
    if case.command == "doctor":
        return ["doctor", target, *short]
    modes = {"probe": ["--budget-mode", "native"], "detokenize": ["--one-pass", "--budgets", "2,4"]}
    mode = modes.get(case.endpoint, [])
    return [
        "run",
        "--target",
        target,
        *short,
        *mode,
        "--metrics-port",
        "off",
        "--progress",
        "none",
        "--out",
        str(folder),
    ]


class Worker:
    """A process that runs commands of the load generator one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.control", "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NO_PROXY": "127.0.0.1"},
        )

    def run(self, argv: list[str]) -> Outcome:
        """Run one command, and end the process if it does not return."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(argv).encode() + b"\n")
        self._process.stdin.flush()
        began = time.monotonic()
        ready = select.select([self._process.stdout], [], [], KILL_S)[0]
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            return Outcome(None, "", "", time.monotonic() - began, 0.0)
        outcome = Outcome(**json.loads(line))
        if outcome.memory_mb > MEMORY_MB:  # the peak of a process never falls, so it would count for every later case
            self.close()
        return outcome

    @property
    def alive(self) -> bool:
        """Whether the process can run another command."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def peak_mb() -> float:
    """The most main memory that this process has used since the last call (Linux)."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def serve_commands() -> None:
    """Run the commands that arrive on stdin, one JSON list a line; the other half of `Worker`."""
    # Imports that a command makes when it needs them would count as its time.
    import aiohttp  # noqa: F401, PLC0415

    import loadgen.checks.doctor  # noqa: PLC0415
    import loadgen.run.run  # noqa: F401, PLC0415
    from loadgen.cli import main  # noqa: PLC0415

    peak_mb()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        out, err, began, code = io.StringIO(), io.StringIO(), time.monotonic(), 1
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(json.loads(line))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:  # noqa: BLE001 - a traceback is what this program looks for
                traceback.print_exc()
        seconds = time.monotonic() - began
        found = Outcome(code, out.getvalue(), err.getvalue(), seconds, peak_mb())
        print(json.dumps(found.__dict__), file=answers, flush=True)


@contextlib.contextmanager
def serving(server: ControlServer) -> Iterator[None]:
    """Run the server in a thread with its own event loop."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def fuzz(cases: int, seed: int, processes: int) -> tuple[list[tuple[Case, Outcome, str | None]], int]:
    """Run the cases; return each with its outcome and its problem, and in how many the damage was asked for."""
    server = ControlServer()
    local = threading.local()
    workers: list[Worker] = []

    def run(case: Case) -> Outcome:
        server.cases[case.number] = case
        if not getattr(local, "worker", None) or not local.worker.alive:
            local.worker = Worker()
            workers.append(local.worker)
        outcome: Outcome = local.worker.run(words(case, server.target(case), Path(folder) / f"case-{case.number}"))
        del server.cases[case.number]
        return outcome

    def judge(number: int) -> tuple[Case, Outcome, str | None]:
        case = damaged_case(random.Random(f"{seed}/{number}"), number)
        outcome = run(case)
        return replace(case, body=b""), outcome, problem(outcome, usual_s)

    with tempfile.TemporaryDirectory() as folder, serving(server), ThreadPoolExecutor(processes) as pool:
        try:
            usual_s = max(outcome.seconds for outcome in pool.map(run, undamaged_cases()))
            return list(pool.map(judge, range(cases))), len(server.asked)
        finally:
            for worker in workers:
                worker.close()


def report(found: list[tuple[Case, Outcome, str | None]], asked: int) -> int:
    """Print a table of the damages and the problems; return the exit code."""
    totals = Counter((case.endpoint, case.damage) for case, _, _ in found)
    wrong = Counter((case.endpoint, case.damage) for case, _, what in found if what)
    print(f"{'endpoint':<12}{'damage':<16}{'cases':>6}{'problems':>10}", file=sys.stderr)
    for key, count in sorted(totals.items()):
        print(f"{key[0]:<12}{key[1]:<16}{count:>6}{wrong[key]:>10}", file=sys.stderr)
    for case, _, what in found:
        if what:
            print(f"case {case.number} ({case.command}, {case.endpoint}, {case.damage}): {what}", file=sys.stderr)
    slowest = max((outcome.seconds for _, outcome, _ in found), default=0.0)
    largest = max((outcome.memory_mb for _, outcome, _ in found), default=0.0)
    codes = Counter(str(outcome.code) for _, outcome, _ in found)
    result = {"cases": len(found), "asked": asked, "problems": sum(wrong.values()), "exit_codes": dict(codes)}
    print(json.dumps(result | {"slowest_s": round(slowest, 2), "largest_mb": round(largest)}))
    return int(bool(wrong))


def main() -> int:
    """Run the fuzz test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve_commands()
        return 0
    return report(*fuzz(args.cases, args.seed, args.processes))


if __name__ == "__main__":
    sys.exit(main())
