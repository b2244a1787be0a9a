"""Places servers on GPUs: which of them stand on the same GPUs at the same time, by the memory that they need.

With residency `one`, a server has its GPUs for itself. With `group`, as many servers as fit into the memory stand on the same
GPUs. Servers are placed in the order of the sweep, each in the first group that has room for it. The memory is an estimate: if
it is too low, a server fails to start, and the sweep starts it again in a later group.

This module does not know how a server is started, or which of a group is awake.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadgen.sweep.plan import Cell
from server.config import ConfigError, check_parallel, load_model, load_serving
from server.emulator.engine import hardware
from server.emulator.engine.step_time import GIB, StepModel

BASE_GIB = 3.0
"""CUDA context, graphs and activations of one server on each GPU. Eight servers of 1.5B and 7B on an H200 used 2.6 GiB each."""
SAMPLER_COPIES = 10
"""Copies of the float32 logits that rejection sampling keeps: the memory of 14B grew by 4.7 GiB at 128 streams."""
USABLE = 0.97
"""The share of a GPU's memory that a group may use by this estimate."""


@dataclass
class Server:
    """A server, by its cells in running order."""

    cells: list[Cell]
    memory_gib: float = 0.0
    """On each of its GPUs."""
    gpus: tuple[int, ...] = ()

    @property
    def first(self) -> Cell:
        """A cell from which the configuration, the model and the options of the server can be read."""
        return self.cells[0]

    @property
    def name(self) -> str:
        """The beginning of the names of its cells."""
        return self.first.server_name


@dataclass
class Group:
    """Servers that stand at the same time, and the memory that is left on each GPU."""

    free_gib: dict[int, float]
    servers: list[Server] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """The GPUs that a sweep may use."""

    gpus: tuple[int, ...]
    memory_gib: float
    seen: bool
    """Whether these are GPUs of this machine, and not those of an emulated one."""


def memory_gib(cells: Sequence[Cell], machine: Machine, gpu: str) -> float:
    """The memory that the server of these cells needs on each of its GPUs; all of it for a model without a preset or without a fixed KV cache."""
    first = cells[0]
    try:
        serving, model = load_serving(first.config, first.overrides), load_model(first.model)
        check_parallel(serving, model)
        profile, version = hardware.gpus()[gpu], hardware.engine_versions()[hardware.ENGINE_VERSION]
        step = StepModel(model, serving, profile, version)
    except ConfigError:
        return machine.memory_gib
    if serving.kv_cache_memory_bytes is None:
        return machine.memory_gib * serving.gpu_memory_utilization
    streams = max((int(cell.load.value) for cell in cells if cell.load.kind == "closed"), default=256)
    sampled_bytes = streams * (1 + step.draft_tokens) * model.shape.vocab_size * 4 * SAMPLER_COPIES
    sampler_bytes = sampled_bytes if step.speculates else 0
    weights_bytes = step.resident_bytes + (step.drafter.resident_bytes if step.drafter else 0.0)
    return (weights_bytes + serving.kv_cache_memory_bytes + sampler_bytes) / GIB + BASE_GIB


def place(servers: Sequence[Server], machine: Machine, *, residency: str, at_once: int) -> list[Group]:
    """The groups in running order. With residency `one`, a group holds at most `at_once` servers, on different GPUs."""
    groups: list[Group] = []
    for server in servers:
        room = [group for group in groups if residency == "group" or len(group.servers) < at_once]
        if not any(_add(server, group, alone=residency == "one") for group in room):
            groups.append(Group(dict.fromkeys(machine.gpus, machine.memory_gib * USABLE)))
            if not _add(server, groups[-1], alone=True):  # it does not fit at all: its start will say why
                server.gpus = machine.gpus[: server.first.tensor_parallel_size]
                groups[-1].servers.append(server)
                groups[-1].free_gib = dict.fromkeys(machine.gpus, 0.0)
    return groups


def _add(server: Server, group: Group, *, alone: bool) -> bool:
    """Places the server on the GPUs with the most free memory. With `alone`, only on GPUs without another server."""
    used = {index for other in group.servers for index in other.gpus}
    size, indices = server.first.tensor_parallel_size, sorted(group.free_gib)
    blocks = [tuple(indices[start : start + size]) for start in range(0, len(indices) - size + 1, size)]
    free = {block: min(group.free_gib[index] for index in block) for block in blocks}
    if alone:
        free = {block: gib for block, gib in free.items() if not used & set(block)}
    best = max(free, key=lambda block: free[block], default=None)
    if best is None or (free[best] < server.memory_gib and (used or not alone)):
        return False
    server.gpus = best
    group.servers.append(server)
    for index in best:
        group.free_gib[index] -= server.memory_gib
    return True
