"""An engine that requests reach at once and that can be advanced step by step, for the tests of the scheduler."""

from dataclasses import replace

from server.config import Serving
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.fast_forward import RepeatedSteps
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.sequence import StepOutput, TokenSequence
from server.emulator.engine.step_time import StepModel

NO_DELAY = dict.fromkeys(("read_request_us", "tokenize_request_us", "tokenize_token_us", "ingest_ms"), 0.0)


class SteppedEngine(Engine):
    """An engine without an API process."""

    def __init__(self, model: StepModel, serving: Serving) -> None:
        super().__init__(model, serving, ApiQueue(replace(model.engine, **NO_DELAY)))
        self._single = False

    def arrive(self, sequence: TokenSequence) -> None:
        """Submit a sequence now."""
        self.submit(sequence, self.now_s)

    def finish(self) -> None:
        """Complete all steps."""
        for _ in self.advance(float("inf")):
            pass

    def step(self) -> StepOutput | None:
        """Complete one step without computing several together; None if there is nothing to compute."""
        self._single = True
        output = next(self.advance(float("inf")), None)
        self._single = False
        return output

    def _repeated_steps(self, until_s: float) -> RepeatedSteps | None:
        return None if self._single else super()._repeated_steps(until_s)
