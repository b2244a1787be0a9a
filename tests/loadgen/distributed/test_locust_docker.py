"""A master and workers in containers on one network, with the compose profile `distributed`."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadgen.record import read_records
from tests.conftest import ROOT
from tests.fixtures.docker import check_built, unavailable

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
PROJECT = "thinkload-distributed-test"


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", "-p", PROJECT, "--profile", "distributed", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """Require a Docker engine with Compose v2. Without one, the tests are skipped, or fail in CI."""
    try:
        found = all(
            subprocess.run(["docker", *words], capture_output=True, check=False).returncode == 0
            for words in (["compose", "version"], ["info"])
        )
    except FileNotFoundError:
        found = False
    if not found:
        unavailable("no Docker engine with Compose v2 answers")


def test_workers_in_containers_send_each_request_once(tmp_path: Path) -> None:
    """With three workers, `gather` on the host finds every planned request."""
    name = f"compose-{os.getpid()}"
    out = ROOT / "results" / name
    (ROOT / "results").mkdir(exist_ok=True)
    environment = {
        "RUN_AS": f"{os.getuid()}:{os.getgid()}", "WORKERS": "3", "USERS": "12", "BUDGETS": "16,32", "RUN": name,
        "PORT": "0", "COMPOSE_MENU": "0",
    }  # fmt: skip
    try:
        check_built(compose("build", "master", "worker", **environment))
        up = compose("up", "--scale", "worker=3", "--exit-code-from", "master", "master", "worker", **environment)
        assert up.returncode == 0, up.stdout[-4000:] + up.stderr[-4000:]
    finally:
        compose("down", "--volumes", "--timeout", "5", **environment)
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "gather", str(out), "--out", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["missing"] == []
    assert len({worker["host"] for worker in line["workers"]}) == 3
    assert Counter(record.seq for record in read_records(tmp_path / "run" / "records.jsonl")) == Counter(range(98))
    for path in sorted(out.iterdir()):
        path.unlink()
    out.rmdir()
