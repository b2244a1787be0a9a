"""A pool of worker processes that end when the sweep ends, even by `kill -9`.

The workers of an ordinary pool would then wait for work forever. This module does not know what the workers do.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SyncManager

_spawn = multiprocessing.get_context("spawn")


def processes(count: int) -> ProcessPoolExecutor:
    """A pool of `count` worker processes."""
    return ProcessPoolExecutor(count, mp_context=_spawn, initializer=_end_with_parent)


def manager() -> SyncManager:
    """A started manager process, whose queues connect the other processes."""
    started = SyncManager(ctx=_spawn)
    started.start(_end_with_parent)
    return started


def terminate_all() -> None:
    """Terminates the workers, without waiting for the end of their work."""
    for process in multiprocessing.active_children():
        process.terminate()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is handled by the sweep

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
