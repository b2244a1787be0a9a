"""Wakes the event loop at a stamp of the monotonic clock, to some tens of µs.

uvloop's own timers count whole ms: a request would be up to 1 ms late, or the loop would have to spin. Linux's timerfd
keeps time to the µs and wakes the loop like a socket. Where there is none (macOS), the loop's timer has to do.

Rules: one stamp at a time; absolute; `perf_counter_ns` and CLOCK_MONOTONIC are one clock on Linux.

Does not know: what is due.
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
ABSOLUTE = 1


class _Times(ctypes.Structure):
    """struct itimerspec: the interval (none), then the time."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Timer:
    """Calls `ring` on the running loop at the stamp set last."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TIMERFD_FLAGS)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._woken)

    def set(self, at_ns: int) -> None:
        """Ring at `at_ns`, or at once where that is past; a stamp set before is forgotten."""
        if self._fd >= 0:
            seconds, rest_ns = divmod(max(at_ns, 1), 10**9)
            self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(_Times(0, 0, seconds, rest_ns)), None)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0, at_ns - perf_counter_ns()) / 1e9, self._ring)

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._ring()


async def sleep_until(at_ns: int) -> None:
    """Wait for a stamp of `perf_counter_ns`, never less."""
    if perf_counter_ns() >= at_ns:
        return
    rung = asyncio.get_running_loop().create_future()
    alarm = Timer(lambda: None if rung.done() else rung.set_result(None))
    try:
        alarm.set(at_ns)
        await rung
    finally:
        alarm.close()
    while (left_ns := at_ns - perf_counter_ns()) > 0:  # noqa: ASYNC110 only where the loop's own timer rang early
        await asyncio.sleep(left_ns / 1e9)
