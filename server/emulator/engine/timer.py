"""One timer finer than an event loop's: Linux timerfd where it is there, else the loop's own (a millisecond coarse).

uvloop and asyncio round waits to whole milliseconds, half of a 2 ms engine step; a timerfd wakes the loop within some
50 microseconds. Does not know what it wakes.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable

CLOCK_MONOTONIC = 1
TFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000


class StepTimer:
    """Calls back once after each `start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._fired)

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # stopped after it had fired
            os.read(self._fd, 8)
            self._call()

    def start(self, wait_s: float) -> None:
        """Call back in `wait_s`; an earlier `start` is forgotten."""
        if self._fd < 0:
            self.stop()
            self._handle = self._loop.call_later(wait_s, self._call)
            return
        nanoseconds = max(int(wait_s * 1e9), 1)
        self._libc.timerfd_settime(self._fd, 0, struct.pack("qqqq", 0, 0, *divmod(nanoseconds, 10**9)), None)

    def stop(self) -> None:
        """Do not call back."""
        if self._handle:
            self._handle.cancel()
        if self._fd >= 0:
            self._libc.timerfd_settime(self._fd, 0, bytes(32), None)

    def close(self) -> None:
        """Give the timer back."""
        self.stop()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
