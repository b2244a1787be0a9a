"""Runs work that can wait in short slices, so that the event loop reads its sockets between two slices.

A slice ends after SLICE_NS or after one step, whichever takes longer, so a timestamp is delayed by no more than that. Work
that marks the end of a response runs first, because the next request may depend on it. When more than MAX_QUEUED pieces of
other work wait, they run first instead: a client at its limit then sends more slowly and does not accumulate responses.

This module does not know what the work is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns

SLICE_NS = 100_000
"""What a slice makes ready, such as the next request, also runs before the sockets are read, and takes about as long again."""

MAX_QUEUED = 64
"""Without this limit, 200,000 short responses at full speed took 1.3 GB of memory, with it 81 MB."""


class WorkQueue:
    """The work that waits in one event loop."""

    def __init__(self) -> None:
        self._urgent: deque[Callable[[], None]] = deque()
        self._steps: deque[Iterator[None]] = deque()
        self._scheduled = False
        """A slice is scheduled or is running."""

    def call_soon(self, work: Callable[[], None]) -> None:
        """Call `work` after all sockets that are ready now have been read and timestamped."""
        self._urgent.append(work)
        self._schedule()

    def add_steps(self, steps: Iterator[None]) -> None:
        """Run `steps` one at a time, after the work of `call_soon` or when MAX_QUEUED wait. A step must not raise."""
        self._steps.append(steps)
        self._schedule()

    def finish(self) -> None:
        """Run everything that waits, without returning to the event loop."""
        while self._urgent or self._steps:
            self._run_one()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_slice)

    def _run_slice(self) -> None:
        until_ns = perf_counter_ns() + SLICE_NS
        try:
            while self._urgent or self._steps:
                self._run_one()
                if perf_counter_ns() >= until_ns:
                    break
        finally:
            self._scheduled = False
            if self._urgent or self._steps:
                self._schedule()

    def _run_one(self) -> None:
        if self._urgent and len(self._steps) < MAX_QUEUED:
            self._urgent.popleft()()
        elif next(self._steps[0], self) is self:
            self._steps.popleft()
