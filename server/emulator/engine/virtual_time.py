"""Runs the engine on virtual time: without sockets and without waiting, as fast as it computes.

    simulation = Simulation(serving, model, gpu, version)
    simulation.submit(sequence, at_s=0.5)
    for sequence, response in simulation.run():           # in the order in which sequences end
        response.times_s, response.tokens                 # when each chunk was written, and its number of tokens
        simulation.submit(another, response.times_s[-1])  # closed loop: the next request

Rules: a request may not be submitted at a time before the end of a response that was already yielded. The times are those that a
client on the same host would measure: they include the API process on the way in and on the way out. This module does
not know text or records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.config import Model, Serving
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.hardware import EngineVersion, Gpu
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.sequence import StepOutput, TokenSequence
from server.emulator.engine.step_time import StepModel


@dataclass(frozen=True, slots=True)
class SimulatedResponse:
    """When each chunk of a response would reach a client, in model seconds, and how many tokens it held."""

    sent_s: float
    times_s: NDArray[np.float64]
    tokens: NDArray[np.int64]


class Simulation:
    """An engine and its API process; the caller submits requests and reads responses."""

    def __init__(self, serving: Serving, model: Model, gpu: Gpu, version: EngineVersion) -> None:
        self._api_queue = ApiQueue(version)
        self.engine = Engine(StepModel(model, serving, gpu, version), serving, self._api_queue)
        self._logs: dict[TokenSequence, list[tuple[Any, Any]]] = {}

    def submit(self, sequence: TokenSequence, at_s: float) -> None:
        """Let a request arrive at the server at `at_s`."""
        self.engine.submit(sequence, at_s)
        self._logs[sequence] = []

    def run(self, until_s: float = float("inf")) -> Iterator[tuple[TokenSequence, SimulatedResponse]]:
        """Run until all requests have ended, or until `until_s`; yields each sequence with its response as it ends."""
        for output in self.engine.advance(until_s):
            self._log(output)
            for sequence, _ in output.tokens:
                if sequence.state == "finished":
                    yield sequence, self._response(sequence)

    def _log(self, output: StepOutput) -> None:
        written = self._api_queue.emit_each(np.asarray(output.times), len(output.tokens))
        for row, (sequence, _) in enumerate(output.tokens):
            self._logs[sequence].append((written, None if output.each is None else output.each[row]))

    def _response(self, sequence: TokenSequence) -> SimulatedResponse:
        log = self._logs.pop(sequence)
        times = np.concatenate([written for written, _ in log])
        each = [np.ones(len(written), np.int64) if tokens is None else tokens for written, tokens in log]
        # Tokens that are written at the same time form one chunk.
        starts = np.flatnonzero(np.diff(times, prepend=-1.0) > 0)
        tokens = np.add.reduceat(np.concatenate(each), starts)
        # Accepted draft tokens of the last step can lie beyond the end.
        tokens[-1] -= max(int(tokens.sum()) - sequence.end, 0)
        return SimulatedResponse(sequence.arrived_s, times[starts], tokens)
