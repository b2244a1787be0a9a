"""The result of `python -m loadgen calibrate`: how much load this machine can generate. Later runs compare with it.

This module does not know how the capacity is measured (`loadgen.checks.calibrate`).
"""

import json
from pathlib import Path
from typing import Any

from loadgen.files import cache_folder
from loadgen.run import environment


def path() -> Path:
    """The file that contains the result, in the user's cache folder."""
    return cache_folder() / "calibration.json"


def stored() -> dict[str, Any] | None:
    """The result for this machine, or None if it was never calibrated or the file is of another machine."""
    try:
        found: dict[str, Any] = json.loads(path().read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("machine") == machine() else None


def machine() -> list[Any]:
    """What identifies this machine: its host name, the number of CPUs, and their model."""
    host = environment.host()
    return [host["hostname"], host["cpus"], host["cpu"]]
