"""promtool accepts the configuration, and rules and alerts give the expected results for hand-made series."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.fixtures.parallel import free_port
from tests.fixtures.prometheus import Prometheus, configure, needs_prometheus, prometheus, until, wait
from tests.fixtures.replay import replaying

PROMETHEUS = ROOT / "prometheus"


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_configuration_is_valid(tmp_path: Path) -> None:
    """`promtool check config` also checks the rule files."""
    configure(tmp_path)
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


@needs_prometheus
def test_make_live_scrapes_what_a_launcher_on_this_host_announces() -> None:
    """`make live` starts a Prometheus that scrapes targets with the container's name for the host, and ends with SIGTERM."""
    port = free_port()
    process = subprocess.Popen(
        [str(PROMETHEUS / "live.sh")],
        env=os.environ | {"PROMETHEUS_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Prometheus(f"http://127.0.0.1:{port}", PROMETHEUS)
    announced = PROMETHEUS / "targets" / f"test-{port}.json"
    try:
        wait(server, process)
        again = subprocess.run(
            [str(PROMETHEUS / "live.sh")],
            env=os.environ | {"PROMETHEUS_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (again.returncode, f"port {port} is in use" in again.stderr) == (2, True)
        announced.write_text(json.dumps([{"targets": [f"host.docker.internal:{port}"], "labels": {"config": "self"}}]))
        assert until(lambda: server.instant(f'up{{job="server", config="self", instance="127.0.0.1:{port}"}} == 1'), 60)
    finally:
        announced.unlink(missing_ok=True)
        process.terminate()
        stdout, stderr = process.communicate(timeout=200)
    assert json.loads(stdout.splitlines()[-1]) == {"prometheus": server.url}
    assert "python -m loadgen" in stderr


@needs_prometheus
def test_series_of_other_gpus_of_the_host_are_dropped(tmp_path: Path) -> None:
    """A target with `gpu_indices` keeps the series of these GPUs; one without keeps all, and the label is on no series."""
    page = "".join(f'DCGM_FI_DEV_POWER_USAGE{{gpu="{gpu}"}} 100\n' for gpu in range(12)) + "exporter_up 1\n"
    with prometheus(tmp_path) as server, replaying({"/a": page, "/b": page}, 1) as address:
        paths = {"/a": {"gpu_indices": ",1,10,", "config": "a"}, "/b": {"config": "b"}}
        server.set_targets(
            "two",
            [
                {"targets": [address], "labels": {"job": "gpu", "__metrics_path__": path, **labels}}
                for path, labels in paths.items()
            ],
        )
        assert until(lambda: len(server.instant('exporter_up{gpu_indices=""}')) == 2, 60)
        found = [row["metric"] for row in server.instant("DCGM_FI_DEV_POWER_USAGE")]
    assert {row["gpu"] for row in found if row["config"] == "a"} == {"1", "10"}
    assert sum(row["config"] == "b" for row in found) == 12


@needs_prometheus
@pytest.mark.parametrize("cases", sorted((PROMETHEUS / "tests").glob("*.test.yml")), ids=lambda path: path.name)
def test_rules_give_the_expected_results(cases: Path) -> None:
    promtool("test", "rules", str(cases))


@pytest.mark.parametrize("kind", ["record", "alert"])
def test_every_rule_has_a_test_case(kind: str) -> None:
    """The failure names each rule and alert without a test case."""
    cases = "".join(path.read_text() for path in (PROMETHEUS / "tests").glob("*.test.yml"))
    rules = [
        rule[kind]
        for path in (PROMETHEUS / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    # Lag and price are covered by the test cases of other rules.
    covered = {"thinkload:dollars_per_gpu_hour", "thinkload:send_lag_seconds_p99", "thinkload:loop_lag_seconds_p99"}
    assert [name for name in rules if name not in covered and not re.search(rf"\b{name}\b", cases)] == []
    assert len(rules) == len(set(rules))


def test_every_alert_recommends_an_action() -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["annotations"]["action"], rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]


def test_promtool_is_the_one_beside_prometheus() -> None:
    """Both are in one package; one without the other means a broken installation."""
    assert bool(shutil.which("prometheus")) == bool(shutil.which("promtool"))
