"""The same engine with no sockets and no clock: requests in with their times, token times out, as fast as it computes.

    sim = Simulation(serving, model, gpu, version)
    sim.submit(stream, at_s=0.5)
    for done in sim.run():          # in the order in which streams end
        done.times_s, done.tokens   # when each chunk was written, and its tokens
        sim.submit(another, done.times_s[-1])   # a closed loop

Rules: a submission may not lie before what was already yielded. Times are what a client on the same host would see of the
server: in through the API process, through the engine, out through the API process.
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


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedCompletion:
    """One stream's end: its chunks as a client would see them."""

    stream: TokenSequence
    times_s: NDArray[np.float64]
    tokens: NDArray[np.int64]


class Simulation:
    """An engine and its API process, stepped by the caller."""

    def __init__(self, serving: Serving, model: Model, gpu: Gpu, version: EngineVersion) -> None:
        self.engine = Engine(StepModel(model, serving, gpu, version), serving)
        self.frontend = ApiQueue(version)
        self._logs: dict[TokenSequence, list[tuple[Any, Any]]] = {}

    def submit(self, stream: TokenSequence, at_s: float) -> None:
        """A request arrives at the server at `at_s`."""
        self.engine.submit(stream, self.frontend.ingest(at_s, stream.prompt))
        stream.arrived_s = at_s
        self._logs[stream] = []

    def run(self, until_s: float = float("inf")) -> Iterator[SimulatedCompletion]:
        """Go on until nothing is left, or `until_s`; yields each stream as it ends."""
        for output in self.engine.advance(until_s):
            self._note(output)
            for stream, _ in output.tokens:
                if stream.state == "finished":
                    yield self._done(stream)

    def _note(self, output: StepOutput) -> None:
        written = self.frontend.emit_each(np.asarray(output.times), len(output.tokens))
        for row, (stream, _) in enumerate(output.tokens):
            self._logs[stream].append((written, None if output.each is None else output.each[row]))

    def _done(self, stream: TokenSequence) -> SimulatedCompletion:
        log = self._logs.pop(stream)
        times = np.concatenate([written for written, _ in log])
        each = [np.ones(len(written), np.int64) if tokens is None else tokens for written, tokens in log]
        starts = np.flatnonzero(np.diff(times, prepend=-1.0) > 0)  # what is written together is one chunk
        tokens = np.add.reduceat(np.concatenate(each), starts)
        tokens[-1] -= max(int(tokens.sum()) - stream.end, 0)  # the last step's drafts beyond the end
        return SimulatedCompletion(stream, times[starts], tokens)
