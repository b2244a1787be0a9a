"""One check of `doctor`, and what the checks look at."""

from dataclasses import dataclass
from typing import Literal

from loadgen.exchange import Exchange
from loadgen.options import RunOptions
from loadgen.record import Record
from loadgen.target.control_api import ControlApi
from loadgen.target.server_info import ServerInfo

State = Literal["good", "warn", "bad", "unknown"]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: State
    detail: str


def either(name: str, is_good: bool, good: str, otherwise: str, state: State = "warn") -> Check:
    """Return a check that is good, or else in `state` with the text `otherwise`."""
    return Check(name, "good", good) if is_good else Check(name, state, otherwise)


@dataclass(frozen=True)
class DoctorContext:
    """What the checks look at."""

    options: RunOptions
    api: ControlApi
    server: ServerInfo
    metrics: str
    """Text of the server's /metrics; empty where it has none."""
    exchange: Exchange
    """One small request, sent in the way a run sends its requests."""
    record: Record
    """What a run would record of it."""
