"""Worker processes that end with their sweep, however it ends: on `kill -9` a pool's own would wait for work for ever.

Does not know: what they work on.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SyncManager

_spawn = multiprocessing.get_context("spawn")


def processes(count: int) -> ProcessPoolExecutor:
    """A pool of `count`."""
    return ProcessPoolExecutor(count, mp_context=_spawn, initializer=_end_with_parent)


def manager() -> SyncManager:
    """A process that keeps queues between the others, started."""
    keeper = SyncManager(ctx=_spawn)
    keeper.start(_end_with_parent)
    return keeper


def end_all() -> None:
    """End them in the middle of their work."""
    for process in multiprocessing.active_children():
        process.terminate()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the sweep

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
