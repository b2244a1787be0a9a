"""Worker processes that end when the sweep ends, even by `kill -9`.

The workers of an ordinary pool would then wait for work forever. This module does not know what the workers do.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def process() -> ProcessPoolExecutor:
    """A pool of one worker process."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent)


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
