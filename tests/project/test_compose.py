"""docker-compose.yml gives every service as little as it needs. No Docker engine is needed here; test_docker.py starts the stack."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import CONFIGS, names, read_config
from server.launch.commands import speculation
from server.launch.docker_backend import CONFINED
from tests import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXACT = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?")
OURS = {"thinkload:local", "thinkload-locust:local"}  # built from this working tree


STACK = SERVICES["prometheus"]["environment"]["STACK"].replace("$$", "$")


def default(text: str) -> str:
    """The value of `${NAME:-value}` where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_least_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["SYS_ADMIN"] if name == "dcgm-exporter" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "dcgm-exporter")
    assert not service.get("privileged")
    assert re.fullmatch(r"\d+[mg]", default(service["mem_limit"]))
    assert service["pids_limit"] > 0
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service.get("network_mode") == ("host" if name == "relay" else None)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_an_exact_tag(name: str) -> None:
    """`latest`, `12` and `3.13` change their content, and then results cannot be repeated."""
    image = default(SERVICES[name]["image"])
    assert image in OURS or EXACT.fullmatch(image)
    if image in OURS:
        assert EXACT.fullmatch(default(SERVICES[name]["build"]["args"]["BASE"]))


def test_every_file_names_the_same_images() -> None:
    """The Dockerfile's base, the defaults that .env.example shows and the launcher's image are those of Compose."""
    base = default(SERVICES["emulator"]["build"]["args"]["BASE"])
    assert f"ARG BASE={base}\n" in (ROOT / "Dockerfile").read_text()
    example = (ROOT / ".env.example").read_text()
    for name, service in (
        ("PROMETHEUS_IMAGE", "prometheus"),
        ("GRAFANA_IMAGE", "grafana"),
        ("DCGM_IMAGE", "dcgm-exporter"),
    ):
        assert f"{name}={default(SERVICES[service]['image'])}" in example
    assert f"PYTHON_IMAGE={base}" in example


def test_the_launcher_confines_containers_as_compose_does() -> None:
    assert CONFINED["read_only"] is SERVICES["vllm"]["read_only"]
    assert CONFINED["cap_drop"] == SERVICES["vllm"]["cap_drop"]


def test_the_scrape_jobs_of_prometheus_are_yaml() -> None:
    """They are text inside docker-compose.yml, which Compose fills in and Prometheus reads."""
    jobs = yaml.safe_load(default(STACK))["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["stack-server", "stack-gpu-emulated", "stack-gpu"]
    assert {label["target_label"] for label in jobs[0]["relabel_configs"]} >= {"config", "model", "run", "tp"}


@pytest.fixture
def started(tmp_path: Path) -> Any:
    """Runs the entry point of Prometheus with a `prometheus` that only prints its arguments; returns its scrape jobs by name."""
    (tmp_path / "prometheus").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "prometheus").chmod(0o755)

    def run(config: str, folder: Path = CONFIGS, gpus: str = "") -> tuple[dict[str, Any], str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "THINKLOAD_CONFIGS": str(folder), "CONFIG": config}
        environment |= {"GPUS": gpus, "STACK": default(STACK), "STACK_FILE": str(tmp_path / "stack.yml")}
        command = ["sh", str(ROOT / "prometheus" / "stack.sh"), "--config.file=p.yml"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {}, done.stderr
        jobs = yaml.safe_load((tmp_path / "stack.yml").read_text())["scrape_configs"]
        return {job["job_name"]: job for job in jobs}, done.stdout

    return run


def labels(job: dict[str, Any]) -> dict[str, str]:
    return {
        rule["target_label"]: rule.get("replacement", "")
        for rule in job["relabel_configs"]
        if "source_labels" not in rule
    }


@pytest.mark.parametrize("config", names(CONFIGS))
def test_series_have_the_labels_and_the_gpus_of_the_configuration(started: Any, config: str) -> None:
    """Nothing but the file of the configuration says how many GPUs it uses, and power is counted on these only."""
    jobs, said = started(config)
    size = read_config(config)["tensor-parallel-size"]
    assert said == "--config.file=p.yml\n"
    assert [labels(job)["tp"] for job in jobs.values()] == [str(size)] * 3
    assert labels(jobs["stack-server"])["speculation"] == (speculation(read_config(config)) or "none")
    (kept,) = jobs["stack-gpu"]["metric_relabel_configs"]
    assert (kept["action"], kept["regex"]) == ("keep", "|".join(map(str, range(size))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tensor_parallel_size: 3 # three\n", ("3", "none", "0|1|2")),
        ("tensor-parallel-size: 2\npipeline-parallel-size: 2\n", ("2", "none", "0|1|2|3")),
        ("data-parallel-size: 2\nspeculative-config: {num_speculative_tokens: 3, method: mtp}\n", ("1", "mtp", "0|1")),
        ('speculative-config: \'{"rejection_sample_method":"x","method":"eagle3"}\'\n', ("1", "eagle3", "0")),
        ("# method: ngram\nseed: 0\n", ("1", "none", "0")),
    ],
)
def test_a_configuration_of_ones_own_needs_its_file_only(
    started: Any, text: str, expected: tuple[str, str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    jobs, _ = started("mine", tmp_path)
    found = labels(jobs["stack-gpu"])
    assert (found["tp"], found["speculation"], jobs["stack-gpu"]["metric_relabel_configs"][0]["regex"]) == expected


def test_gpus_can_be_chosen_and_a_missing_configuration_is_one_line(started: Any) -> None:
    assert started("tp2", gpus="2,3")[0]["stack-gpu"]["metric_relabel_configs"][0]["regex"] == "2|3"
    assert started("typo")[1] == "prometheus: CONFIG=typo: there is no file server/configs/typo.yaml\n"


def brought_along(service: str) -> set[str]:
    """The services that start with this one, itself included."""
    depends = SERVICES[service].get("depends_on", ())
    return {service}.union(*map(brought_along, depends))


@pytest.mark.parametrize("service", ["vllm", "prometheus", "grafana"])
def test_the_relay_starts_with_what_needs_it(service: str) -> None:
    """Without it, Prometheus reaches no load generator on the host, and the dashboard of a run is empty."""
    assert "relay" in brought_along(service)


def test_running_requests_end_before_vllm_is_killed() -> None:
    """Without --shutdown-timeout, vLLM aborts them on SIGTERM."""
    command = SERVICES["vllm"]["command"]
    timeout_s = int(command[command.index("--shutdown-timeout") + 1])
    assert 0 < timeout_s < int(SERVICES["vllm"]["stop_grace_period"].removesuffix("s"))
