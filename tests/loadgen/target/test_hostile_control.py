"""Whatever the control endpoints answer, the preflight ends with a description of the server or with one line."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.record import read_run
from loadgen.target.control_api import ControlApi, check_url
from loadgen.target.preflight import inspect
from loadgen.target.probe import identify
from loadgen.target.server_info import ServerInfo
from tests.fixtures.control import ControlServer, Raw, endless, nothing, trickle
from tests.fixtures.emulated import loadgen

EMULATED = {"version": "0.32.0", "emulated": True, "time_scale": 2.0}


def described(pages: dict[str, Any], **options: Any) -> Any:
    with ControlServer(pages).running() as target:
        chosen = RunOptions(target=target, **options)
        return inspect(chosen, ControlApi(chosen))


@pytest.mark.parametrize("value", [-1, 0, True, "fast", "2", [2], {}, 1e-9, 1e9, 10**400])
def test_a_time_scale_that_cannot_be_true_stops(value: Any) -> None:
    with pytest.raises(UsageError, match="reports the time scale") as refused:
        described({"/version": EMULATED | {"time_scale": value}})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("value", [b"Infinity", b"-Infinity", b"NaN", b"1" * 5000, b"[" * 100_000, b"2"])
def test_a_time_scale_that_no_parser_reads_stops_too(value: bytes) -> None:
    """Taken as 1, it would make every time of an emulated server wrong."""
    body = b'{"emulated": true, "time_scale": ' + value + (b"" if value == b"2" else b"}")
    with pytest.raises(UsageError, match="reports the time scale"):
        described({"/version": body})


def test_only_emulated_time_is_scaled() -> None:
    assert described({"/version": EMULATED}).time_scale == 2.0
    assert described({"/version": {"version": "0.33.0", "time_scale": 1}}).time_scale == 1.0
    with pytest.raises(UsageError, match="not emulated"):
        described({"/version": {"version": "0.33.0", "time_scale": 10}})


@pytest.mark.parametrize(
    ("named", "read"),
    [
        ("/dcgm/metrics", True),
        ("http://127.0.0.1:9/metrics", True),
        ("http://[::1]:9/metrics", True),
        ("http://192.0.2.1:9/metrics", False),
        ("http://127.0.0.1:9@192.0.2.1/metrics", False),
        ("http://localhost.example/metrics", False),
        ("//192.0.2.1/metrics", False),
        ("/@192.0.2.1/", False),
        ("file:///etc/passwd", False),
        ("ftp://127.0.0.1/x", False),
    ],
)
def test_a_server_chooses_no_other_host_as_its_telemetry(
    named: str, read: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = described({"/version": EMULATED | {"gpu_metrics": named}}).gpu_metrics
    assert (found is not None) == read
    assert ("which is another host" in capsys.readouterr().err) == (not read)
    real = described({"/version": {"version": "0.33.0", "gpu_metrics": named}}).gpu_metrics
    assert (real is not None) == (named == "/dcgm/metrics"), "only an emulated server may name another port"


@pytest.mark.parametrize(
    "target",
    [
        "http://h/v1?api-key=sk-1",
        "http://h/v1?x=1&KEY=abc",
        "http://user:pass@h/v1",
        "http://h:99999/v1",
        "http://h:x/v1",
        "http://h/v1#part",
        "http://h/v 1",
        "http://h/v1\r\nx: y",
        "file:///etc/passwd",
        "http:///v1",
        "http://[::1/v1",
        "h:8000/v1",
    ],
)
def test_a_target_that_is_no_url_or_holds_a_secret_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=r"^--target") as refused:
        check_url(target)
    assert not {"sk-1", "abc", "pass"} & set(str(refused.value).split("="))


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/metrics"])
@pytest.mark.parametrize("raw", [trickle, nothing, endless])
def test_an_endpoint_without_end_costs_one_deadline(path: str, raw: Raw) -> None:
    """The run goes on without what is missing, or says in one line what it cannot do without."""
    with ControlServer(raw={path: raw}).running() as target:
        options = RunOptions(target=target)
        if path == "/v1/models":
            with pytest.raises(UsageError, match=r"no complete response within|more than 4 MiB"):
                inspect(options, ControlApi(options))
        else:
            assert inspect(options, ControlApi(options)).model == "m"


def mutated(rng: random.Random, value: Any) -> Any:
    """Return JSON with one part replaced."""
    odd = [None, True, -1, 0, 1e308, 10**30, 10**400, "", "x\x1b[2J\nVALID", "[/red]", [], {}, [[]], "9" * 50]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        return value | {name: mutated(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [mutated(rng, value[0]), *value[1:]]
    return rng.choice(odd)


BODIES: dict[str, Any] = {
    "/v1/models": {"object": "list", "data": [{"id": "m", "max_model_len": 9000}, {"id": "n"}]},
    "/version": EMULATED | {"gpu": "H100", "num_gpus": 2, "tensor_parallel_size": 2, "speculation": "ngram", "gpu_metrics": "/dcgm", "config": "tp2"},
    "/v1/chat/completions": {"choices": [{"message": {"content": "4"}}], "system_fingerprint": "vllm-0.33.0-tp2-x"},
}  # fmt: skip
METRICS = b'vllm:num_requests_running{engine="0"} 1\nvllm:generation_tokens_total 5\nprocess_start_time_seconds 9\n'


def test_no_body_of_a_control_endpoint_ends_in_a_traceback() -> None:
    """A bounded fuzz; THINKLOAD_FUZZ sets the number of bodies."""
    rng = random.Random(16)
    rounds = int(os.environ.get("THINKLOAD_FUZZ", "120"))
    assert sum(one_round(damaged(rng)) for _ in range(rounds)) > rounds / 3


def damaged(rng: random.Random) -> dict[str, Any]:
    """Return the pages of a good server, of which one is damaged."""
    pages = BODIES | {"/metrics": METRICS}
    path = rng.choice(list(pages))
    if path != "/metrics" and rng.random() < 0.7:
        return pages | {path: mutated(rng, pages[path])}
    data = pages[path] if path == "/metrics" else json.dumps(pages[path]).encode()
    at = rng.randrange(len(data))
    return pages | {path: data[:at] + rng.randbytes(3) + data[at + rng.randrange(5) :]}


def one_round(pages: dict[str, Any]) -> bool:
    """Inspect and identify a server with these pages; return whether it could be described."""
    with ControlServer(pages).running() as target:
        options = RunOptions(target=target, model="m", budgets=(64,))
        api = ControlApi(options)
        try:
            server = identify(options, inspect(options, api), api)
        except UsageError as error:
            refusal = str(error)
        else:
            return described_well(server)
    assert refusal.isprintable()
    assert len(refusal) < 1000
    return False


def described_well(server: ServerInfo) -> bool:
    """Check that nothing in the description can do harm later."""
    for text in (server.version, server.gpu, server.config, server.speculation, server.fingerprint):
        assert text is None or text.isprintable()
    assert server.num_gpus is None or server.num_gpus > 0
    assert 1e-3 <= server.time_scale <= 1e6
    return True


def test_a_run_says_which_snapshot_is_missing(tmp_path: Path) -> None:
    """The preflight saw metrics; then they trickle. The run is measured, and says in one line what it lacks."""
    turns = iter(range(10**6))

    def metrics(_: Any) -> tuple[int, Any]:
        if next(turns) < 4:
            return 200, METRICS
        server.raw["/metrics"] = trickle
        return 200, METRICS

    server = ControlServer({"/metrics": metrics})
    with server.running() as target:
        done = loadgen(
            "--target", target, "--dataset", "sample", "--problems", "2", "--budgets", "64", "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert "server-after.prom is missing" in done.stderr
    assert read_run(tmp_path / "run").summary["outcomes"] == {"ok": 2}


def test_a_key_that_a_server_echoes_is_not_in_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as it is nor as JSON writes it."""
    key = 'sk-"quo\\ted"-1234'

    def echo(_: Any) -> tuple[int, Any]:
        return 401, {"error": {"message": f"Incorrect API key: {key}"}}

    server = ControlServer({"/v1/models": {"data": [{"id": "other"}]}, "/v1/chat/completions": echo})
    with server.running() as target:
        done = loadgen(
            "--target", target, "--model", "m", "--api-key-env", "ECHO_KEY", "--dataset", "sample", "--budgets", "8",
            env={"ECHO_KEY": key},
        )  # fmt: skip
    assert done.returncode == 2
    assert "Incorrect API key: ***" in done.stderr
    assert "1234" not in done.stderr + done.stdout
