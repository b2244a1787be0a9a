"""The environment of a run, as stored in `run.json`: this machine, the installed packages, the repository and the clocks.

This module does not know anything about the server.
"""

import os
import platform
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loadgen import files

PACKAGES = ("httptools", "msgspec", "prometheus-client", "rich", "thinkload", "uvloop")
"""The packages that take part in sending a request or in measuring it."""


def host() -> dict[str, Any]:
    """The machine and the Python interpreter."""
    return {
        "hostname": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def packages() -> dict[str, str]:
    """The installed versions of PACKAGES."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def clock_anchor() -> dict[str, float]:
    """The wall clock and the monotonic clock, read together: they relate the times of a run to the time of day."""
    return {"wall_s": time.time(), "perf_s": time.perf_counter()}


def git() -> dict[str, Any]:
    """The commit of this code, and whether files were changed since. Empty outside a repository."""
    commit = files.git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(files.git("status", "--porcelain", "--untracked-files=no"))}


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
