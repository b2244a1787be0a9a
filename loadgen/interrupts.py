"""Ctrl-C: the first one stops what the program does, and the second one ends the program within two seconds.

While requests are in flight, `loadgen.run.dispatch` decides what an interrupt stops. At any other time it raises
KeyboardInterrupt. After the second one, a thread ends the process if it has not ended by itself, for example because a call
waits for a server. Records are on the disk by then, so `--resume` continues the run.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C has ended."""
END_S = 1.8
STDERR = 2


class Interrupts:
    """Counts the interrupts of this process."""

    def __init__(self) -> None:
        self.count = 0
        self._pipe = -1
        """A pipe to the thread. The system's part of a signal handler writes to it too, even while no Python code can run."""

    def watch(self) -> None:
        """Handle SIGINT as described above, and start the thread."""
        reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        threading.Thread(target=self._watch, args=(reader,), name="interrupts", daemon=True).start()
        signal.signal(signal.SIGINT, self._raise)
        self.wake_thread()

    def wake_thread(self) -> None:
        """Let the system wake the thread. An event loop that has run has changed this."""
        if self._pipe != -1:
            signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)

    @contextmanager
    def passed_to(self, on_interrupt: Callable[[], object]) -> Iterator[None]:
        """Within the block, SIGINT and SIGTERM call `on_interrupt` and raise nothing."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self._add()
            on_interrupt()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        self._add()
        raise KeyboardInterrupt

    def _add(self) -> None:
        self.count += 1
        if self._pipe != -1:
            with suppress(BlockingIOError):
                os.write(self._pipe, b"\0")

    def _watch(self, reader: int) -> None:
        seen = 0
        while max(seen, self.count) < 2:
            seen += os.read(reader, 64).count(signal.SIGINT)
        time.sleep(END_S)
        if select.select([], [STDERR], [], 0)[1]:  # a pipe that nobody reads would block
            os.write(STDERR, b"loadgen: interrupted twice: ended without a verdict\n")
        os._exit(INTERRUPTED)


INTERRUPTS = Interrupts()
