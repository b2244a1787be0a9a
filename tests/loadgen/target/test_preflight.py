"""What is learned about a server before a run, and how its own timings divide the latency of a request."""

import json
from pathlib import Path

import pytest

from loadgen.checks.reference_server import serving
from loadgen.errors import UsageError
from loadgen.measure.run_facts import server_split
from loadgen.options import RunOptions
from loadgen.plan.prompts import style_of
from loadgen.record import Record, read_run
from loadgen.run.prepare import config_name
from loadgen.target.control_api import root
from loadgen.target.preflight import check_lengths
from loadgen.target.probe import with_fingerprint
from loadgen.target.server_info import ServerInfo
from tests.fixtures.control import ControlServer
from tests.fixtures.emulated import loadgen
from tests.fixtures.hostile import HostileServer


@pytest.mark.parametrize(
    ("fingerprint", "size"),
    [("vllm-0.32.0-tp2-1a2b3c4d", 2), ("vllm-0.32.0-8a8d8e41", 1), ("fp_44709d6fcb", None), (None, None)],
)
def test_only_a_fingerprint_of_vllm_tells_the_tensor_parallel_size(fingerprint: str | None, size: int | None) -> None:
    assert with_fingerprint(ServerInfo("m"), fingerprint).tensor_parallel_size == size


def test_the_name_of_a_configuration_follows_from_what_is_known() -> None:
    assert config_name(ServerInfo("m")) == "server"
    assert config_name(ServerInfo("m", tensor_parallel_size=2, speculation="ngram")) == "tp2-ngram"
    assert config_name(ServerInfo("m", tensor_parallel_size=2, config="mine")) == "mine"


@pytest.mark.parametrize(
    ("model", "style"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "r1"),
        ("simplescaling/s1.1-7B", "s1"),
        ("s1-32B", "s1"),
        ("Qwen/Qwen2.5-7B-Instruct", "chat"),
        ("models1.1-x", "chat"),
    ],
)
def test_the_prompt_style_follows_from_the_model_id(model: str, style: str) -> None:
    assert style_of(model, None)[0] == style
    assert style_of(model, "bare")[0] == "bare"


def test_a_budget_must_leave_room_for_the_prompt() -> None:
    check_lengths(RunOptions(budgets=(4095,)), ServerInfo("m", max_model_len=4096))
    with pytest.raises(UsageError, match="4096 tokens"):
        check_lengths(RunOptions(budgets=(4096,)), ServerInfo("m", max_model_len=4096))
    with pytest.raises(UsageError, match="512 for the answer"):
        check_lengths(RunOptions(budgets=(3800,), budget_mode="forced"), ServerInfo("m", max_model_len=4096))


@pytest.mark.parametrize("target", ["http://h:8000/v1", "http://h:8000/v1/", "http://h:8000"])
def test_the_root_is_the_target_without_v1(target: str) -> None:
    assert root(target) == "http://h:8000"


def test_server_timings_split_the_latency() -> None:
    """Of 630 ms, the server queued for 200, prefilled for 100 and decoded for 320; 10 ms remain for the network and the client."""
    timings = {"queue_time_ms": 200.0, "time_to_first_token_ms": 100.0, "generation_time_ms": 320.0}
    record = Record(
        run_id="r", seq=0, problem_id="p", budget=1, due_s=0, outcome="ok", e2e_s=0.63, server_timings=timings
    )  # fmt: skip
    parts = server_split(record)
    assert parts == pytest.approx({"queue_s": 0.2, "prefill_s": 0.1, "decode_s": 0.32, "outside_s": 0.01})
    record.server_timings = {"queue_time_ms": None}
    assert server_split(record) == {}


def test_model_is_enough_for_a_server_that_lists_no_models(tmp_path: Path) -> None:
    """The server has no /models, /version and /metrics. Nothing that it does not report is invented."""
    out = tmp_path / "run"
    with serving() as url:
        options = ("--target", f"{url}/queued/v1", "--dataset", "sample", "--budgets", "64", "--out", str(out))
        refused = loadgen(*options)
        assert (refused.returncode, "--model" in refused.stderr) == (2, True)
        done = loadgen(*options, "--model", "m")
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["outcomes"] == {"ok": 49}, done.stderr
    run = read_run(out)
    assert (run.config, run.server, run.emulated) == ("server", {}, False)
    split = run.summary["server_split"]
    assert split["queue_s"]["p50"] == 0.2
    assert line["ttft_s"]["p50"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [("reset-before", "reset"), ("close-inside", "cut"), ("no-http", "malformed"), ("429", "rate_limited"), ("error-event", "server_error")],
)  # fmt: skip
def test_with_model_given_a_misbehaving_server_is_measured_and_not_refused(
    behaviour: str, outcome: str, tmp_path: Path
) -> None:
    """Its /models misbehaves too. Each request becomes one record, and nothing raises."""
    hostile = HostileServer()
    with hostile.running():
        options = ("--target", hostile.target(behaviour), "--dataset", "sample", "--problems", "3", "--budgets", "8")
        refused = loadgen(*options, "--out", str(tmp_path / "run"))
        done = loadgen(*options, "--model", "m", "--timeout", "5", "--out", str(tmp_path / "run"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert json.loads(done.stdout.splitlines()[-1])["outcomes"] == {outcome: 3}, done.stderr


@pytest.mark.parametrize("options", [("--budget-mode", "native"), ("--cache", "reset"), ("--model", "m2"), ()])
def test_a_dry_run_sends_no_prompt(options: tuple[str, ...]) -> None:
    server = ControlServer()
    with server.running() as target:
        done = loadgen("--target", target, "--dataset", "sample", "--budgets", "16", "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    assert {method for method, *_ in server.seen} == {"GET"}
