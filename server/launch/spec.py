"""The types of the launcher: the server to start (Spec), the running server (RunningServer) and the failure (LaunchFailedError).

A Spec is complete before anything starts. A RunningServer may be stopped more than once. This module does not know how a
backend starts a server.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from server.config import overrides_from, read_config

Backend = Literal["emulator", "process", "docker"]
BACKENDS: tuple[Backend, ...] = ("emulator", "process", "docker")

OWNER = uuid4().hex[:12]
"""The label of every server that this process starts. It is random, because a pid may be reused by another process."""


CHECKOUT = str(Path(__file__).resolve().parents[2])
"""The folder of this repository or installation, by which its servers are told from those of another one."""


class LaunchFailedError(Exception):
    """A server did not become ready: `reason` is one line for the operator, `tail` the last lines of the log."""

    def __init__(self, reason: str, log: str = "", kind: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        """The kind of the cause in startup_log.yaml, if the log shows one."""
        self.tail = log.rstrip().splitlines()[-15:]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A server to start."""

    config: str
    """A name in `server/configs/`, or a path to a file in the same format."""
    model: str
    """A name in `server/models/`, the path of a preset, or a model id or path that vLLM accepts."""
    backend: Backend = "emulator"
    port: int = 0
    """0 means the first free port from 8000 on."""
    gpus: tuple[int, ...] | None = None
    """GPU indices to use; None means the first free ones."""
    emulate: tuple[str, ...] = ()
    """Further arguments of `python -m server emulate` (backend emulator, or docker with the emulator's image)."""
    vllm: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    serve: Mapping[str, Any] = field(default_factory=dict)
    """Options of `vllm serve` in the format of a configuration, which replace those of the configuration and the preset. `model`
    is the folder of other weights, and None removes an option that the preset sets."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the server."""
    image: str | None = None
    """The image of backend docker; None means vLLM's image with the pinned tag."""
    start_timeout_s: float = 900.0
    """The longest time, in seconds, until the server is ready."""
    log: Path | None = None
    """The file of the server's log; None means a file in the state folder."""
    run: str = ""
    """The label `run` of the Prometheus target."""

    @property
    def options(self) -> dict[str, Any]:
        """The configuration with the options of `vllm serve` that are added to it. Raises ConfigError."""
        return read_config(self.config, {**self.serve, **overrides_from(self.vllm)})


@dataclass
class RunningServer(ABC):
    """A started server of any backend."""

    name: str
    """The label by which the server is found again."""
    port: int
    """The port on 127.0.0.1."""
    gpus: tuple[int, ...]
    """The indices of its GPUs."""
    log: Path
    """The file that contains its output."""
    backend: Backend
    emulated: bool

    @abstractmethod
    def exit_code(self) -> int | None:
        """The exit status, or None while it runs."""

    @abstractmethod
    def holds_port(self) -> bool:
        """True if this server listens on the port, and not another program."""

    @abstractmethod
    def pause(self) -> None:
        """Stops all its processes where they are: the server keeps its memory and uses no computing time."""

    @abstractmethod
    def wake(self) -> None:
        """Lets a paused server continue."""

    @abstractmethod
    def stop(self, grace_s: float = 30.0) -> None:
        """Sends SIGTERM, after `grace_s` seconds SIGKILL, and returns when nothing of the server is left."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What a run's manifest says about the server: image, pid, command."""
