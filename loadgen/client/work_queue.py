"""What can wait while sockets are read: short slices of work, between two of which the loop looks at its sockets.

Rules: a slice lasts SLICE_NS or one step, so no stamp waits for more. Ends of answers come before everything else, for a
request may wait for them, until CROWD pieces wait: a client that is full sends more slowly rather than hoard answers.

Does not know: what the work is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns

SLICE_NS = 100_000
"""What a slice sets free (a request that may be sent now) runs before the next look, too, and takes about as long again."""

CROWD = 64
"""Without a limit 200,000 short answers at full speed took 1.3 GB, with it 81 MB (`benchmarks.client_scale`)."""


class WorkQueue:
    """Of one event loop."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self._later: deque[Iterator[None]] = deque()
        self._running = False
        """A turn is scheduled, or runs."""

    def soon(self, work: Callable[[], None]) -> None:
        """Do `work` after the sockets that are ready now have been read and stamped."""
        self._soon.append(work)
        self._run()

    def later(self, steps: Iterator[None]) -> None:
        """Take all `steps` when nothing of `soon` is left, or CROWD wait. They must not raise."""
        self._later.append(steps)
        self._run()

    def finish(self) -> None:
        """Do at once whatever waits."""
        while self._soon or self._later:
            self._step()

    def _run(self) -> None:
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        until_ns = perf_counter_ns() + SLICE_NS
        try:
            while self._soon or self._later:
                self._step()
                if perf_counter_ns() >= until_ns:
                    break
        finally:
            self._running = False
            if self._soon or self._later:
                self._run()

    def _step(self) -> None:
        if self._soon and len(self._later) < CROWD:
            self._soon.popleft()()
        elif next(self._later[0], self) is self:
            self._later.popleft()
