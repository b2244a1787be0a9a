"""Backend `docker`: a server in a container, which any launcher can find again by its labels.

An image that is not on this machine is not pulled automatically, because vLLM's is larger than 10 GB; the error names the
command. Our own image is recognized by its label and started as an emulator. Ports are published on 127.0.0.1 only.

This module does not know when the server is ready, or what its log means.
"""

import dataclasses
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from server.config import config_file
from server.launch import commands
from server.launch.processes import SavedServer
from server.launch.spec import LaunchFailedError, RunningServer, Spec

VLLM_IMAGE = "vllm/vllm-openai:v0.32.0"
LABEL = "thinkload.server"
IN_LABELS = ("owner", "checkout", "config", "model", "port")
"""The fields of SavedServer that labels `thinkload.…` hold, beside its name and its GPUs."""
EMULATOR = "thinkload.emulator"
"""The label of our own image (see Dockerfile)."""
# docker-compose.yml confines the same services in the same way.
CONFINED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
EMULATOR_SETTINGS: dict[str, Any] = CONFINED | {"tmpfs": {"/tmp": ""}, "mem_limit": "2g", "pids_limit": 1024}  # noqa: S108 - inside the container
CACHES = {
    "thinkload-huggingface": {"bind": "/cache/huggingface", "mode": "rw"},
    "thinkload-vllm": {"bind": "/cache/vllm", "mode": "rw"},
}


def connect() -> Any:
    """A client of this machine's Docker engine. Raises LaunchFailedError if none answers."""
    try:
        import docker  # noqa: PLC0415 - the import takes 0.2 s, and only this backend needs it
        from docker.errors import DockerException  # noqa: PLC0415
    except ImportError as error:
        reason = "the Docker SDK is not installed: pip install docker"
        raise LaunchFailedError(reason) from error
    try:
        client = docker.from_env(timeout=30)
        client.ping()
    except DockerException as error:
        reason = "no Docker daemon answers: start it (systemctl start docker), or check DOCKER_HOST and the groups of your user"
        raise LaunchFailedError(reason, str(error)) from error
    return client


def image_name(image: str | None) -> str:
    """The given image, else the one in VLLM_IMAGE, else the pinned version."""
    return image or os.environ.get("VLLM_IMAGE") or VLLM_IMAGE


@dataclass
class ContainerServer(RunningServer):
    """A started container, whose log is copied to a file."""

    container: Any
    image: dict[str, Any]
    _log_thread: threading.Thread | None = field(default=None, repr=False)

    def follow_log(self) -> None:
        """Starts a thread that copies the container's output to the log file until the container ends."""
        self._log_thread = threading.Thread(target=self._copy_log, daemon=True)
        self._log_thread.start()

    def _copy_log(self) -> None:
        with self.log.open("wb", buffering=0) as out:
            for piece in self.container.logs(stream=True, follow=True):
                out.write(piece)

    def exit_code(self) -> int | None:
        """The exit status, or None while it runs. 137 means SIGKILL, which the kernel sends when memory runs out."""
        from docker.errors import NotFound  # noqa: PLC0415 - only this backend needs it

        try:
            self.container.reload()
        except NotFound:
            return 137
        if self.container.status in {"created", "running", "restarting", "paused"}:
            return None
        if self._log_thread:
            self._log_thread.join(timeout=2)
        return int(self.container.attrs["State"]["ExitCode"])

    def holds_port(self) -> bool:
        """Always True, because Docker has published the port."""
        return True

    def pause(self) -> None:
        """Pauses the container."""
        self.container.pause()

    def wake(self) -> None:
        """Unpauses the container."""
        self.container.unpause()

    def stop(self, grace_s: float = 30.0) -> None:
        """Sends SIGTERM, after `grace_s` seconds SIGKILL, removes the container and returns."""
        remove(self.name, grace_s)
        if self._log_thread:
            self._log_thread.join(timeout=5)

    def describe(self) -> dict[str, object]:
        """What a run's manifest says about the server: the image with its digest, the container id and the command."""
        return {"image": self.image, "container": self.container.id, "command": self.container.attrs["Args"]}


def remove(name: str, grace_s: float) -> None:
    """Stops and removes a container. Does nothing if it has already been removed."""
    from docker.errors import APIError, NotFound  # noqa: PLC0415 - only this backend needs it

    try:
        container = connect().containers.get(name)
        if container.status == "paused":
            container.unpause()  # SIGTERM reaches a paused container only after it continues
        container.stop(timeout=int(grace_s))
        container.remove(force=True, v=False)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # 409: another process is removing it at this moment
            raise


def start_container(spec: Spec, saved: SavedServer) -> ContainerServer:
    """Creates and starts the container. Raises LaunchFailedError."""
    client = connect()
    image = _image(client, image_name(spec.image))
    log = Path(saved.log)
    log.touch()
    command, volumes = _command(spec, image)
    settings = {**EMULATOR_SETTINGS} if is_emulator(image) else _vllm_settings(saved.gpus)
    settings["volumes"] = {**settings.get("volumes", {}), **volumes}
    settings["environment"] = {**settings.get("environment", {}), **spec.environment}
    settings |= {"name": saved.name, "labels": _labels(saved), "ports": {"8000/tcp": ("127.0.0.1", saved.port)}}
    try:
        container = client.containers.create(image.id, command, **settings)
        container.start()
    except BaseException as error:
        with suppress(LaunchFailedError):  # without a daemon there is nothing to remove, and the first error says more
            remove(saved.name, 1)
        raise _start_error(error, saved.port) from error
    identity = {"id": image.id, "tags": image.tags, "digests": image.attrs.get("RepoDigests") or []}
    emulated = is_emulator(image)
    server = ContainerServer(saved.name, saved.port, saved.gpus, log, "docker", emulated, container, identity)
    server.follow_log()
    return server


def _command(spec: Spec, image: Any) -> tuple[list[str], dict[str, Any]]:
    """The arguments of the image's entry point, and the volumes with the host files that it reads."""
    file = config_file(spec.config).resolve()
    inside = f"/thinkload/configs/{file.name}"
    volumes = {str(file): {"bind": inside, "mode": "ro"}}
    if not is_emulator(image):
        if (folder := Path(str(spec.serve.get("model", spec.model)))).is_dir():
            spec = dataclasses.replace(spec, serve={**spec.serve, "model": f"/thinkload/models/{folder.name}"})
            volumes[str(folder.resolve())] = {"bind": spec.serve["model"], "mode": "ro"}
        return commands.vllm_arguments(spec, inside, 8000, host="0.0.0.0"), volumes  # noqa: S104 - the port is published on 127.0.0.1 only
    arguments = commands.emulator_arguments(spec, inside, 8000, host="0.0.0.0")  # noqa: S104 - as above
    for position, argument in enumerate(arguments):
        if (file_on_host := Path(argument)).is_file():  # a file such as that of --dataset is mounted into the container
            arguments[position] = f"/thinkload/files/{file_on_host.name}"
            volumes[str(file_on_host.resolve())] = {"bind": arguments[position], "mode": "ro"}
    return arguments, volumes


def _labels(saved: SavedServer) -> dict[str, str]:
    """The labels from which `running` reads the server again."""
    labels = {LABEL: saved.name, "thinkload.gpus": ",".join(map(str, saved.gpus))}
    for name in IN_LABELS:
        labels[f"thinkload.{name}"] = str(getattr(saved, name))
    return labels


def _image(client: Any, name: str) -> Any:
    from docker.errors import APIError  # noqa: PLC0415 - only this backend needs it

    try:
        return client.images.get(name)
    except APIError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise LaunchFailedError(f"image {name!r}: Docker reports an error: {error.explanation}") from error
        command = "docker compose build" if "thinkload" in name else f"docker pull {name}"
        raise LaunchFailedError(f"image {name} is not on this machine: {command}") from error


def is_emulator(image: Any) -> bool:
    """True for our own image, which contains the emulator."""
    return EMULATOR in (image.labels or {})


def emulates(spec: Spec) -> bool:
    """True for backend docker with our own image, which needs no GPU."""
    return spec.backend == "docker" and is_emulator(_image(connect(), image_name(spec.image)))


START_ERRORS = (
    ("port is already allocated|address already in use", "port {port} is taken: free it or choose another with --port"),
    ("unknown device", "Docker does not find one of the GPUs: choose others with --gpus, or choose a smaller configuration"),
    ("could not select device driver|(?i:nvidia)", "Docker cannot give GPUs to a container: install nvidia-container-toolkit and restart Docker"),
)  # fmt: skip
"""What Docker says where a container does not start, and what the operator can do."""


def _start_error(error: BaseException, port: int) -> BaseException:
    """Converts an error of Docker to a LaunchFailedError that says why; returns any other error unchanged."""
    if not isinstance(error, OSError):  # errors of the Docker SDK are subclasses of OSError
        return error
    text = str(error)
    for pattern, reason in START_ERRORS:
        if re.search(pattern, text):
            return LaunchFailedError(reason.format(port=port), text)
    return LaunchFailedError(f"Docker did not start the container: {' '.join(text.split())}")


def _vllm_settings(gpus: tuple[int, ...]) -> dict[str, Any]:
    from docker.types import DeviceRequest  # noqa: PLC0415 - only this backend needs it

    chosen = {"device_ids": [str(index) for index in gpus]} if gpus else {"count": -1}
    request = DeviceRequest(capabilities=[["gpu"]], **chosen)
    environment = {
        "HOME": "/tmp",  # noqa: S108 - inside the container, for tools that keep caches in the home folder
        "HF_HOME": "/cache/huggingface",
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # HF_TOKEN is passed in the environment, because command lines are visible to every user.
    environment |= {key: os.environ[key] for key in ("HF_TOKEN", "HF_HUB_OFFLINE") if key in os.environ}
    return CONFINED | {
        "tmpfs": {"/tmp": "exec"},  # noqa: S108 - inside the container; kernels compiled at run time are loaded from here
        "mem_limit": os.environ.get("VLLM_MEMORY") or "128g",
        "pids_limit": 32768,
        "device_requests": [request],
        "ipc_mode": "host",  # vLLM's workers share tensors through /dev/shm
        "environment": environment,
        "volumes": dict(CACHES),
    }


def running() -> list[SavedServer]:
    """Our containers, whichever launcher has started them. Empty if there is no Docker engine."""
    try:
        containers = connect().containers.list(all=True, filters={"label": LABEL})
    except LaunchFailedError:
        return []
    return [_saved(container) for container in containers]


def _saved(container: Any) -> SavedServer:
    labels = {name: container.labels.get(f"thinkload.{name}", "") for name in ("gpus", *IN_LABELS)}
    gpus = tuple(int(index) for index in labels.pop("gpus").split(",") if index)
    port = int(labels.pop("port") or 0)
    return SavedServer(name=container.name, backend="docker", port=port, gpus=gpus, **labels)


def log(name: str) -> str:
    """The output of the container with this name so far."""
    return str(connect().containers.get(name).logs().decode(errors="replace"))
