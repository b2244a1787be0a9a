"""Kills processes of a running sweep and resumes it: `python -m tests.loadgen.sweep.kills [KILLS] [SEED]` prints a table of outcomes.

The sweep has 12 emulated cells of six servers, which stand in groups on two GPUs. A victim is a server, a client, the watchdog
or the sweep itself. After each kill the sweep is resumed if it has ended, until every cell is done. `check` then asserts that
no cell is lost, doubled or taken from a dead server, and that nothing is left running or announced to Prometheus.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loadgen.record import find_runs, read_records, read_run
from tests import ROOT

VICTIMS = ("server", "client", "sweep", "watchdog")
REQUESTS = 8
COMMON = """
loads: [1, 4]
residency: group
parallel: 2
serve: {all: {kv-cache-memory-bytes: 5G}}
run: {dataset: sample, budgets: 256, requests: 8, metrics-port: off, progress: none}
"""
SMALL = "configs: [tp1, tp1-ngram]\nmodels: [r1-distill-qwen-1.5b]\ngpus: 1" + COMMON
"""Four cells of two servers on one GPU, which are loaded one after the other, each by a client process."""
LARGE = "configs: [tp1, tp1-ngram, tp2]\nmodels: [r1-distill-qwen-1.5b, r1-distill-qwen-7b]\ngpus: 2" + COMMON
"""Twelve cells of six servers in groups on two GPUs, which are loaded side by side."""


class Sweep:
    """A sweep in a folder of its own, with its own state folder and target folder."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.out, self.targets = folder / "sweep", folder / "targets"
        self.targets.mkdir()
        (folder / "plan.yaml").write_text(plan)
        self.arguments = ["--plan", str(folder / "plan.yaml"), "--speed", "2", "--out", str(self.out)]
        self.environment = {
            **os.environ,
            "THINKLOAD_STATE": str(folder / "state"),
            "THINKLOAD_TARGETS": str(self.targets),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def cells(self) -> list[dict[str, object]]:
        """The cells of sweep.json."""
        try:
            return list(json.loads((self.out / "sweep.json").read_text())["cells"])
        except FileNotFoundError:
            return []

    def complete(self) -> bool:
        """Whether every cell is done."""
        return bool(self.cells()) and all(cell["state"] == "done" for cell in self.cells())

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts or resumes the sweep if it does not run."""
        if self.process is None or self.process.poll() is not None:
            arguments = ["--resume", str(self.out)] if self.cells() else self.arguments
            with (self.out.parent / "sweep.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "loadgen", "sweep", *arguments],
                    cwd=ROOT,
                    env=self.environment,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
        return self.process

    def processes(self) -> Iterator[tuple[int, str]]:
        """Pid and command line of every process of this sweep, which has the state folder in its environment."""
        state = self.environment["THINKLOAD_STATE"].encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int(folder.name) != os.getpid() and state in (folder / "environ").read_bytes():
                    yield int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue

    def victims(self, kind: str) -> list[int]:
        """The pids of this kind that run now."""
        if kind == "sweep":
            return [self.start().pid]
        mark = {"server": "-m server emulate", "client": "multiprocessing.spawn", "watchdog": "launch.watchdog"}
        return [pid for pid, command in self.processes() if mark[kind] in command]

    def kill(self, kind: str, chance: random.Random) -> str:
        """Waits until a cell has sent requests, kills one process of this kind, and says which state the sweep was in."""
        process = self.start()
        while process.poll() is None:
            running = [str(cell["name"]) for cell in self.cells() if cell["state"] == "running"]
            pids = self.victims(kind)
            if pids and any((self.out / name / "records.jsonl").exists() for name in running):
                os.kill(chance.choice(pids), signal.SIGKILL)
                states = [cell["state"] for cell in self.cells()]
                return f"{states.count('done')} cells done, {states.count('running')} running"
            time.sleep(chance.uniform(0.02, 0.3))
        return "the sweep had ended before"

    def finish(self) -> None:
        """Resumes the sweep until every cell is done."""
        for _ in range(30):
            if self.start().wait() == 0 and self.complete():
                return
        raise AssertionError((self.out.parent / "sweep.log").read_text()[-4000:])

    def check(self, cells: int) -> None:
        """Asserts that every one of so many cells was measured once and completely, and that nothing is left."""
        names = sorted(str(cell["name"]) for cell in self.cells())
        assert len(names) == len(set(names)) == cells
        assert sorted(folder.name for folder in find_runs(self.out)) == names
        for folder in find_runs(self.out):
            assert read_run(folder).verdict is not None
            outcomes = {r.seq: r.outcome for r in read_records(folder / "records.jsonl")}
            assert outcomes == dict.fromkeys(range(REQUESTS), "ok"), folder.name
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        """Asserts that every process ends, and that nothing is announced to Prometheus."""
        deadline_s = time.monotonic() + 60
        while list(self.processes()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert list(self.processes()) == []
        assert list(self.targets.iterdir()) == []


def main(kills: int = 20, seed: int = 0) -> None:
    """Kills so many processes, five of each kind by default, over one sweep after another, and prints a table."""
    chance = random.Random(seed)
    kinds = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
    chance.shuffle(kinds)
    while kinds:
        with tempfile.TemporaryDirectory() as folder:
            sweep = Sweep(Path(folder), LARGE)
            while kinds and not sweep.complete():
                kind = kinds.pop()
                print(f"| {kills - len(kinds)} | {kind} | {sweep.kill(kind, chance)} |", flush=True)
                time.sleep(chance.uniform(0, 3))
            sweep.finish()
            sweep.check(cells=12)
            failed = len(list((sweep.out / "discarded").iterdir())) if (sweep.out / "discarded").exists() else 0
            print(f"| | | all 12 cells done once; {failed} attempts kept aside; nothing left running |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
