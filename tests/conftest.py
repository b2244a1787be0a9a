"""Shared fixtures. Nothing here patches anything: servers are real and on loopback."""

import os
import signal
from pathlib import Path

import pytest

from tests import ROOT

# A shell ignores Ctrl-C for what it runs in the background, and whoever that starts inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that is never committed (THINKLOAD_SHARED, default ../shared); its absence skips, and fails CI."""
    folder = Path(os.environ.get("THINKLOAD_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        reason = f"no reference data at {folder} (set THINKLOAD_SHARED)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
