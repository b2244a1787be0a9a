"""What a sweep measures: its cells with their options, the servers that they need, the GPUs, and what all of it will take.

Everything is checked here before anything starts. This module does not know how a server is started or how a cell runs.
"""

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from loadgen.errors import UsageError
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions, check_combinations, load_point_of
from loadgen.plan import datasets
from loadgen.search.arguments import check
from loadgen.sweep import axes, forecasts, groups, plan, searches
from loadgen.sweep.groups import Group, Machine, Server
from loadgen.sweep.manifest import Entry
from loadgen.sweep.plan import EMULATED, Cell
from loadgen.sweep.serve import serve_plan
from loadgen.target.preflight import check_lengths
from loadgen.target.server_info import ServerInfo
from loadgen.terminal import duration_text
from server.config import ConfigError, load_serving, read_config, read_preset
from server.emulator.engine import hardware
from server.emulator.engine.model_runner import served
from server.emulator.forecast import Forecast
from server.launch import docker_backend
from server.launch import gpus as gpu_list
from server.launch.lifecycle import free_gpus


@dataclass
class PlannedSweep:
    """A checked plan. `cells` are in running order."""

    args: argparse.Namespace
    options: RunOptions
    cells: list[Cell]

    @property
    def gpu(self) -> str:
        """The GPU model that forecasts are for."""
        return self.options.gpu if self.options.gpu in hardware.gpus() else "h200"

    @cached_property
    def machine(self) -> Machine:
        """The GPUs of this machine; those of the emulated GPU model where there are none or the backend emulates."""
        rows = [] if self.args.backend in EMULATED else gpu_list.inventory()
        if rows:
            free = sorted(free_gpus())[: self.args.gpus]
            return Machine(tuple(free), min(row["memory_mib"] for row in rows) / 1024, seen=True)
        largest = max(cell.tensor_parallel_size for cell in self.cells)
        count = self.args.gpus or largest * self.args.parallel
        return Machine(tuple(range(count)), hardware.gpus()[self.gpu].memory_gib, seen=False)

    def groups(self, order: Sequence[Cell]) -> list[Group]:
        """The servers of these cells, placed on the GPUs."""
        residency = self.args.residency
        servers = [
            Server(cells, groups.memory_gib(cells, self.machine, self.gpu))
            for cells in plan.by_server(order, merged=residency == "group")
        ]
        return groups.place(servers, self.machine, residency=residency, at_once=self.args.parallel)

    @cached_property
    def forecasts(self) -> dict[str, Forecast | None]:
        """The forecast of each cell."""
        cells = [] if self.args.search else self.cells  # nobody knows how many runs a search needs
        settings = self.options, self.gpu, self.args.engine_version
        return {cell.name: forecasts.expected(cell, *settings) for cell in cells}

    @cached_property
    def expected_s(self) -> dict[str, float]:
        """The expected wall-clock time of each cell that has a forecast."""
        speed = self.args.speed or 1.0
        known = {name: found.seconds for name, found in self.forecasts.items() if found is not None}
        both_clients = self.args.bench and self.args.backend not in EMULATED
        times = 2 if both_clients else 1
        return {name: times * seconds / speed + forecasts.CELL_S for name, seconds in known.items()}

    def print_plan(self, order: Sequence[Cell], report: Callable[[str], None]) -> None:
        """Prints the cells that remain, the groups of servers, and the sums."""
        if not self.args.search:
            forecasts.print_cells(order, self.options, self.forecasts, report)
        placed = self.groups(order) if order and self.args.backend != "simulate" else []
        forecasts.print_groups(placed, self.machine, report)
        if self.args.search:
            at_most = duration_text(self.args.limit_s * len(order))
            report(f"sweep: {len(order)} searches, at most {at_most} (--limit) without start-ups")
            return
        report(forecasts.total_line([self.forecasts[cell.name] for cell in order], len(placed), self.args))

    def entries(self) -> Iterator[Entry]:
        """The entry of each cell in the manifest, with its content hash. Raises UsageError."""
        for cell in self.cells:
            yield Entry(
                name=cell.name,
                config=cell.config,
                model=cell.model,
                load=cell.load.name,
                repeat=cell.repeat,
                hash=plan.content_hash(cell, self.options, self._parts(cell)),
                forecast_s=self.expected_s.get(cell.name),
            )

    def _parts(self, cell: Cell) -> dict[str, object]:
        """Everything that the cell's numbers depend on beside its options. Raises UsageError."""
        emulated, options = self.args.backend in EMULATED, cell.applied(self.options)
        try:
            files = {"config": read_config(cell.config), "preset": read_preset(cell.model)}
            longest = read_config(cell.config, cell.overrides).get("max-model-len")
            if emulated:
                serving = load_serving(cell.config, cell.overrides)
                served(serving, self.args.engine_version, cell.environment)
        except ConfigError as error:
            # A method of speculation that is not emulated fails its cells only.
            if "speculative-config.method" not in str(error):
                raise UsageError(str(error)) from None
        if emulated and not files["preset"]:
            raise UsageError(
                f"--models: {cell.model!r} is not a preset in server/models, and backend {self.args.backend} needs one: "
                f"python -m server preset {shlex.quote(cell.model)} > my.yaml, then --models my.yaml"
            )
        check_combinations(options)
        known = isinstance(longest, int) and longest > 0  # vLLM takes the model's own length for `auto` and -1
        check_lengths(options, ServerInfo(cell.model, longest if known else None))
        docker = self.args.backend == "docker"
        return {
            **files,
            "dataset": datasets.load(options).sha256,
            "backend": self.args.backend,
            "speed": self.args.speed,
            "image": docker_backend.image_name(self.args.image) if docker else None,
        }


def check_names(args: argparse.Namespace) -> None:
    """Checks that all configurations and presets exist, before anything slower or less certain is checked. Raises UsageError."""
    for key, names, read in (("configs", args.configs, read_config), ("models", args.models, read_preset)):
        for name in names.split(",") if names else ():
            try:
                read(name)
            except ConfigError as error:
                raise UsageError(f"--{key}: {error}") from None


def study(args: argparse.Namespace, options: RunOptions) -> PlannedSweep:
    """Checks the plan of a sweep. Raises UsageError."""
    if not args.configs or not args.models:
        raise UsageError(
            "a sweep needs configurations and models: --configs tp1,tp2 --models r1-distill-qwen-1.5b, or --plan FILE"
        )
    check_names(args)
    configs, models = args.configs.split(","), args.models.split(",")
    points: Sequence[LoadPoint] = args.loads or (load_point_of(options),)
    if args.search:
        points, args.axes = (searches.searched_load(args),), searches.axes(args, options)
    try:
        serve = serve_plan(args.serve, configs, models)
        order = plan.cells(configs, models, points, options.repeats, axes.variants(args.axes), serve=serve)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    for cell in order if args.search else ():
        check(args, dataclasses.replace(options, **dict(cell.variant.changes)))
    names = [cell.name for cell in order]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            f"two cells are named {twice}: --configs, --models, --loads and axes must not name anything twice"
        )
    return PlannedSweep(args, options, plan.selected(order, args.exclude, args.only, args.first))
