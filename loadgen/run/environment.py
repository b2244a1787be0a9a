"""What is needed to repeat a run elsewhere: this machine, its packages, the repository's state.

Does not know: the server, or what of it matters.
"""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("httptools", "msgspec", "prometheus-client", "rich", "thinkload", "uvloop")
"""Those on the path of a request or of its figures."""


def host() -> dict[str, Any]:
    """Machine and interpreter."""
    return {
        "hostname": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def packages() -> dict[str, str]:
    """Versions of what measured."""
    return {name: found for name in PACKAGES if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git() -> dict[str, Any]:
    """Commit of this code, and whether it was changed since; empty outside a repository."""
    here = Path(__file__).parents[1]
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
