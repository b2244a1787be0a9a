"""Fixtures for all tests. Nothing is patched: servers are real and on loopback."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import ROOT
from tests.fixtures.parallel import alone, reserve_ports

# A shell makes its background processes ignore SIGINT, and their child processes inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis fails a test when an example takes long, which on a busy machine says nothing about the code.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # The tests start hundreds of processes. Without stored bytecode, each one compiles every module that it imports:
    # `analysis grade` takes 2.7 s of CPU time instead of 1.2 s.
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(ROOT / ".pytest_cache" / "bytecode")
    sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers that a test starts are noted in a folder of the tests, not in that of the user."""
    state = tmp_path_factory.mktemp("state")
    reserve_ports(state)
    os.environ["THINKLOAD_STATE"] = str(state)


@pytest.fixture(autouse=True)
def _one_user_of_docker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests with containers use fixed ports and look at every container of this suite, so one of them runs at a time."""
    if request.node.get_closest_marker("docker") is None:
        yield
        return
    with alone(tmp_path_factory, "docker"):
        yield


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
