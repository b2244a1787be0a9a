"""A sweep runs every cell exactly once, also after failures and interruptions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.cli import main
from loadgen.errors import UsageError
from loadgen.option_types import LoadPoint, load_points
from loadgen.options import RunOptions
from loadgen.record import find_runs, read_records, read_run
from loadgen.sweep.plan import Cell, by_server, cells, content_hash
from loadgen.sweep.plan_file import arguments_of
from tests import ROOT
from tests.fixtures.parallel import reserve_ports
from tests.fixtures.swarm import until

STANDIN = ROOT / "tests" / "standin"
SMALL = ("--dataset", "sample", "--problems", "4", "--budgets", "128", "--metrics-port", "off", "--progress", "none")


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    """An environment with a separate state folder and targets folder, and with the stand-in `vllm` first on PATH."""
    (tmp_path / "targets").mkdir()
    reserve_ports(tmp_path / "state")
    return {
        **os.environ,
        "PATH": f"{STANDIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "THINKLOAD_STATE": str(tmp_path / "state"),
        "THINKLOAD_TARGETS": str(tmp_path / "targets"),
        "STANDIN_SPEED": "4",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadgen", "sweep", *arguments]


def sweep(state: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=state, capture_output=True, text=True, timeout=200, check=False
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_repeats_are_interleaved_against_drift() -> None:
    """Each repeat runs in the opposite order of the previous one, so that a linear drift cancels between a cell's repeats."""
    order = cells(["a", "b"], ["m"], [LoadPoint("closed", 1), LoadPoint("closed", 8)], repeats=2)
    assert len({cell.name for cell in order}) == len(order) == 8
    places: dict[tuple[str, str], int] = {}
    for place, cell in enumerate(order):
        places[cell.config, cell.load.name] = places.get((cell.config, cell.load.name), 0) + place
    assert set(places.values()) == {7}


def test_neighbouring_load_points_share_a_server() -> None:
    order = cells(["a", "b"], ["m"], [LoadPoint("closed", 1), LoadPoint("closed", 8)], repeats=2)
    groups = by_server(order)
    assert [(group[0].config, len(group)) for group in groups] == [("a", 2), ("b", 4), ("a", 2)]


@pytest.mark.parametrize("text", ["many", "²", "0", "1.5"])
def test_a_load_that_is_no_load_point_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is not a load point"):
        load_points(text)


def test_load_points_are_streams_or_rates() -> None:
    assert load_points("1,32,0.5/s") == (LoadPoint("closed", 1), LoadPoint("closed", 32), LoadPoint("open", 0.5))


def test_hash_covers_what_is_measured_and_nothing_else() -> None:
    """The hash depends on budgets, the content of files, the load and the repeat, but not on the results folder."""
    cell, options = Cell("tp1", "m", LoadPoint("closed", 1)), RunOptions()
    same = content_hash(cell, options, {"config": {"seed": 0}})
    assert content_hash(cell, RunOptions(out=Path("x"), metrics_port=1), {"config": {"seed": 0}}) == same
    others = [
        content_hash(cell, RunOptions(budgets=(1,)), {"config": {"seed": 0}}),
        content_hash(cell, options, {"config": {"seed": 1}}),
        content_hash(Cell("tp1", "m", LoadPoint("closed", 2)), options, {"config": {"seed": 0}}),
        content_hash(Cell("tp1", "m", LoadPoint("closed", 1), 1), options, {"config": {"seed": 0}}),
    ]
    assert len({same, *others}) == 5


def test_plan_files_are_arguments() -> None:
    """plans/paper.yaml is the study of the paper: six models, six configurations, 1 and 32 streams, one pass."""
    arguments = arguments_of(ROOT / "plans" / "paper.yaml")
    plan = dict(zip(arguments[::2], arguments[1::2], strict=False))
    assert [len(plan[f"--{key}"].split(",")) for key in ("configs", "models", "loads")] == [6, 6, 2]
    assert "--one-pass" in arguments


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("configs: [tp1", "flow sequence"),
        ("config: [tp1]", "['config']"),
        ("- tp1", "must be a mapping"),
        ("run: [sample]", "run: must be a mapping"),
    ],
)
def test_a_bad_plan_is_one_line(plan: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(plan)
    with pytest.raises(UsageError) as error:
        arguments_of(tmp_path / "plan.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--models", "s1.1-7b"), "--configs"),
        (("--configs", "tp1", "--models", "gpt", *SMALL), "'gpt' is not a preset"),
        (("--configs", "tp9", "--models", "s1.1-7b", *SMALL), "unknown configuration 'tp9'"),
        (("--configs", "tp1,tp1", "--models", "s1.1-7b", *SMALL), "must not name anything twice"),
        (
            ("--configs", "tp1", "--models", "s1.1-7b", *SMALL, "--speed", "0"),
            "--speed: '0' is not a number above zero",
        ),
        (("--configs", "tp1", "--models", "s1.1-7b", *SMALL, "--gpu", "tpu"), "--gpu tpu: choose from"),
        (("--configs", "tp1", "--models", "s1.1-7b", *SMALL, "--target", "http://h/v1"), "--target is for one server"),
        (("--configs", "tp1", "--models", "s1.1-7b", *SMALL, "--budgets", "64k"), "max_model_len"),
        (
            ("--configs", "tp1", "--models", "s1.1-7b", *SMALL, "--out", "/dev/null/x"),
            "--out /dev/null/x: Not a directory",
        ),
        (("--plan", "none.yaml"), "--plan none.yaml: No such file"),
        (("--resume", "nowhere"), "--resume nowhere: no sweep.json there"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_broken_manifest_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.json").write_text('{"schema": 1')
    assert main(["sweep", "--resume", str(tmp_path)]) == 2
    assert "sweep.json cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan shows cells, tokens and time. No server is started and no folder is created."""
    out = tmp_path / "sweep"
    assert main(["sweep", "--plan", str(ROOT / "plans/smoke.yaml"), "--dry-run", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["cells"] == ["tp1_r1-distill-qwen-1.5b_c4", "tp1-ngram_r1-distill-qwen-1.5b_c4"]
    assert "16 requests, 0.0" in printed.err
    assert not out.exists()


def test_the_plan_proposes_requests_for_a_steady_window(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty problems are enough for two streams and too few for eight, and --requests is counted in the plan."""
    words = ["sweep", "--configs", "tp1", "--models", "s1.1-1.5b", "--dataset", "sample", "--problems", "20"]
    assert main([*words, "--budgets", "64", "--loads", "2,8", "--dry-run"]) == 0
    proposals = [line for line in capsys.readouterr().err.splitlines() if "too few" in line]
    assert len(proposals) == 1
    assert "c8: 20 requests" in proposals[0]
    assert proposals[0].endswith("use --requests 80 or more")
    assert main([*words, "--budgets", "64", "--loads", "8", "--requests", "80", "--dry-run"]) == 0
    plan = capsys.readouterr().err
    assert "too few" not in plan
    assert "c8: 80 requests" in plan


def test_a_failed_cell_does_not_stop_the_others(state: dict[str, str], tmp_path: Path) -> None:
    """The emulator refuses Medusa heads. The sweep reports this, continues and ends with exit code 1."""
    out, config = tmp_path / "sweep", tmp_path / "tp1-medusa.yaml"
    config.write_text("speculative-config: {method: medusa, num_speculative_tokens: 3}\n")
    models = ("--models", "r1-distill-qwen-1.5b")
    done = sweep(
        state, "--configs", f"{config},tp1", *models, "--backend", "emulator", "--speed", "4", *SMALL, "--out", str(out)
    )
    assert done.returncode == 1, done.stderr
    assert result_of(done)["failed"] == ["tp1-medusa_r1-distill-qwen-1.5b_c16"]
    manifest = json.loads((out / "sweep.json").read_text())
    assert [cell["state"] for cell in manifest["cells"]] == ["failed", "done"]
    assert "'medusa' is not emulated" in manifest["cells"][0]["reason"]
    assert [path.name for path in find_runs(out)] == ["tp1_r1-distill-qwen-1.5b_c16"]
    run = read_run(find_runs(out)[0])
    assert run.server["command"][-1] == "4.0"
    assert (find_runs(out)[0] / "server.log").read_text()


def test_a_killed_sweep_resumes_to_every_cell_once(state: dict[str, str], tmp_path: Path) -> None:
    """After `kill -9` of a sweep of `vllm` servers, `--resume` completes every cell once and leaves no process."""
    out = tmp_path / "sweep"
    words = ("--configs", "tp1,tp2,tp1-ngram", "--models", "r1-distill-qwen-1.5b", "--backend", "process", *SMALL)
    with subprocess.Popen(command(*words, "--out", str(out)), cwd=ROOT, env=state, stderr=subprocess.PIPE) as killed:
        assert killed.stderr is not None
        for expected in (b": done", b": ready at"):  # the second cell's server
            assert any(expected in line for line in killed.stderr)
        killed.send_signal(signal.SIGKILL)
    before = json.loads((out / "sweep.json").read_text())["cells"]
    assert {cell["state"] for cell in before} > {"done"}
    done = sweep(state, "--resume", str(out))
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in after] == ["done"] * 3
    assert after[0] == before[0]
    runs = find_runs(out)
    assert sorted(path.name for path in runs) == sorted(cell["name"] for cell in after)
    for folder in runs:
        assert sorted(record.seq for record in read_records(folder / "records.jsonl")) == [0, 1, 2, 3]
    names = [path.stem for path in Path(state["THINKLOAD_STATE"]).glob("*.json")]
    assert not names
    assert not processes(state)


def processes(state: dict[str, str]) -> list[str]:
    """The command lines of this test's processes, which have its state folder in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if state["THINKLOAD_STATE"] in (folder / "environ").read_text(errors="replace"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_killed_simulation_leaves_no_process(state: dict[str, str], tmp_path: Path) -> None:
    """The workers of an ordinary pool would wait for their next job forever."""
    words = ("--configs", "tp1,tp2,tp4", "--models", "r1-distill-qwen-1.5b,s1.1-1.5b", "--loads", "1,2,4,8,16,32")
    arguments = (*words, "--backend", "simulate", "--dataset", "sample", "--out", str(tmp_path / "sweep"))
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=state, stderr=subprocess.PIPE) as killed:
        assert killed.stderr is not None
        assert any(b": done" in line for line in killed.stderr)
        assert len(processes(state)) > 2
        killed.send_signal(signal.SIGKILL)
    until(lambda: not processes(state))


def test_a_changed_plan_is_not_taken_for_a_finished_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell that is resumed with another budget runs again, and its old files move to a folder that no reader searches."""
    out = tmp_path / "sweep"
    words = ("--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--backend", "simulate", *SMALL)
    assert main(["sweep", *words, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["sweep", "--resume", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == []
    assert not (out / "discarded").exists()
    assert main(["sweep", "--resume", str(out), "--budgets", "256"]) == 0
    assert [read_run(folder).budgets for folder in find_runs(out)] == [[256]]
    assert len(list((out / "discarded").iterdir())) == 1


def test_servers_whose_interference_cannot_be_measured_are_loaded_one_by_one(
    state: dict[str, str], tmp_path: Path
) -> None:
    """At this speed, the tokens of an answer arrive together, so that there is no time per token."""
    out = tmp_path / "sweep"
    words = ("--configs", "tp1,tp2", "--models", "r1-distill-qwen-1.5b", "--backend", "emulator", *SMALL)
    done = sweep(state, *words, "--speed", "2000", "--parallel", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "no time per token was measured: running one at a time" in done.stderr
    assert len(find_runs(out)) == 2


def test_servers_at_once_are_checked_for_interference(state: dict[str, str], tmp_path: Path) -> None:
    """Two servers are measured alone and together before the sweep, and every cell is done.

    They are slow, so that a busy machine does not join the reads of most tokens.
    """
    out = tmp_path / "sweep"
    words = ("--configs", "tp1,tp2", "--models", "r1-distill-qwen-1.5b", "--backend", "emulator", *SMALL)
    done = sweep(state, *words, "--speed", "0.25", "--parallel", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "interference check: time per token alone" in done.stderr
    assert len(find_runs(out)) == 2
