"""Backend `docker`: a server in a container, found again by its labels, whoever started it.

Rules: an image that is not on this machine is not pulled behind anybody's back (vLLM's is over 10 GB): the error says
how. Our own image is told from vLLM's by its label, and started as an emulator. Ports are published on loopback only.

Does not know: when the server is ready, or what its log means.
"""

import os
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from server.config import config_file
from server.launch import commands, processes
from server.launch.spec import OWNER, LaunchFailedError, Spec

VLLM_IMAGE = "vllm/vllm-openai:v0.32.0"
LABEL = "thinkload.server"
EMULATOR = "thinkload.emulator"
"""Label that our own image carries (Dockerfile)."""
CACHES = {
    "thinkload-huggingface": {"bind": "/cache/huggingface", "mode": "rw"},
    "thinkload-vllm": {"bind": "/cache/vllm", "mode": "rw"},
}


def connect() -> Any:
    """The Docker engine of this machine. Raises LaunchFailedError where none answers."""
    try:
        import docker  # noqa: PLC0415 - 0.2 s, and only this backend needs it
        from docker.errors import DockerException  # noqa: PLC0415
    except ImportError as error:
        reason = "the Docker SDK is not installed: pip install 'thinkload[server]'"
        raise LaunchFailedError(reason, kind="no_docker") from error
    try:
        client = docker.from_env(timeout=30)
        client.ping()
    except DockerException as error:
        reason = (
            "no Docker daemon answers: start it (systemctl start docker), or check DOCKER_HOST and your group"
        )
        raise LaunchFailedError(reason, str(error), "no_docker") from error
    return client


def image_of(spec: Spec) -> str:
    """The image that the spec, else the environment, else this version names."""
    return spec.image or os.environ.get("VLLM_IMAGE") or VLLM_IMAGE


@dataclass
class ContainerServer:
    """A container that was started, and its log followed into a file."""

    container: Any
    name: str
    port: int
    gpus: tuple[int, ...]
    log: Path
    image: dict[str, Any]
    emulated: bool
    backend: str = "docker"
    _follower: threading.Thread | None = field(default=None, repr=False)

    def follow(self) -> None:
        """Copy the container's output into the log file for as long as it runs."""
        self._follower = threading.Thread(target=self._copy, daemon=True)
        self._follower.start()

    def _copy(self) -> None:
        with self.log.open("wb", buffering=0) as out:
            for piece in self.container.logs(stream=True, follow=True):
                out.write(piece)

    def exit_code(self) -> int | None:
        """Exit status, or None while it runs. 137 is a kill, by the kernel for memory as a rule."""
        from docker.errors import NotFound  # noqa: PLC0415 - only this backend needs it

        try:
            self.container.reload()
        except NotFound:
            return 137
        if self.container.status in {"created", "running", "restarting", "paused"}:
            return None
        if self._follower:
            self._follower.join(timeout=2)
        return int(self.container.attrs["State"]["ExitCode"])

    def holds_port(self) -> bool:
        """Docker published it, so nobody else has it."""
        return True

    def stop(self, grace_s: float = 30.0) -> None:
        """SIGTERM, kill after `grace_s`, remove; returns when the container is gone."""
        remove(self.container, grace_s)
        if self._follower:
            self._follower.join(timeout=5)

    def describe(self) -> dict[str, object]:
        """What a manifest should say: the image by digest, the command."""
        return {"image": self.image, "container": self.container.id, "command": self.container.attrs["Args"]}


def remove(container: Any, grace_s: float) -> None:
    """Stop and remove; one that is gone already is fine."""
    from docker.errors import APIError, NotFound  # noqa: PLC0415 - only this backend needs it

    try:
        container.stop(timeout=int(grace_s))
        container.remove(force=True, v=False)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # 409: somebody else is removing it right now
            raise


def start_container(spec: Spec, name: str, port: int, gpus: tuple[int, ...]) -> ContainerServer:
    """Create and start. Raises LaunchFailedError."""
    client = connect()
    image = _image(client, image_of(spec))
    log = spec.log or processes.state_dir() / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    command, volumes = _command(spec, image)
    settings = _emulator_settings() if is_emulator(image) else _vllm_settings(gpus)
    settings["volumes"] = {**settings.get("volumes", {}), **volumes}
    published = {"8000/tcp": ("127.0.0.1", port)}
    labels = _labels(spec, name, port, gpus)
    container = None
    try:
        container = client.containers.create(
            image.id, command, name=name, labels=labels, ports=published, **settings
        )
        container.start()
    except BaseException as error:
        if container:
            remove(container, 1)
        raise _refused(error, port) from error
    server = ContainerServer(container, name, port, gpus, log, _identity(image), emulated=is_emulator(image))
    server.follow()
    return server


def _command(spec: Spec, image: Any) -> tuple[list[str], dict[str, Any]]:
    """Arguments for the image's entry point, and the host files it reads."""
    file = config_file(spec.config).resolve()
    inside = f"/thinkload/configs/{file.name}"
    volumes = {str(file): {"bind": inside, "mode": "ro"}}
    if not is_emulator(image):
        return commands.vllm_arguments(spec, inside, 8000, host="0.0.0.0"), volumes  # noqa: S104 - published on loopback only
    arguments = commands.emulator_arguments(spec, inside, 8000, host="0.0.0.0")  # noqa: S104 - likewise
    for position, argument in enumerate(arguments):
        if (host := Path(argument)).is_file():  # --dataset FILE: show it to the container
            arguments[position] = f"/thinkload/files/{host.name}"
            volumes[str(host.resolve())] = {"bind": arguments[position], "mode": "ro"}
    return arguments, volumes


def _labels(spec: Spec, name: str, port: int, gpus: tuple[int, ...]) -> dict[str, str]:
    return {
        LABEL: name,
        "thinkload.owner": OWNER,
        "thinkload.config": spec.config,
        "thinkload.model": spec.model,
        "thinkload.port": str(port),
        "thinkload.gpus": ",".join(map(str, gpus)),
    }


def _image(client: Any, name: str) -> Any:
    from docker.errors import APIError  # noqa: PLC0415 - only this backend needs it

    try:
        return client.images.get(name)
    except APIError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise LaunchFailedError(
                f"image {name!r}: Docker refuses: {error.explanation}", kind="no_image"
            ) from error
        hint = "docker compose build" if "thinkload" in name else f"docker pull {name}"
        raise LaunchFailedError(f"image {name} is not on this machine: {hint}", kind="no_image") from error


def is_emulator(image: Any) -> bool:
    """True for our own image."""
    return EMULATOR in (image.labels or {})


def emulates(spec: Spec) -> bool:
    """True for backend docker with our own image: no GPU is needed."""
    return spec.backend == "docker" and is_emulator(_image(connect(), image_of(spec)))


def taken_gpus() -> set[int]:
    """GPUs that our running containers hold."""
    held = ",".join(container.labels.get("thinkload.gpus", "") for container in running())
    return {int(index) for index in held.split(",") if index}


def _identity(image: Any) -> dict[str, Any]:
    return {"id": image.id, "tags": image.tags, "digests": image.attrs.get("RepoDigests") or []}


def _refused(error: BaseException, port: int) -> BaseException:
    """Why Docker did not start it; what is no word of Docker's stays what it is."""
    if not isinstance(error, OSError):  # as the SDK's own errors are
        return error
    text = str(error)
    if "port is already allocated" in text or "address already in use" in text:
        return LaunchFailedError(
            f"port {port} is taken: free it or choose another with --port", text, "port_taken"
        )
    if "unknown device" in text:
        reason = "Docker was asked for a GPU that is not there: choose others with --gpus, or a smaller configuration"
        return LaunchFailedError(reason, text, "too_few_gpus")
    if "could not select device driver" in text or "nvidia" in text.lower():
        reason = "Docker cannot hand out GPUs: install nvidia-container-toolkit and restart Docker"
        return LaunchFailedError(reason, text, "no_gpu_runtime")
    return LaunchFailedError(f"Docker did not start it: {' '.join(text.split())}", kind="docker")


def _emulator_settings() -> dict[str, Any]:
    scratch = {"/tmp": ""}  # noqa: S108 - inside the container
    return {"read_only": True, "tmpfs": scratch, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


def _vllm_settings(gpus: tuple[int, ...]) -> dict[str, Any]:
    from docker.types import DeviceRequest  # noqa: PLC0415 - only this backend needs it

    ids = [str(index) for index in gpus]
    request = (
        DeviceRequest(device_ids=ids, capabilities=[["gpu"]])
        if ids
        else DeviceRequest(count=-1, capabilities=[["gpu"]])
    )
    environment = {
        "HF_HOME": "/cache/huggingface",
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # vLLM's workers share tensors through /dev/shm; HF_TOKEN comes from the environment, never from a command line.
    environment |= {key: os.environ[key] for key in ("HF_TOKEN", "HF_HUB_OFFLINE") if key in os.environ}
    return {
        "device_requests": [request],
        "ipc_mode": "host",
        "environment": environment,
        "volumes": dict(CACHES),
    }


def running(owner: str | None = None) -> list[Any]:
    """Our containers, all or one launcher's; empty where there is no Docker engine."""
    wanted = [LABEL] + ([f"thinkload.owner={owner}"] if owner else [])
    try:
        return list(connect().containers.list(all=True, filters={"label": wanted}))
    except LaunchFailedError:
        return []
