"""What this machine's client can carry, kept between runs."""

from typing import Any


def stored() -> dict[str, Any] | None:
    """What was found on this machine; None before the first calibration."""
    return None
