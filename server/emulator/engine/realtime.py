"""Runs the engine in real time: completes steps when they are due and delivers tokens when they would be written.

Rules: due times are absolute, so lateness does not accumulate. Tokens of one sequence that became due in the meantime
are delivered together, as vLLM's API server merges outputs. `speed` divides all waiting times. Lateness is measured at
every delivery and published as a metric. This module does not know HTTP or text.
"""

import asyncio
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable

import numpy as np

from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.timer import StepTimer

SLICE_S = 0.02
"""Longest time that steps are computed before the event loop may serve sockets again."""
LOOPBACK_S = 0.3e-3
"""Time on the loopback interface that a client's TTFT includes, in both directions (docs/decisions/0066)."""


class EngineClock:
    """Model seconds since the start: wall seconds times `speed`."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._start = time.perf_counter()

    def now_s(self) -> float:
        """Model time."""
        return self.at_s(time.perf_counter())

    def at_s(self, perf_s: float) -> float:
        """Model time at a value of `time.perf_counter`."""
        return (perf_s - self._start) * self.speed


class RealtimeEngine:
    """Runs one engine in real time inside the running asyncio event loop."""

    def __init__(self, engine: Engine, api_queue: ApiQueue, clock: EngineClock) -> None:
        self.engine, self.clock, self._api_queue = engine, clock, api_queue
        self.deliver: Callable[[TokenSequence, int], None] = lambda _sequence, _tokens: None
        """Called with a sequence and a number of its tokens when they are due."""
        self._due: deque[tuple[float, list[tuple[TokenSequence, int]]]] = deque()
        self._timer = StepTimer(asyncio.get_running_loop(), self._tick)
        self._pending_tick = False
        self.behind_s = 0.0
        self.behind_max_s = 0.0
        self.on_tick: Callable[[float], None] = lambda _now_s: None
        """Called with the model time before steps are completed."""
        self.on_late: Callable[[float, int], None] = lambda _late_s, _writes: None
        """Called after deliveries with their lateness in wall seconds and their number."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the engine has failed."""

    def submit(self, sequence: TokenSequence, perf_s: float) -> None:
        """Submit a sequence whose request arrived at `perf_s` (`time.perf_counter`).

        The time that the emulator needed to read the request is part of the modeled time, not added to it.
        """
        self.engine.submit(sequence, self.clock.at_s(perf_s - LOOPBACK_S))
        self._tick_soon()

    def close(self) -> None:
        """Stop the timer."""
        self._timer.close()

    def _tick_soon(self) -> None:
        if not self._pending_tick:
            self._pending_tick = True
            asyncio.get_running_loop().call_soon(self._tick)

    def _tick(self) -> None:
        try:
            self._advance()
        except Exception:  # noqa: BLE001 - as in vLLM, an exception in the engine ends the server instead of leaving it hanging
            traceback.print_exc()
            self._timer.stop()
            self.on_failure()

    def _advance(self) -> None:
        self._pending_tick = False
        now_s = self.clock.now_s()
        self.on_tick(now_s)
        stop_s = time.perf_counter() + SLICE_S
        for output in self.engine.advance(now_s):
            self._due.append(
                (float(self._api_queue.emit_each(np.asarray(output.times), len(output.tokens))[-1]), output.tokens)
            )
            if time.perf_counter() > stop_s:
                break
        self._deliver_due(now_s)
        self._start_timer()

    def _deliver_due(self, now_s: float) -> None:
        """Deliver all tokens that are due, merged by sequence."""
        if not self._due or self._due[0][0] > now_s:
            self.behind_s = 0.0
            return
        first_s, tokens = self._due[0][0], defaultdict[TokenSequence, int](int)
        while self._due and self._due[0][0] <= now_s:
            for sequence, count in self._due.popleft()[1]:
                tokens[sequence] += count
        for sequence, count in tokens.items():
            self.deliver(sequence, count)
        self.behind_s = (self.clock.now_s() - first_s) / self.clock.speed
        self.behind_max_s = max(self.behind_max_s, self.behind_s)
        self.on_late(self.behind_s, len(tokens))

    def _start_timer(self) -> None:
        next_s = self.engine.next_s()
        if self._due:
            next_s = self._due[0][0] if next_s is None else min(next_s, self._due[0][0])
        if next_s is None:
            self._timer.stop()
            return
        wait_s = (next_s - self.clock.now_s()) / self.clock.speed
        if wait_s <= 0:
            self._tick_soon()
        else:
            self._timer.start(wait_s)
