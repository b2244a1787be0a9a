"""What the command lines say to a mistake: the name that was meant, the plan that holds it, and the first thing that is wrong."""

from pathlib import Path

import pytest

from analysis.__main__ import main as analysis
from loadgen.cli import COMMANDS, EXAMPLES
from loadgen.cli import main as loadgen
from server.__main__ import main as server

PLAN = "configs: [tp1]\nmodels: [r1-distill-qwen-1.5b]\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--concurency", "3"], "unrecognized arguments: --concurency 3: did you mean --concurrency?"),
        (["--budget-mode", "force"], "did you mean forced?"),
        (["seach"], "'seach' is not a command: did you mean search?"),
        (["--dataset", "sampel"], "--dataset sampel: there is no such file: did you mean sample?"),
        (["sweep", "--configs", "tp1-ngran", "--models", "r1-distill-qwen-1.5b"], "--configs: unknown configuration 'tp1-ngran': did you mean tp1-ngram?"),
        (["sweep", "--configs", "tp1", "--models", "r1-distil-qwen-1.5b"], "--models: unknown model 'r1-distil-qwen-1.5b': did you mean r1-distill-qwen-1.5b?"),
        (["sweep", "--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--dataset", "synthetic:input=9,output=4", "--axes", '{"budget": [8]}'], "leave out --budgets"),
        (["sweep", "--plan", "papr"], "--plan papr: No such file: did you mean paper?"),
    ],
)  # fmt: skip
def test_the_load_generator_suggests_what_was_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loadgen(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["emulat", "tp1"], "did you mean emulate?"),
        (["up", "tp1", "--model", "s1.1-7b", "--prot", "3"], "did you mean --port?"),
        (["emulate", "tp1", "--model", "s1.1-7b", "--max-num-sequences", "3"], "did you mean max-num-seqs?"),
        (["emulate", "tp1-ngran", "--model", "s1.1-7b"], "did you mean tp1-ngram?"),
    ],
)  # fmt: skip
def test_the_server_suggests_what_was_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"), [(["repot", "x"], "did you mean report?"), (["report", "x", "--pges-only"], "did you mean --page-only?")]
)  # fmt: skip
def test_the_analysis_suggests_what_was_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analysis(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (PLAN + "run: {bugets: [1k]}\n", "unknown option bugets 1k: did you mean budgets?"),
        (PLAN + "run: {budgets: [abc]}\n", "budgets: 'abc' is not a number of tokens"),
        (PLAN + "run: {one-pass: true, samples: 2}\n", "one-pass decodes greedily"),
        (PLAN + "load: [1]\n", "unknown keys ['load']: did you mean loads?"),
        ("configs: [tp1, tp9]\nmodels: [r1-distill-qwen-1.5b]\n", "configs: unknown configuration 'tp9'"),
        ("configs: [tp1]\nmodels: [s1.1-8b]\n", "models: unknown model 's1.1-8b'"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_plan_names_the_plan_and_the_key(
    plan: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(plan)
    assert loadgen(["sweep", "--plan", str(path), "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"loadgen: --plan {path}: {says}")


def test_a_configurations_mistake_is_told_before_a_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--configs", "tp1,tp9", "--models", "r1-distill-qwen-1.5b", "--dataset", "none.jsonl"]
    assert loadgen(["sweep", *arguments]) == 2
    assert "tp9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "options"),
    [("sweep", ("--target", "--model ")), ("search", ("--concurrency", "--rate", "--requests", "--one-pass"))],
)
def test_the_help_shows_no_option_that_the_command_refuses(
    verb: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        COMMANDS[verb](["--help"])
    text = capsys.readouterr().out.partition("examples:")[0]
    assert [option for option in options if f"  {option}" in text] == []


def test_examples_can_be_pasted() -> None:
    """What stands beside a command is a comment of the shell."""
    assert [line for line in EXAMPLES.splitlines() if "(" in line.partition("#")[0]] == []
