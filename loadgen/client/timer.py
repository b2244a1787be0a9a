"""Calls back at a time of the monotonic clock, with an error of some tens of microseconds.

The timers of uvloop count whole milliseconds: a request would be up to 1 ms late, or the loop would have to poll. A Linux
timerfd has microsecond resolution and wakes the loop as a socket does. Where there is no timerfd (macOS), the loop's own
timer is used. On Linux, `perf_counter_ns` and CLOCK_MONOTONIC are the same clock.

This module does not know what is due.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter_ns

CLOCK_MONOTONIC = 1
TIMERFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1


class _Itimerspec(ctypes.Structure):
    """C's struct itimerspec: the interval, which is zero here, then the time."""

    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class Timer:
    """Calls `callback` in the running loop at the time that was set last. Only one time can be set."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TIMERFD_FLAGS)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._expired)

    def set(self, at_ns: int) -> None:
        """Call back at `at_ns` of `perf_counter_ns`, or at once where that is past. This replaces a time set before."""
        if self._fd >= 0:
            seconds, rest_ns = divmod(max(at_ns, 1), 10**9)
            spec = _Itimerspec(0, 0, seconds, rest_ns)
            self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0, at_ns - perf_counter_ns()) / 1e9, self._callback)

    def close(self) -> None:
        """Cancel the timer and release its file descriptor."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._callback()


async def sleep_until(at_ns: int) -> None:
    """Sleep until a time of `perf_counter_ns`, and never less."""
    if perf_counter_ns() >= at_ns:
        return
    expired = asyncio.get_running_loop().create_future()
    timer = Timer(lambda: None if expired.done() else expired.set_result(None))
    try:
        timer.set(at_ns)
        await expired
    finally:
        timer.close()
    while (left_ns := at_ns - perf_counter_ns()) > 0:  # noqa: ASYNC110 only where the loop's own timer was early
        await asyncio.sleep(left_ns / 1e9)
