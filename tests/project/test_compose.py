"""docker-compose.yml gives every service as little as it needs. No Docker engine is needed here; test_docker.py starts the stack."""

import re
from typing import Any

import pytest
import yaml

from server.launch.docker_backend import CONFINED
from tests import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXACT = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?")
OURS = {"thinkload:local", "thinkload-locust:local"}  # built from this working tree


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
    text = default(SERVICES["prometheus"]["environment"]["STACK"]).replace("$$", "$")
    jobs = yaml.safe_load(text)["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["stack-server", "stack-gpu-emulated", "stack-gpu"]
    assert {label["target_label"] for label in jobs[0]["relabel_configs"]} >= {"config", "model", "run", "tp"}
