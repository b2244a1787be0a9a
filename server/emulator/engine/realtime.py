"""The engine on a wall clock: ends steps when they are due, hands outputs on when they would be written.

Rules: due times are absolute, so lateness never adds up: what falls due together while we were late leaves together, as
vLLM's own API server merges. `speed` divides all waiting. Lateness is measured at every delivery and published.
Does not know HTTP or text.
"""

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Callable

import numpy as np

from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.scheduler import Engine
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.timer import StepTimer

SLICE_S = 0.02
"""Longest stretch of work between two looks at the sockets."""
WIRE_S = 0.3e-3
"""From a client's stamp to our first byte, and from our first chunk to its next stamp, on loopback (docs/decisions/0066)."""


class EngineClock:
    """Model seconds since the start: wall seconds times `speed`."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._start = time.perf_counter()

    def now_s(self) -> float:
        """Model time."""
        return self.at_s(time.perf_counter())

    def at_s(self, perf_s: float) -> float:
        """Model time at a stamp of `time.perf_counter`."""
        return (perf_s - self._start) * self.speed


class Driver:
    """Runs one engine in real time inside an asyncio loop."""

    def __init__(self, engine: Engine, frontend: ApiQueue, clock: EngineClock) -> None:
        self.engine, self.frontend, self.clock = engine, frontend, clock
        self.deliver: Callable[[TokenSequence, int], None] = lambda _stream, _tokens: None
        """Told of tokens that are due."""
        self._due: deque[tuple[float, list[tuple[TokenSequence, int]]]] = deque()
        self._ticker = StepTimer(asyncio.get_running_loop(), self._tick)
        self._pending_tick = False
        self.behind_s = 0.0
        self.behind_max_s = 0.0
        self.on_tick: Callable[[float], None] = lambda _now_s: None
        """Told the model time, whenever steps may have ended."""
        self.on_late: Callable[[float, int], None] = lambda _late_s, _writes: None
        """Told how late, in wall seconds, how many writes were."""
        self.on_death: Callable[[], None] = lambda: None
        """Told that the engine failed."""

    def submit(self, stream: TokenSequence, perf_s: float) -> None:
        """Take a stream whose request arrived at `perf_s`: what reading it cost us is part of what the model says it costs."""
        at_s = self.clock.at_s(perf_s - WIRE_S)
        self.engine.submit(stream, self.frontend.ingest(at_s, stream.prompt))
        stream.arrived_s = at_s
        self._soon()

    def close(self) -> None:
        """Stop ticking."""
        self._ticker.close()

    def _soon(self) -> None:
        if not self._pending_tick:
            self._pending_tick = True
            asyncio.get_running_loop().call_soon(self._tick)

    def _tick(self) -> None:
        try:
            self._advance()
        except Exception:  # noqa: BLE001 - as vLLM: the engine's mistake is its death, not a server that hangs
            traceback.print_exc()
            self._ticker.stop()
            self.on_death()

    def _advance(self) -> None:
        self._pending_tick = False
        now_s = self.clock.now_s()
        self.on_tick(now_s)
        stop_s = time.perf_counter() + SLICE_S
        for output in self.engine.advance(now_s):
            self._due.append(
                (
                    float(self.frontend.emit_each(np.asarray(output.times), len(output.tokens))[-1]),
                    output.tokens,
                )
            )
            if time.perf_counter() > stop_s:
                break
        self._write(now_s)
        self._arm()

    def _write(self, now_s: float) -> None:
        """Deliver what is due, merged by stream."""
        if not self._due or self._due[0][0] > now_s:
            self.behind_s = 0.0
            return
        first_s, merged = self._due.popleft()
        if self._due and self._due[0][0] <= now_s:
            tokens = dict(merged)
            while self._due and self._due[0][0] <= now_s:
                for stream, count in self._due.popleft()[1]:
                    tokens[stream] = tokens.get(stream, 0) + count
            merged = list(tokens.items())
        for stream, count in merged:
            self.deliver(stream, count)
        self.behind_s = (self.clock.now_s() - first_s) / self.clock.speed
        self.behind_max_s = max(self.behind_max_s, self.behind_s)
        self.on_late(self.behind_s, len(merged))

    def _arm(self) -> None:
        next_s = self.engine.next_s()
        if self._due:
            next_s = self._due[0][0] if next_s is None else min(next_s, self._due[0][0])
        if next_s is None:
            self._ticker.stop()
            return
        wait_s = (next_s - self.clock.now_s()) / self.clock.speed
        if wait_s <= 0:
            self._soon()
        else:
            self._ticker.start(wait_s)
