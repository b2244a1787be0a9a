"""`python -m server watch URL`: the target file exists exactly as long as the command runs, and a wrong URL is one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server.__main__ import main
from server.watch import _address
from tests import ROOT
from tests.fixtures.control import ControlServer, trickle


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINKLOAD_TARGETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_target_is_there_until_the_command_ends(end: signal.Signals, targets: Path) -> None:
    with ControlServer().running() as url:
        command = [sys.executable, "-m", "server", "watch", url, "--config", "tp2", "--tp", "2"]
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            name = json.loads(watch.stdout.readline())["target"]
            (server,) = json.loads((targets / f"{name}.json").read_text())
            watch.send_signal(end)
            assert watch.wait(30) == 0
    labels = {"config": "tp2", "model": "m", "tp": "2", "speculation": "none", "run": "none"}
    assert server["targets"] == [f"host.docker.internal:{urlsplit(url).port}"]
    assert server["labels"] == {"job": "server", "__scheme__": "http", "__metrics_path__": "/metrics", **labels}
    assert list(targets.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8000", "write a URL such as"),
        ("http://user:word@host/v1", "without a user"),
        ("http://host:port/v1", "write a URL such as"),
        ("http://127.0.0.1:9/v1", "Connection refused): start the server"),
    ],
)
def test_a_wrong_url_is_one_line(url: str, says: str, targets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", url]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(targets.iterdir()) == []


@pytest.mark.parametrize("page", [b"{", b"[]", {"data": []}, {"data": [{"id": 5}]}, {"data": [{"id": "x\nVALID"}]}])
def test_a_list_without_a_model_asks_for_the_label(
    page: object, targets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ControlServer({"/v1/models": page}).running() as url:
        assert main(["watch", url]) == 2
    assert "give --model ID" in capsys.readouterr().err


def test_a_server_that_never_ends_its_answer_is_one_line(
    targets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watch.DEADLINE_S", 0.5)
    with ControlServer(raw={"/v1/models": trickle}).running() as url:
        assert main(["watch", url]) == 2
    assert "no complete answer within 0.5 s" in capsys.readouterr().err


def test_only_a_loopback_address_is_that_of_this_host() -> None:
    assert _address(urlsplit("https://example.org/v1")) == "example.org:443"
    assert _address(urlsplit("http://[::1]:8000")) == "host.docker.internal:8000"
    assert _address(urlsplit("http://[fd00::7]:8000")) == "[fd00::7]:8000"
