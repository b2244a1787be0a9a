"""A timer that is more precise than the event loop's: timerfd on Linux, otherwise the loop's own timer.

uvloop and asyncio round waiting times to whole milliseconds, but an engine step can take only 2 ms. A timerfd wakes the
event loop within about 50 microseconds. This module does not know what the timer is used for.
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
    """Calls a function once after each `start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._expired)

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the timer was stopped after it had expired
            os.read(self._fd, 8)
            self._call()

    def start(self, wait_s: float) -> None:
        """Call the function in `wait_s` seconds; this replaces an earlier `start`."""
        if self._fd < 0:
            self.stop()
            self._handle = self._loop.call_later(wait_s, self._call)
            return
        nanoseconds = max(int(wait_s * 1e9), 1)
        self._libc.timerfd_settime(self._fd, 0, struct.pack("qqqq", 0, 0, *divmod(nanoseconds, 10**9)), None)

    def stop(self) -> None:
        """Cancel the pending call."""
        if self._handle:
            self._handle.cancel()
        if self._fd >= 0:
            self._libc.timerfd_settime(self._fd, 0, bytes(32), None)

    def close(self) -> None:
        """Release the timer's file descriptor."""
        self.stop()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
