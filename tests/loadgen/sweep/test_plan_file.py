"""A plan file says which cells there are, in which order they run, what each server gets and what stands on which GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cli import main
from loadgen.errors import UsageError
from loadgen.sweep.axes import Variant, matches, rules, variants
from loadgen.sweep.deadline import Pace
from loadgen.sweep.groups import Group, Machine, Server, place
from loadgen.sweep.manifest import Entry, Manifest
from loadgen.sweep.plan import Cell, LoadPoint, cells, selected
from loadgen.sweep.plan_file import KEYS, arguments_of
from loadgen.sweep.screen import line, rows
from loadgen.sweep.serve import serve_plan
from server.config import load_serving
from server.launch import commands
from server.launch.spec import Spec
from server.speculation import of_length
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


def test_draft_tokens_are_those_of_configurations_that_speculate() -> None:
    found = variants({"draft-tokens": [1, "8"], "acceptance": [None, 2.0]})
    order = cells(["tp1", "tp1-eagle3"], ["m"], [LoadPoint("closed", 8)], 1, found)
    names = ["tp1", "tp1-eagle3-k1", "tp1-eagle3-k1-a2", "tp1-eagle3-k8", "tp1-eagle3-k8-a2"]
    assert [cell.config_name for cell in order] == names
    assert order[-1].facts["draft-tokens"] == {"8"}
    options = serve_plan({}, ["tp1-eagle3"], ["m"]).options("tp1-eagle3", "m", *order[-1].variant.of_server)
    changed = {"num_speculative_tokens": 8, "synthetic_acceptance_length": 2.0, "method": "eagle3"}
    assert changed.items() <= options["speculative-config"].items()


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"temperature": 1}, "temperature: write a list"),
        ({"temperature": ["warm"]}, "'warm' is not a number"),
        ({"acceptance": [0.5]}, "acceptance: 0.5"),
        ({"draft-tokens": [0]}, "draft-tokens: 0: write a number from 1 to 64"),
        ({"draft-tokens": [2.5]}, "draft-tokens: 2.5: write a number"),
        ({"concurrency": [1, 2]}, "concurrency cannot be an axis"),
        ({"colour": ["red"]}, "--colour"),
        ({"budget": [1024], "budgets": [2048]}, "budget and budgets are the same option"),
    ],
)
def test_a_wrong_axis_is_refused(axes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        variants(axes)


@pytest.mark.parametrize("word", ["off", "on", "no", "yes", "none", "true", "010", "1e3", "1_000", "0x10", "1:30", "2026-11-29", ".inf"])  # fmt: skip
def test_an_option_gets_the_word_that_is_written(word: str, tmp_path: Path) -> None:
    """YAML takes most of these words for a truth value, a number or a date."""
    file = tmp_path / "plan.yaml"
    file.write_text(
        f"deadline: {word}\nrun: {{gpu: {word}, one-pass: yes, no-text: off, seed: null}}\n"
        f"axes: {{preset: [{word}, x], no-text: [on, off]}}\nonly: [{{preset: {word}}}]\n"
        f"serve: {{all: {{enforce-eager: off, env: {{A: {word}}}}}}}\n"
    )
    words = arguments_of(file)
    given = {name: words[words.index(name) + 1] for name in ("--deadline", "--gpu", "--axes", "--only", "--serve")}  # fmt: skip
    assert (given["--deadline"], given["--gpu"]) == (word, word)
    assert json.loads(given["--axes"]) == {"preset": [word, "x"], "no-text": [True, False]}
    assert json.loads(given["--only"]) == [{"preset": word}]
    assert json.loads(given["--serve"]) == {"all": {"enforce-eager": False, "env": {"A": word}}}
    assert "--one-pass" in words
    assert not {"--no-text", "--seed"} & set(words)


def test_a_mapping_of_an_option_keeps_its_types_and_merge_keys(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "run:\n  <<: {extra-body: {a: off, b: 010, c: 2026-11-29, d: null, e: {50256: -100}}}\n  problems: 3\n"
    )
    words = arguments_of(file)
    assert words[words.index("--problems") + 1] == "3"
    body = json.loads(words[words.index("--extra-body") + 1])
    assert body == {"a": False, "b": 8, "c": "2026-11-29", "d": None, "e": {"50256": -100}}


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.text(max_size=8), st.sampled_from(["off", "~", "1e3"])
)  # fmt: skip


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(KEYS)), scalars),
        st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)),
        max_size=4,
    )
)
def test_any_plan_is_words_or_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    said = "words"
    try:
        assert all(isinstance(word, str) for word in arguments_of(file))
    except UsageError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def test_metrics_stay_off_in_every_cell() -> None:
    """The plans of real GPUs switch the metrics off in the word that YAML takes for false."""
    for name in PLANS:
        words = arguments_of(ROOT / "plans" / name)
        assert words[words.index("--metrics-port") + 1] == "off"


def test_rules_compare_numbers_by_value() -> None:
    """The name of a cell has the number as it is written, and large numbers stay different."""
    seeds = variants({"seed": ["1234567", "1234568"], "temperature": ["0.70"]})
    order = cells(["tp1"], ["m"], [LoadPoint("closed", 32)], 1, seeds)
    assert [cell.name for cell in order] == ["tp1_m_c32_seed-1234567_t0.70", "tp1_m_c32_seed-1234568_t0.70"]
    only = rules('[{"temperature": 0.7, "seed": 1234568, "load": "32"}]')
    assert [cell.name for cell in selected(order, [], only, [])] == [order[1].name]


def test_rules_leave_cells_out_and_put_cells_first() -> None:
    order = cells(
        ["tp1", "tp2"], ["m"], [LoadPoint("closed", 1), LoadPoint("closed", 32)], 1, variants({"temperature": [0, 1]})
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
    [
        ('[{"colour": 1}]', "'colour' is not an axis"),
        ('[{"load": 7}]', "no cell has load: 7"),
        ('[{"config": "tp1"}]', "leave no cell"),
    ],
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
    cell = Cell("tp1-ngram", "s1.1-7b", LoadPoint("closed", 1), serve=options)
    speculation = load_serving("tp1-ngram", cell.overrides).speculation
    assert speculation is not None
    assert speculation.acceptance == of_length(1.75, 5)


@pytest.mark.parametrize("given", [{"method": "ngram", "num_speculative_tokens": 3}, '{"method": "ngram"}'])
def test_a_server_has_what_the_plan_adds_to_its_configuration(given: object) -> None:
    """Its drafts have the acceptance of the axes, and its GPUs and its labels are counted with the option."""
    added = {"speculative-config": given, "tensor-parallel-size": 2, "max-model-len": None}
    serve = serve_plan({"configs": {"tp1": added}}, ["tp1"], ["m"])
    found = cells(["tp1"], ["m"], [LoadPoint("closed", 1)], 1, variants({"acceptance": [1.75, 3]}), serve=serve)
    assert [cell.name for cell in found] == ["tp1-a1.75_m_c1", "tp1-a3_m_c1"]
    assert found[0].serve["speculative-config"]["method"] == "ngram"
    assert found[0].tensor_parallel_size == 2
    labels = commands.labels(Spec(config="tp1", model="m", serve=found[0].serve))
    assert (labels["tp"], labels["speculation"]) == ("2", "ngram")


@pytest.mark.parametrize("backend", ["simulate", "process"])
def test_a_length_with_a_unit_limits_the_budgets(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.yaml").write_text("max-model-len: 2k\n")
    plan = (
        "--configs",
        str(tmp_path / "short.yaml"),
        "--models",
        "s1.1-7b",
        "--backend",
        backend,
        "--dataset",
        "sample",
    )
    assert len(dry_run(capsys, *plan, "--loads", "1", "--budgets", "1k")[0]) == 1
    assert main(["sweep", *plan, "--budgets", "2k", "--dry-run"]) == 2
    assert "s1.1-7b's 2000 tokens" in capsys.readouterr().err


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


def server(config: str, memory_gib: float) -> Server:
    return Server([Cell(config, "m", LoadPoint("closed", 1))], memory_gib)


def placed(groups: list[Group]) -> list[list[tuple[str, tuple[int, ...]]]]:
    return [[(each.first.config, each.gpus) for each in group.servers] for group in groups]


def test_servers_that_fit_stand_in_one_group() -> None:
    """100 GiB of a GPU, of which 97 may be used: the third server waits for the next group."""
    machine = Machine((0,), 100.0, seen=False)
    servers = [
        server("tp1", 50),
        server("tp1-sync", 40),
        server("tp1-ngram", 30),
        server("tp1-fp8", 120),
        server("tp1-draft", 7),
    ]
    found = place(servers, machine, residency="group", at_once=1)
    assert placed(found) == [
        [("tp1", (0,)), ("tp1-sync", (0,)), ("tp1-draft", (0,))],
        [("tp1-ngram", (0,))],
        [("tp1-fp8", (0,))],
    ]


def test_servers_of_a_group_are_spread_over_the_gpus() -> None:
    machine = Machine((2, 3), 100.0, seen=True)
    found = place([server("tp1", 40), server("tp1-sync", 40), server("tp2", 40)], machine, residency="group", at_once=2)  # fmt: skip
    assert placed(found) == [[("tp1", (2,)), ("tp1-sync", (3,)), ("tp2", (2, 3))]]


def test_residency_one_gives_every_server_its_own_gpus() -> None:
    machine = Machine((0, 1), 100.0, seen=False)
    servers = [server("tp1", 1), server("tp1-sync", 1), server("tp1-ngram", 1)]
    assert placed(place(servers, machine, residency="one", at_once=1)) == [[("tp1", (0,))], [("tp1-sync", (0,))], [("tp1-ngram", (0,))]]  # fmt: skip
    assert placed(place(servers, machine, residency="one", at_once=2)) == [[("tp1", (0,)), ("tp1-sync", (1,))], [("tp1-ngram", (0,))]]  # fmt: skip


def test_measured_times_correct_the_forecast() -> None:
    """Cells take twice the expected time, so one of 30 s no longer fits before a deadline of 50 s, less 5 s for the end."""
    times_s = {"a": 10.0, "b": 30.0, "c": 10.0}
    found = [Entry(name=name, config="", model="", load="", hash="", forecast_s=s) for name, s in times_s.items()]
    pace = Pace(found, deadline_s=50.0)
    assert pace.fits("b")
    found[0].state, found[0].wall_s = "done", 20.0
    assert pace.left_s(["b", "c"]) == 80.0
    assert not pace.fits("b")
    assert pace.fits("c")


def test_a_few_failed_cells_are_named_and_the_others_counted() -> None:
    """The screen must not be higher than the terminal. The line after each cell has only the number."""
    found = [
        Entry(name=f"c{number}", config="", model="", load="", hash="", state="failed", reason="no GPU")
        for number in range(6)
    ]
    manifest = Manifest(started_at="", argv=[], folder="", cells=found)
    failed = [value for name, value in rows(manifest) if name == "failed"]
    assert failed == ["c0: no GPU", "c1: no GPU", "c2: no GPU", "c3: no GPU", "2 more"]
    assert line(manifest).startswith("sweep: done 0 of 6 cells · failed 6")


def test_unknown_axes_and_variants_are_compared_as_text() -> None:
    cell = Cell("tp1", "m", LoadPoint("open", 2.0), 0, Variant(axes=(("seed", "1"),)))
    assert matches({"load": {"2/s"}, "seed": {"1"}, "acceptance": {"none"}}, cell.facts)


def test_amounts_are_in_proportion_to_the_load_of_each_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loads = "configs: [tp1]\nmodels: [s1.1-7b]\nloads: [1, 8, 2/s]\n"
    (tmp_path / "plan.yaml").write_text(f"{loads}requests: 4x at least 8\nwarmup: 1x at most 6\n")
    _, printed = dry_run(capsys, "--plan", str(tmp_path / "plan.yaml"), "--dataset", "sample")
    assert [line.split(": ")[1].split(",")[0] for line in printed.splitlines() if "M tokens" in line][:3] == [
        "9 requests",
        "38 requests",
        "10 requests",
    ]


def test_a_folder_with_the_name_of_a_plan_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smoke").mkdir()
    monkeypatch.chdir(tmp_path)
    assert arguments_of(Path("smoke")) == arguments_of(Path("smoke.yaml"))
