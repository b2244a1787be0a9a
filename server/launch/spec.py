"""What is to be started (Spec), what runs (Server), and why it did not (LaunchFailedError).

Rules: a Spec is complete before anything starts; a Server can be stopped by whoever holds it, twice without harm.
Does not know: how either backend starts anything.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

Backend = Literal["emulator", "process", "docker"]
BACKENDS: tuple[Backend, ...] = ("emulator", "process", "docker")

OWNER = uuid4().hex[:12]
"""Label of everything that this process starts. Not its pid: those come back."""


class LaunchFailedError(Exception):
    """A server did not become ready: one line saying why, and the last lines that it printed."""

    def __init__(self, reason: str, log: str = "", kind: str = "unknown") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.tail = log.rstrip().splitlines()[-15:]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One server to start."""

    config: str
    """A name in `server/configs/`, or a path to a file in the same format."""
    model: str
    """A name in `server/models/`, or a model id or path as vLLM takes it."""
    backend: Backend = "emulator"
    port: int = 0
    """0: the first free one from 8000 on."""
    gpus: tuple[int, ...] | None = None
    """Indices to use; None: the first free ones."""
    emulate: tuple[str, ...] = ()
    """More arguments of `python -m server emulate` (backend emulator, or docker with the emulator's image)."""
    vllm: tuple[str, ...] = ()
    """More arguments of `vllm serve`."""
    image: str | None = None
    """docker: the image; None: vLLM's, at the pinned tag."""
    start_timeout_s: float = 900.0
    log: Path | None = None
    """Where the server's log goes; None: beside the launcher's state."""
    run: str = ""
    """Label `run` of the Prometheus target."""
    telemetry: str | None = None
    """Where this server's GPUs report, if not at its own port."""
    labels: dict[str, str] = field(default_factory=dict)


class RunningServer(Protocol):
    """A started server, of whichever backend."""

    @property
    def name(self) -> str:
        """Label by which it is found again."""

    @property
    def backend(self) -> str:
        """Which backend started it."""

    @property
    def port(self) -> int:
        """Port on loopback."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """Indices of the GPUs it was given."""

    @property
    def log(self) -> Path:
        """File that its output goes to."""

    @property
    def emulated(self) -> bool:
        """It is our emulator."""

    def exit_code(self) -> int | None:
        """Exit status, or None while it runs."""

    def holds_port(self) -> bool:
        """It is this server that answers on the port."""

    def stop(self, grace_s: float = 30.0) -> None:
        """SIGTERM, then kill after `grace_s`; returns when nothing of it is left."""

    def describe(self) -> dict[str, object]:
        """Image digest, pid, command: what a manifest should say."""
