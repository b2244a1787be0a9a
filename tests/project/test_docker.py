"""The compose stack and the backend `docker` with a real Docker engine; neither leaves anything behind.

A test is skipped, with its reason, if an image that it needs is neither on this machine nor can be pulled; with CI set it fails.
On a machine that cannot reach image registries, PYTHON_IMAGE and PROMETHEUS_IMAGE name local images. Grafana is not tested here.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from server.config import CONFIGS, names
from tests import ROOT
from tests.fixtures.docker import check_built, unavailable

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

IMAGE = "thinkload:local"
PROMETHEUS = "http://127.0.0.1:9090"
PROJECT = "thinkload-test"  # a name of its own, so that the stack and the volumes of the user are never touched


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run("docker", "compose", "--project-name", PROJECT, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done


def require_image(name: str) -> None:
    """Require that an image is on this machine or can be pulled."""
    if run("docker", "image", "inspect", name).returncode == 0:
        return
    try:
        pulled = run("docker", "pull", "--quiet", name)
    except subprocess.TimeoutExpired:
        unavailable(f"image {name} is not on this machine, and no registry answered in time")
    if pulled.returncode != 0:
        reason = pulled.stderr.strip().splitlines() or ["docker pull failed"]
        unavailable(f"image {name} is not on this machine and cannot be pulled: {reason[-1]}")


def default_image(service: str) -> str:
    """The image that a service of docker-compose.yml uses here: the base of our own image, or a public image."""
    composed = yaml.safe_load(compose("config").stdout)["services"][service]
    return str(composed["build"]["args"]["BASE"] if "build" in composed else composed["image"])


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """Requires a Docker engine with Compose v2."""
    try:
        found = run("docker", "compose", "version").returncode == 0 and run("docker", "info").returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        unavailable("no Docker engine with Compose v2 answers")


@pytest.fixture(scope="module")
def image(engine: None) -> str:
    """Our own image, built from this working tree."""
    require_image(default_image("emulator"))
    check_built(run("docker", "compose", "--project-name", PROJECT, "build", "emulator"))
    return IMAGE


@pytest.fixture(scope="module")
def prometheus_image(engine: None) -> str:
    """The image of Prometheus."""
    name = default_image("prometheus")
    require_image(name)
    return name


@pytest.fixture
def state(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a separate state folder and targets folder. Servers that the test leaves are stopped."""
    (tmp_path / "targets").mkdir()
    env = {
        "THINKLOAD_STATE": str(tmp_path / "state"),
        "THINKLOAD_TARGETS": str(tmp_path / "targets"),
        "VLLM_IMAGE": IMAGE,
    }
    yield env
    server("down", "--all", **env)


def server(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "server", *arguments, **environment)


def ours() -> list[str]:
    """The ids of containers with our label, running or not."""
    return run("docker", "ps", "-aq", "--filter", "label=thinkload.server").stdout.split()


def query(expression: str) -> list[dict[str, str]]:
    """The label sets of the series that Prometheus returns."""
    url = f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return [series["metric"] for series in json.load(answer)["data"]["result"]]


def eventually(expression: str, within_s: float = 20) -> list[dict[str, str]]:
    deadline = time.monotonic() + within_s
    while not (found := query(expression)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def test_our_image_is_small_and_unprivileged(image: str) -> None:
    """The image has no root user, compiler or pip, and adds less than 200 MB to its base."""
    image_facts = json.loads(run("docker", "image", "inspect", image).stdout)[0]
    base = json.loads(run("docker", "image", "inspect", default_image("emulator")).stdout)[0]
    assert image_facts["Config"]["User"] == "65532:65532"
    assert image_facts["Size"] - base["Size"] < 200e6
    script = "which gcc cc make pip pip3; python3 -c 'import pip'"
    assert run("docker", "run", "--rm", "--entrypoint", "sh", image, "-c", script).returncode != 0


def confinement(service: str) -> dict[str, object]:
    """How the container of a service of the stack is confined."""
    identity = compose("ps", "-q", service).stdout.strip()
    host = json.loads(run("docker", "inspect", identity).stdout)[0]["HostConfig"]
    keys = ("CapDrop", "CapAdd", "SecurityOpt", "ReadonlyRootfs", "Privileged")
    limited = host["Memory"] > 0 and host["PidsLimit"] > 0
    return {key: host[key] for key in keys} | {"limited": limited}


def test_stack_scrapes_server_generator_and_gpu(image: str, prometheus_image: str, tmp_path: Path) -> None:
    """A run from the host against the stack appears in Prometheus with all three kinds of series; `down` removes everything."""
    chosen = {"CONFIG": "tp2-ngram", "MODEL": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "RUN": "ci"}
    try:
        compose("up", "--build", "--wait", "emulator", "relay", "prometheus", **chosen)
        ports = run(
            "docker", "ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", "{{.Ports}}"
        ).stdout
        assert "0.0.0.0" not in ports
        assert "127.0.0.1:8000" in ports
        for service in ("emulator", "relay", "prometheus"):
            assert confinement(service) == {
                "CapDrop": ["ALL"],
                "CapAdd": None,
                "SecurityOpt": ["no-new-privileges:true"],
                "ReadonlyRootfs": True,
                "Privileged": False,
                "limited": True,
            }
        words = ("--dataset", "sample", "--problems", "12", "--budgets", "512,1024", "--concurrency", "6")
        for attempt in range(5):
            loaded = run(sys.executable, "-m", "loadgen", *words, "--out", str(tmp_path / f"run-{attempt}"))
            assert loaded.returncode == 0, loaded.stderr
            if "metrics: off" not in loaded.stderr:  # another load generator of this machine may have the port
                break
        result = json.loads(loaded.stdout.splitlines()[-1])
        server_series = eventually('last_over_time(vllm:generation_tokens_total{run="ci"}[5m]) > 0')
        gpu_series = eventually('last_over_time(DCGM_FI_DEV_POWER_USAGE{run="ci"}[5m])')
        client_series = eventually(f'last_over_time(loadgen_run_info{{config="{chosen["CONFIG"]}"}}[5m])')
        expected = {"config": "tp2-ngram", "model": chosen["MODEL"], "tp": "2", "speculation": "ngram"}
        for series in (*server_series, *gpu_series, *client_series):
            assert {key: series[key] for key in expected} == expected
        assert len(gpu_series) == 2
        assert [series["run"] for series in client_series] == [result["run_id"]]
        assert eventually("last_over_time(loadgen_completion_tokens_total[5m]) > 0")
    finally:
        compose("down", "--remove-orphans", **chosen)
        # --volumes would also remove the model caches
        run("docker", "volume", "rm", "-f", f"{PROJECT}_prometheus", f"{PROJECT}_grafana")
    left = run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout
    volumes = run("docker", "volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout
    networks = run("docker", "network", "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout
    assert left + volumes + networks == ""


@pytest.mark.parametrize("config", names(CONFIGS))
def test_gpu_profile_is_valid_for_every_configuration(config: str) -> None:
    """The service has a pinned image, all GPUs, ipc host, a long start period, a loopback port, and the relay beside it."""
    text = compose("--profile", "gpu", "config", CONFIG=config, MODEL="r1-distill-qwen-14b").stdout
    vllm = yaml.safe_load(text)["services"]["vllm"]
    assert vllm["deploy"]["resources"]["reservations"]["devices"][0]["count"] == -1
    assert "relay" in vllm["depends_on"]
    assert vllm["ipc"] == "host"
    assert vllm["image"].rpartition(":")[2].startswith("v0.")
    assert vllm["healthcheck"]["start_period"] == "20m0s"
    assert [port["host_ip"] for port in vllm["ports"]] == ["127.0.0.1"]
    assert vllm["command"][:3] == ["r1-distill-qwen-14b", "--config", f"/thinkload/configs/{config}.yaml"]


def test_docker_backend_up_and_down(image: str, state: dict[str, str]) -> None:
    """Our own image is started as an emulator, found by its label, and removed by `down`."""
    done = server("up", "tp2", "--model", "r1-distill-qwen-1.5b", "--backend", "docker", "--run", "r1", **state)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    status = json.loads(server("status", **state).stdout)["servers"]
    assert [(row["backend"], row["config"], row["healthy"]) for row in status] == [("docker", "tp2", True)]
    assert "emulated vLLM" in server("logs", "tp2", **state).stderr
    inspected = json.loads(run("docker", "inspect", result["name"]).stdout)[0]
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert json.loads(server("down", "tp2", **state).stdout)["ended"] == [result["name"]]
    assert ours() == []


def test_missing_image_is_reported(state: dict[str, str]) -> None:
    """An image, which may be 10 GB large, is never pulled automatically."""
    arguments = ("up", "tp1", "--model", "x/y", "--backend", "docker", "--image", "vllm/vllm-openai:v9.9.9")
    done = server(*arguments, **state)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "server: image vllm/vllm-openai:v9.9.9 is not on this machine: docker pull vllm/vllm-openai:v9.9.9"
    )


def test_port_of_another_container_is_reported(image: str, state: dict[str, str]) -> None:
    first = json.loads(
        server("up", "tp1", "--model", "s1.1-1.5b", "--backend", "docker", **state).stdout.splitlines()[-1]
    )
    port = urllib.parse.urlparse(first["url"]).port
    done = server("up", "tp2", "--model", "s1.1-1.5b", "--backend", "docker", "--port", str(port), **state)
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stderr
    assert len(ours()) == 1


def test_a_killed_sweep_resumes_to_every_cell_once(image: str, state: dict[str, str], tmp_path: Path) -> None:
    """After `kill -9`, `--resume` completes every cell once and leaves no container."""
    out = tmp_path / "sweep"
    command = [
        *(
            sys.executable,
            "-m",
            "loadgen",
            "sweep",
            "--configs",
            "tp1,tp2,tp1-ngram",
            "--models",
            "r1-distill-qwen-1.5b",
        ),
        *("--backend", "docker", "--dataset", "sample", "--problems", "6", "--budgets", "256", "--metrics-port", "off"),
    ]
    with subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, env={**os.environ, **state}, stderr=subprocess.PIPE
    ) as sweep:
        assert sweep.stderr is not None
        for expected in (b": done", b": ready at"):  # the second cell's server
            assert any(expected in line for line in sweep.stderr)
        sweep.send_signal(signal.SIGKILL)
    assert "planned" in {cell["state"] for cell in json.loads((out / "sweep.json").read_text())["cells"]}
    done = run(*command, "--resume", str(out), **state)
    assert done.returncode == 0, done.stderr
    cells = json.loads((out / "sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["done"] * 3
    for cell in cells:
        run_json = json.loads((out / cell["name"] / "run.json").read_text())
        assert run_json["server"]["image"]["id"].startswith("sha256:")
        assert len((out / cell["name"] / "records.jsonl").read_text().splitlines()) == 6
    # The watchdog of the killed launcher gives its container 10 s to end. The resumed sweep may end before that.
    deadline = time.monotonic() + 20
    while ours() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ours() == []
