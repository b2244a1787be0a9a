"""Fixtures for all tests. Nothing is patched: servers are real and on loopback."""

import os
import signal
from pathlib import Path

import pytest

from tests import ROOT

# A shell makes its background processes ignore SIGINT, and their child processes inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the reference data, which is never committed (THINKLOAD_SHARED, default ../shared).

    Without it the test is skipped, and fails in CI.
    """
    folder = Path(os.environ.get("THINKLOAD_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        reason = f"no reference data at {folder} (set THINKLOAD_SHARED)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
