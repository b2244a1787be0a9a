"""What one request for one token shows: the GPUs of a vLLM, and how a server calls the limit of a reply."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.options import RunOptions
from loadgen.record import read_run
from loadgen.run.prepare import config_name
from loadgen.target.control_api import ControlApi
from loadgen.target.preflight import inspect
from loadgen.target.probe import identify, with_fingerprint
from loadgen.target.server_info import ServerInfo
from tests.fixtures.control import ControlServer, completion, nothing, stream
from tests.fixtures.emulated import loadgen

OPENAI = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "code": "unsupported_parameter",
}
PYDANTIC = [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]


@pytest.mark.parametrize(
    ("fingerprint", "gpus", "name"),
    [
        ("vllm-0.32.0-tp2-1a2b3c4d", 2, "tp2"),
        ("vllm-0.32.0-8a8d8e41", 1, "tp1"),
        ("vllm-0.33.0-tp2-pp2-dp4-1a2b3c4d", 16, "tp2-pp2-dp4"),
        ("vllm-0.33.0-pp2-dp4-1a2b3c4d", 8, "tp1-pp2-dp4"),
        ("vllm-0.33.0-tp6", 6, "tp6"),
        ("vllm-0.33.0rc1.dev5+g1234-dp3-tp2a-x", 3, "tp1-dp3"),  # tp2a is no size
        ("fp_44709d6fcb", None, "server"),
        ("vllm-0.33.0-tp2\n", None, "server"),
        (17, None, "server"),
        (None, None, "server"),
    ],
)
def test_only_a_fingerprint_of_vllm_tells_the_gpus(fingerprint: object, gpus: int | None, name: str) -> None:
    server = with_fingerprint(ServerInfo("m"), fingerprint)
    assert (server.num_gpus, config_name(server)) == (gpus, name)


def test_the_engines_of_the_metrics_page_count_where_the_fingerprint_does_not_name_them() -> None:
    assert with_fingerprint(ServerInfo("m", engines=4), "vllm-0.26.0-tp2-x").num_gpus == 8
    assert with_fingerprint(ServerInfo("m", engines=4), "vllm-0.33.0-tp2-dp4-x").num_gpus == 8
    assert with_fingerprint(ServerInfo("m", num_gpus=3), "vllm-0.33.0-tp2-dp4-x").num_gpus == 3


def refuser(error: Any, status: int) -> Any:
    def answer(body: Any) -> tuple[int, Any]:
        if "max_tokens" in body:
            return status, error
        return 200, stream() if body["stream"] else completion()

    return answer


@pytest.mark.parametrize(("error", "status"), [({"error": OPENAI}, 400), ({"detail": PYDANTIC}, 422)])
def test_a_server_that_refuses_max_tokens_is_asked_with_the_other_field(
    error: Any, status: int, tmp_path: Path
) -> None:
    def answer(body: Any) -> tuple[int, Any]:
        return refuser(error, status)({"stream": False} | body)

    server = ControlServer({"/v1/chat/completions": answer})
    with server.running() as target:
        done = loadgen(
            "--target", target, "--dataset", "sample", "--problems", "2", "--budgets", "64", "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["outcomes"] == {"ok": 2}, done.stderr
    assert [body.get("max_completion_tokens") for body in server.bodies()] == [64, 64]
    assert all("max_tokens" not in body for body in server.bodies())
    assert read_run(tmp_path / "run").server["limit_field"] == "max_completion_tokens"


DEFAULT_ONLY = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
NO_TEMPERATURE = "Unsupported parameter: 'temperature' is not supported with this model."


@pytest.mark.parametrize(
    ("message", "option"), [(DEFAULT_ONLY, "--temperature 1"), (NO_TEMPERATURE, "--sampling recommended")]
)
@pytest.mark.parametrize("both", [False, True])
def test_a_refused_temperature_is_one_line_with_the_option_to_give(
    message: str, option: str, both: bool, tmp_path: Path
) -> None:
    """No request of the load is sent. With the option, the run and doctor send what the server accepts."""

    def answer(body: Any) -> tuple[int, Any]:
        if both and "max_tokens" in body:
            return 400, {"error": OPENAI}
        if body.get("temperature", 1) != 1 or (message == NO_TEMPERATURE and "temperature" in body):
            return 400, {"error": {"message": message, "param": "temperature", "code": "unsupported_value"}}
        return 200, stream() if body.get("stream") else completion()

    server = ControlServer({"/v1/chat/completions": answer})
    with server.running() as target:
        plan = ("--target", target, "--dataset", "sample", "--problems", "2", "--budgets", "64")
        refused = loadgen(*plan, "--out", str(tmp_path / "refused"))
        assert (refused.returncode, refused.stderr.count("\n"), server.bodies()) == (2, 1, [])
        assert refused.stderr.endswith(f": give {option}\n")
        done = loadgen(*plan, *option.split(), "--out", str(tmp_path / "run"))
        assert json.loads(done.stdout.splitlines()[-1])["outcomes"] == {"ok": 2}, done.stderr
        doctor = loadgen(*plan, *option.split(), verb="doctor")
        assert "a small request ended as" not in doctor.stderr


@pytest.mark.parametrize(
    "answer",
    [
        (429, {"error": "slow down"}),
        (500, b"<html>"),
        (200, b"data: [DONE]\n\n"),
        (200, [1]),
        (400, {"error": {"message": "max_tokens or max_completion_tokens is too large"}}),
    ],
)
def test_a_probe_that_shows_nothing_changes_nothing(answer: tuple[int, Any]) -> None:
    with ControlServer({"/v1/chat/completions": lambda _: answer}).running() as target:
        options = RunOptions(target=target)
        api = ControlApi(options)
        server = inspect(options, api)
        assert identify(options, server, api) == server
    assert (server.num_gpus, server.limit_field) == (None, "max_tokens")


def test_a_probe_without_an_answer_in_time_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with ControlServer(raw={"/v1/chat/completions": nothing}).running() as target:
        options = RunOptions(target=target)
        api = ControlApi(options)
        server = inspect(options, api)
        assert identify(options, server, api) == server
    assert "did not answer a request for one token (no complete response within 4 s)" in capsys.readouterr().err


def test_without_a_sign_of_the_gpus_a_run_has_no_cost(tmp_path: Path) -> None:
    """One GPU would be a guess: eight may work."""
    with ControlServer().running() as target:
        done = loadgen("--target", target, "--dataset", "sample", "--budgets", "64", "--out", str(tmp_path / "run"))
    run = read_run(tmp_path / "run")
    assert run.num_gpus is None, done.stderr
    assert '"num_gpus": null' in (tmp_path / "run" / "run.json").read_text()
    throughput = run.summary["throughput"]
    assert throughput["completion_tokens_per_s"] > 0
    assert throughput["gpu_seconds_per_token_wall"] is throughput["gpu_seconds_per_token_paper"] is None
