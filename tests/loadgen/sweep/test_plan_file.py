"""A plan file says which cells there are, in which order they run, what each server gets and what stands on which GPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.cli import main
from loadgen.errors import UsageError
from loadgen.sweep.axes import Variant, matches, rules, variants
from loadgen.sweep.deadline import Pace
from loadgen.sweep.groups import Group, Machine, Server, place
from loadgen.sweep.plan import Cell, LoadPoint, cells, selected
from loadgen.sweep.serve import serve_plan
from server.config import load_serving
from server.launch import Spec, commands
from tests import ROOT

PLANS = sorted(path.name for path in (ROOT / "plans").glob("h*.yaml"))


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], str]:
    """The cells of a dry run, and what it printed for people."""
    assert main(["sweep", *arguments, "--dry-run"]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out.splitlines()[-1])["cells"], printed.err


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_of_real_gpus_can_be_rehearsed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is accepted for the emulator and ends before its deadline with the start-ups."""
    found, printed = dry_run(capsys, "--plan", str(ROOT / "plans" / name), "--backend", "emulator")
    assert len(found) == len(set(found)) >= 40
    assert "no forecast" not in printed
    assert "group 2" in printed


def test_axes_multiply_the_cells_and_appear_in_their_names() -> None:
    found = variants({"acceptance": [None, 1.75], "temperature": [0, 1], "budget": [512]})
    order = cells(["tp1", "tp1-ngram"], ["m"], [LoadPoint("closed", 8)], 1, found)
    assert [cell.name for cell in order] == [
        "tp1_m_c8_t0_o512",
        "tp1_m_c8_t1_o512",
        "tp1-ngram_m_c8_t0_o512",
        "tp1-ngram_m_c8_t1_o512",
        "tp1-ngram-a1.75_m_c8_t0_o512",
        "tp1-ngram-a1.75_m_c8_t1_o512",
    ]
    assert dict(order[1].variant.changes) == {"temperature": 1.0, "budgets": (512,)}
    assert [cell.variant.acceptance for cell in order] == [None, None, None, None, 1.75, 1.75]


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"temperature": 1}, "temperature: write a list"),
        ({"temperature": ["warm"]}, "'warm' is not a number"),
        ({"acceptance": [0.5]}, "acceptance: 0.5"),
        ({"concurrency": [1, 2]}, "concurrency cannot be an axis"),
        ({"colour": ["red"]}, "--colour"),
    ],
)
def test_a_wrong_axis_is_refused(axes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        variants(axes)


def test_rules_leave_cells_out_and_put_cells_first() -> None:
    order = cells(
        ["tp1", "tp2"],
        ["m"],
        [LoadPoint("closed", 1), LoadPoint("closed", 32)],
        1,
        variants({"temperature": [0, 1]}),
    )
    kept = selected(
        order,
        exclude=rules('[{"config": "tp1", "temperature": 1.0}]'),
        only=rules('[{"load": [32]}, {"config": "tp1"}]'),
        first=rules('[{"config": "tp2"}]'),
    )
    assert [cell.name for cell in kept] == ["tp2_m_c32_t0", "tp2_m_c32_t1", "tp1_m_c1_t0", "tp1_m_c32_t0"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [('[{"colour": 1}]', "'colour' is not an axis"), ('[{"load": 7}]', "no cell has load: 7")],
)
def test_a_rule_that_selects_nothing_is_refused(rule: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        selected(cells(["tp1"], ["m"], [LoadPoint("closed", 1)], 1), rules(rule), [], [])


def test_options_of_a_model_replace_those_of_a_configuration_and_of_all() -> None:
    content = {
        "all": {"max-model-len": 1, "load-format": "dummy", "env": {"A": 1}},
        "configs": {"tp1-ngram": {"max-model-len": 2, "env": {"A": 2, "B": 2}}},
        "models": {"s1.1-7b": {"max-model-len": 3, "reasoning-parser": None, "model": "models/7b"}},
    }
    found = serve_plan(content, ["tp1-ngram"], ["s1.1-7b"])
    options = found.options("tp1-ngram", "s1.1-7b", 1.75)
    assert (options["max-model-len"], options["load-format"]) == (3, "dummy")
    assert found.environment("tp1-ngram", "s1.1-7b") == {"A": "2", "B": "2"}
    assert found.title("s1.1-7b") == "7b"
    spec = Spec(config="tp1-ngram", model="s1.1-7b", backend="process", serve=options)
    words = commands.vllm_arguments(spec, "tp1-ngram.yaml", 8000)
    assert words[0] == "models/7b"
    assert "--reasoning-parser" not in words
    assert json.loads(words[words.index("--speculative-config") + 1])["synthetic_acceptance_length"] == 1.75
    overrides = found.overrides("tp1-ngram", "s1.1-7b", 1.75)
    speculation = load_serving("tp1-ngram", overrides).speculation
    assert speculation is not None
    assert speculation.synthetic_acceptance_length == 1.75


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"every": {}}, "unknown key 'every'"),
        ({"configs": {"tp9": {}}}, "'tp9' is not in this sweep"),
        ({"all": []}, "serve: all: must be a mapping"),
        ({"all": {"--dtype": "auto"}}, "without dashes"),
        ({"all": {"env": {"A B": 1}}}, "'A B' is not the name"),
    ],
)
def test_a_wrong_serve_key_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        serve_plan(content, ["tp1"], ["m"])


def server(name: str, memory_gib: float, gpus: int = 1) -> Server:
    return Server(name, "m", {}, [Cell(name, "m", LoadPoint("closed", 1))], gpus, memory_gib)


def placed(groups: list[Group]) -> list[list[tuple[str, tuple[int, ...]]]]:
    return [[(each.config, each.gpus) for each in group.servers] for group in groups]


def test_servers_that_fit_stand_in_one_group() -> None:
    """100 GiB of a GPU, of which 97 may be used: the third server waits for the next group."""
    machine = Machine((0,), 100.0, seen=False)
    servers = [server("a", 50), server("b", 40), server("c", 30), server("d", 120), server("e", 7)]
    found = place(servers, machine, residency="group", at_once=1)
    assert placed(found) == [[("a", (0,)), ("b", (0,)), ("e", (0,))], [("c", (0,))], [("d", (0,))]]


def test_servers_of_a_group_are_spread_over_the_gpus() -> None:
    machine = Machine((2, 3), 100.0, seen=True)
    found = place([server("a", 40), server("b", 40), server("c", 40, gpus=2)], machine, residency="group", at_once=2)  # fmt: skip
    assert placed(found) == [[("a", (2,)), ("b", (3,)), ("c", (2, 3))]]


def test_residency_one_gives_every_server_its_own_gpus() -> None:
    machine = Machine((0, 1), 100.0, seen=False)
    servers = [server("a", 1), server("b", 1), server("c", 1)]
    assert placed(place(servers, machine, residency="one", at_once=1)) == [[("a", (0,))], [("b", (0,))], [("c", (0,))]]  # fmt: skip
    assert placed(place(servers, machine, residency="one", at_once=2)) == [[("a", (0,)), ("b", (1,))], [("c", (0,))]]  # fmt: skip


def test_measured_times_correct_the_forecast() -> None:
    """Cells take twice the expected time, so one of 30 s no longer fits before a deadline of 50 s, less 5 s for the end."""
    pace = Pace({"a": 10.0, "b": 30.0, "c": 10.0}, deadline_s=50.0)
    assert pace.fits("b")
    pace.ended("a", 20.0)
    assert pace.left_s(["b", "c"]) == 80.0
    assert not pace.fits("b")
    assert pace.fits("c")


def test_unknown_axes_and_variants_are_compared_as_text() -> None:
    cell = Cell("tp1", "m", LoadPoint("open", 2.0), 0, Variant(axes=(("seed", "1"),)))
    assert matches({"load": {"2/s"}, "seed": {"1"}, "acceptance": {"none"}}, cell.facts)


def test_amounts_are_in_proportion_to_the_load_of_each_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = "configs: [tp1]\nmodels: [s1.1-7b]\nloads: [1, 8, 2/s]\n"
    (tmp_path / "plan.yaml").write_text(f"{loads}requests: 4x at least 8\nwarmup: 1x at most 6\n")
    _, printed = dry_run(capsys, "--plan", str(tmp_path / "plan.yaml"), "--dataset", "sample")
    assert [line.split(": ")[1].split(",")[0] for line in printed.splitlines() if "M tokens" in line][:3] == [
        "9 requests",
        "38 requests",
        "10 requests",
    ]
