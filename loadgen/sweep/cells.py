"""Runs the cells group by group: the servers of a group start together, and each cell is one run against one of them.

A failure in a cell is recorded, and the next cell runs. A server that ends during a cell fails this cell, whose records are
kept in `discarded/`, and is started again for the next one. Ctrl-C and the deadline end the whole sweep, not only the current
cell; a cell that was running then runs again when the sweep is resumed.

This module does not know which cells remain to be run (see command.py), or where servers are placed (see groups.py).
"""

import contextlib
import dataclasses
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.errors import NO_ROOM, UsageError
from loadgen.files import private_files
from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.record import SERVER_LOG, RunInfo
from loadgen.sweep import parallel, pool, vllm_bench
from loadgen.sweep.deadline import Pace
from loadgen.sweep.groups import Group, Server
from loadgen.sweep.manifest import Manifest
from loadgen.sweep.plan import Cell, CellResult, outcome
from loadgen.sweep.residents import Resident, Residents
from loadgen.sweep.study import PlannedSweep
from loadgen.terminal import printable
from server.config import model_file
from server.launch import commands
from server.launch.lifecycle import watched
from server.launch.spec import LaunchFailedError, Spec

OUT_OF_MEMORY = "out_of_memory"


def report(line: str) -> None:
    """Prints one line of progress, without control characters. On a terminal, it is broken between words."""
    text = printable(line)
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    print(text, file=sys.stderr)


class InThisThread(Executor):
    """Runs each task when it is submitted. Only the main thread may receive Ctrl-C, so a single client runs in it."""

    def submit(self, task: Callable[..., Any], /, *args: Any, **options: Any) -> "Future[Any]":
        """Runs the task. Raises its exception here, not in the future."""
        future: Future[Any] = Future()
        future.set_result(task(*args, **options))
        return future


@dataclass
class CellRunner:
    """Runs cells and records their states in the manifest. `execute` executes one run; a process can call it."""

    planned: PlannedSweep
    manifest: Manifest
    pace: Pace
    execute: parallel.Execute
    stopping: bool = False
    """The sweep was interrupted: what goes wrong from now on is not the fault of a cell."""

    @property
    def out(self) -> Path:
        """The folder of the sweep."""
        return Path(self.manifest.folder)

    def run(self, order: Sequence[Cell]) -> Iterator[CellResult]:
        """Runs all of these cells that end before the deadline."""
        waiting = self.planned.groups(order)
        with watched(), self._stop_in_time():
            while waiting:
                group = waiting.pop(0)
                for server in group.servers:
                    server.cells = [cell for cell in server.cells if self.pace.fits(cell.name, starts=1)]
                servers = [server for server in group.servers if server.cells]
                if servers:
                    yield from self._run_group(servers, waiting)

    @contextlib.contextmanager
    def _stop_in_time(self) -> Iterator[None]:
        """Interrupts the sweep in the block when its deadline comes, as Ctrl-C does."""
        if self.pace.stop_s is None:
            yield
            return
        interrupt = (threading.main_thread().ident or 0, signal.SIGINT)
        timer = threading.Timer(self.pace.stop_s, signal.pthread_kill, interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _run_group(self, servers: list[Server], waiting: list[Group]) -> Iterator[CellResult]:
        began_s = time.monotonic()
        members = [Resident(server, self._spec(server)) for server in servers]
        with Residents(members, report) as residents:
            for member, error in residents.start():
                if error.kind == OUT_OF_MEMORY and len(members) > 1:
                    report(
                        f"sweep: {member.server.name} does not fit into GPU memory beside the others, of which {len(residents.members)} started: it starts alone later"
                    )
                    waiting.append(Group({}, [member.server]))
                else:
                    yield from self._all_failed(member.server.cells, error)
            self.pace.starts_s.append(time.monotonic() - began_s)
            if residents.members:
                with residents.observed():
                    yield from self._load(residents)

    def _all_failed(self, cells: list[Cell], error: LaunchFailedError) -> Iterator[CellResult]:
        for line in error.tail:
            report(f"  | {line}")
        for cell in cells:
            self.manifest.failed(cell.name, str(error))
            yield cell, str(error)

    def _load(self, residents: Residents) -> Iterator[CellResult]:
        """Runs the cells of the group in the order of the sweep, at most `--parallel` at once and one for each GPU."""
        order = {entry.name: place for place, entry in enumerate(self.manifest.cells)}
        pending = [(cell, member) for member in residents.members for cell in member.server.cells]
        pending.sort(key=lambda pair: order[pair[0].name])
        at_once = 1
        if (wanted := self.planned.args.parallel) > 1:
            at_once = parallel.servers_at_once(self.execute, self.planned.options, residents, wanted, report)
        threads = ThreadPoolExecutor(at_once) if at_once > 1 else InThisThread()
        running: dict[Future[str], tuple[Cell, Resident]] = {}
        try:
            while pending or running:
                used = {gpu for _, member in running.values() for gpu in member.server.gpus}
                free = [pair for pair in pending if not used & set(pair[1].server.gpus)]
                if free and len(running) < at_once:
                    pending.remove(free[0])
                    running[threads.submit(self.run_cell, *free[0], residents)] = free[0]
                    continue
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future)[0], future.result()
                pending = [pair for pair in pending if self.pace.fits(pair[0].name)]
        except BaseException:
            # Ctrl-C: cells that have not started are canceled, and clients in other processes are ended.
            self.stopping = True
            threads.shutdown(wait=False, cancel_futures=True)
            pool.terminate_all()
            raise

    def _spec(self, server: Server) -> Spec:
        args, options, first = self.planned.args, self.planned.options, server.first
        emulate = ["--seed", str(options.seed), "--dataset", datasets.emulator_file(options)]
        emulate += ["--engine-version", args.engine_version]
        emulate += ["--speed", str(args.speed)] if args.speed else []
        emulate += ["--gpu", options.gpu] if options.gpu else []
        return Spec(
            config=first.config,
            model=first.model,
            backend=args.backend,
            gpus=server.gpus if self.planned.machine.seen else None,
            image=args.image,
            emulate=tuple(emulate),
            serve=first.serve,
            environment=first.environment,
            log=self.out / "logs" / f"{server.name}.log",
            start_timeout_s=args.start_timeout,
        )

    def run_cell(self, cell: Cell, member: Resident, residents: Residents) -> str:
        """Runs one cell and returns what became of it. Raises KeyboardInterrupt after an interrupted run."""
        started_s, run_id = time.monotonic(), f"{self.out.name}.{cell.name}"
        try:
            server, telemetry = residents.wake(member, run_id)
            self.manifest.running(cell.name)
            options = self._run_options(cell, member, residents, run_id, telemetry)
            run = self._execute(options, cell)
            bench = vllm_bench.bench(options, run, server, member.spec) if self.planned.args.bench else None
            if bench:
                report(f"sweep: {cell.name}: {vllm_bench.in_words(bench)}")
            with contextlib.suppress(FileNotFoundError), private_files():
                shutil.copyfile(server.log, self.out / cell.name / SERVER_LOG)
            if (why := member.ended) is not None:
                return self._failed(cell, why)
        except Exception as error:  # no failure of one cell, not even a bug, may stop the others
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise  # no other cell could be recorded
            if not isinstance(error, UsageError | LaunchFailedError):
                traceback.print_exc()
            return self._failed(cell, f"{type(error).__name__}: {error}")
        finally:
            if not self.stopping:
                residents.rest(member)
        self.manifest.done(cell.name, run, time.monotonic() - started_s, bench)
        return outcome(run)

    def _execute(self, options: RunOptions, cell: Cell) -> RunInfo:
        run = self.execute(options, cell.load)
        if run.interrupted:
            raise KeyboardInterrupt
        return run

    def _failed(self, cell: Cell, reason: str) -> str:
        """Records a failed cell, and moves what it has recorded to `discarded/`. A cell that was interrupted has not failed."""
        if self.stopping:
            return reason
        self.manifest.discard(cell.name)
        self.manifest.failed(cell.name, reason)
        return reason

    def _run_options(
        self, cell: Cell, member: Resident, residents: Residents, run_id: str, telemetry: str | None
    ) -> RunOptions:
        server, spec = member.started, member.spec
        facts: dict[str, Any] = {"backend": server.backend, **server.describe()}
        if spec.environment:
            facts["environment"] = dict(spec.environment)
        if beside := residents.beside(member):
            facts["beside"] = beside
        options = cell.applied(self.planned.options)
        if not server.emulated:  # vLLM does not report these, and an emulated server does
            labels = commands.labels(spec)
            options = dataclasses.replace(
                options,
                tensor_parallel_size=int(labels["tp"]),
                speculation=labels["speculation"],
                preset=options.preset or (Path(cell.model).stem if model_file(cell.model) else None),
            )
        return dataclasses.replace(
            options,
            target=f"http://127.0.0.1:{server.port}/v1",
            out=self.out / cell.name,
            run_id=run_id,
            repeats=1,
            config_name=cell.config_name,
            num_gpus=len(server.gpus) or options.num_gpus,
            gpu_metrics=telemetry or options.gpu_metrics,
            server={**options.server, **facts},
        )
