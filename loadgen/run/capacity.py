"""TODO docstring."""

import json
import os
from pathlib import Path
from typing import Any

from loadgen.run import environment


def path() -> Path:
    """Where the figure is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "thinkload" / "calibration.json"


def stored() -> dict[str, Any] | None:
    """What was found on this machine; None before the first calibration, or on another machine."""
    try:
        found: dict[str, Any] = json.loads(path().read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("machine") == _machine() else None


def _machine() -> list[Any]:
    host = environment.host()
    return [host["hostname"], host["cpus"], host["cpu"]]
