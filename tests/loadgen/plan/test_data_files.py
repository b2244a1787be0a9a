"""Files in other people's shapes: formats, names of fields, answers, conversations, folders of the Hub, and what they lack."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.plan.data_files import files_of, read_rows
from loadgen.plan.datasets import Dataset, emulator_file, load
from tests.fixtures.emulated import loadgen

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": 'Zwei, "mal"\nzwei?', "answer": "4"}]  # fmt: skip


def read(path: Path | str, **fields: str) -> Dataset:
    return load(RunOptions(dataset=str(path), fields=fields))


def asked(path: Path | str, **fields: str) -> list[tuple[str, str]]:
    return [(row.problem, row.answer) for row in read(path, **fields).problems]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_problems(suffix: str, tmp_path: Path) -> None:
    assert asked(write(tmp_path / f"d.{suffix}", [*ROWS])) == [(r["question"], r["answer"]) for r in ROWS]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"version": "1.0", "data": ROWS}),
        json.dumps({"data": ROWS}),
        "".join(json.dumps(row) + "\n" for row in ROWS),
        "\ufeff" + json.dumps(ROWS),
    ],
    ids=["wrapped", "on one line", "JSON lines", "byte-order mark"],
)
def test_documents_of_other_shapes_under_the_name_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(text)
    assert [problem for problem, _ in asked(tmp_path / "d.json")] == [row["question"] for row in ROWS]


def test_semicolons_separate_the_cells_of_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("Question;Answer\r\nIs 1,5 > 1?;yes\r\n")
    assert asked(tmp_path / "d.csv") == [("Is 1,5 > 1?", "yes")]


@given(rows=st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=5))
def test_any_text_survives_jsonl_and_csv(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever Python can write as UTF-8 comes back. A carriage return is left out, which CSV and Windows treat as an end of line."""
    kept = [{"a": a, "b": b} for a, b in rows if "\r" not in a + b and "\0" not in a + b]
    if kept:
        for suffix in ("jsonl", "csv"):
            path = write(tmp_path_factory.getbasetemp() / f"any.{suffix}", [*kept])
            assert [row.fields for row in read_rows(path)] == kept


@given(content=st.binary(max_size=200), suffix=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
def test_any_bytes_are_problems_or_one_line(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    path.write_bytes(content)
    try:
        said = "" if read(path).problems else "no problem"
    except UsageError as error:
        said = str(error)
    assert said == "" or str(path) in said
    assert "\n" not in said


def test_gsm8k_answers_are_what_follows_the_mark(tmp_path: Path) -> None:
    row = {"question": "Pens?", "answer": "1000+250=<<1000+250=1250>>1250\n#### 1,250"}
    found = read(write(tmp_path / "d.jsonl", [row])).problems[0]
    assert (found.answer, found.solution) == ("1250", "1000+250=1250")


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"Prompt": "a", "Target": "1"}, {}, ("a", "1")),
        ({"instruction": "Sort.", "input": "3, 1", "output": "1, 3"}, {}, ("Sort.\n\n3, 1", "")),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, {}, ("Say hi.", "")),
        ({"problem": "a", "solution": r"so \boxed{3}", "answer": "3"}, {}, ("a", "3")),
        ({"problem": "a", "solution": r"so \boxed{3}"}, {}, ("a", r"so \boxed{3}")),
        ({"text": "a", "gold": 7}, {"problem": "text", "answer": "gold"}, ("a", "7")),
        ({"problem": "a", "answer": "x"}, {"answer": ""}, ("a", "")),
        ({"problem": "a", "answer": None}, {}, ("a", "")),
    ],
)  # fmt: skip
def test_fields_are_found_or_named(
    row: dict[str, object], fields: dict[str, str], expected: tuple[str, str], tmp_path: Path
) -> None:
    assert asked(write(tmp_path / "d.jsonl", [row]), **fields) == [expected]


def test_the_first_turn_of_a_conversation_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ShareGPT's turns and chat messages; a conversation that the assistant begins, a text in parts, and one without a user."""
    rows: list[dict[str, object]] = [
        {"id": "a", "conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "x"}]},
        {"id": "b", "conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "two"}]},
        {"id": "c", "conversations": []},
        {"id": "d", "conversations": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "three"}]}]},
    ]  # fmt: skip
    path = write(tmp_path / "sharegpt.json", rows)
    assert asked(path) == [("one", ""), ("two", ""), ("three", "")]
    assert read(path).facts == {"skipped": 1, "answers": 0}
    said = capsys.readouterr().err
    assert "1 of 4 conversations have no turn of the user" in said
    assert "not graded" in said


def test_a_folder_of_the_hub_is_asked_for_by_split(tmp_path: Path) -> None:
    """The parts of a split are one data set, configurations are told apart, and a missing part is not overlooked."""
    for number in range(2):
        write(tmp_path / f"data/test-0000{number}-of-00002.parquet", [{"question": f"q{number}", "answer": "1"}])
    write(tmp_path / "data/train-00000-of-00001.parquet", [{"question": "t", "answer": "1"}])
    (tmp_path / "README.md").write_text("about")
    assert [problem for problem, _ in asked(f"{tmp_path}:test")] == ["q0", "q1"]
    assert [problem for problem, _ in asked(f"{tmp_path}:data/train-00000-of-00001.parquet")] == ["t"]
    with pytest.raises(UsageError, match=r"no file fits 'dev'\? It has data/test.parquet, data/train.parquet: write"):
        read(f"{tmp_path}:dev")
    with pytest.raises(UsageError, match="which part"):
        read(tmp_path)
    (tmp_path / "data/test-00001-of-00002.parquet").unlink()
    with pytest.raises(UsageError, match="only 1 of 2 parts"):
        read(f"{tmp_path}:test")


def test_a_configuration_selects_between_files_of_one_split() -> None:
    names = ["main/test-00000-of-00001.parquet", "socratic/test-00000-of-00001.parquet", "main/train.parquet"]
    assert files_of("hf:o/n", names, "main/test") == names[:1]
    with pytest.raises(UsageError, match=r"several files fit 'test'\? It has main/test.parquet, socratic/test.parquet"):
        files_of("hf:o/n", names, "test")
    assert files_of("hf:o/n", ["gpqa_diamond.csv", "gpqa_main.csv"], "gpqa_diamond") == ["gpqa_diamond.csv"]
    assert files_of("hf:o/n", ["all.csv", ".hidden.json", "README.md"], "train") == ["all.csv"]


@pytest.mark.parametrize(
    ("content", "suffix", "fields", "says"),
    [
        ("frage,antwort\na,1\n", "csv", "", "row 1: no field holds the problem, and the row has the fields frage, antwort"),
        ("frage,antwort\na,1\n", "csv", "problem=fragen", "row 1: --fields names 'fragen', and the row has the fields"),
        ('question,answer\na,1\n"",2\n', "csv", "", "row 2: `question` is missing, empty or not text"),
        ("question,answer\na,1,2\n", "csv", "", "row 1: has more cells than the first line has names"),
        ('question,answer\na,1\n"b,2\nc,3\n', "csv", "", "d.csv: after line 2: cannot be read as CSV (unexpected end"),
        ('question,answer\n"a,1\n"b",2\n', "csv", "", "d.csv: after line 1: cannot be read as CSV (',' expected"),
        ("question,answer,answer\na,1,2\n", "csv", "", "the first line has the name 'answer' twice"),
        ("question,answer\na,1\n", "csv", "problem=answer,problem=question", "has two names for one field"),
        ("no parquet", "parquet", "", "is no Parquet file"),
        ("{", "json", "", "this is not JSON"),
        ("3", "json", "", "row 1: this is not a JSON object"),
        ("", "csv", "", "the file has no problem"),
        ("", "jsonl", "prblem=x", "'prblem': write problem|answer|id|subject|level=FIELD"),
    ],
)  # fmt: skip
def test_what_a_file_lacks_is_one_line(content: str, suffix: str, fields: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.{suffix}"
    path.write_text(content)
    given = ("--fields", fields) if fields else ()
    done = loadgen("--dataset", str(path), "--target", "http://127.0.0.1:9/v1", *given)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [("sampel", "did you mean sample?"), ("{}/mine.jsnl", "did you mean {}/mine.jsonl?"), ("hf:gsm8k:test", "write hf:OWNER/NAME:SPLIT")],
)  # fmt: skip
def test_a_mistyped_name_gets_a_suggestion(name: str, says: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", [*ROWS])
    with pytest.raises(UsageError) as caught:
        read(name.format(tmp_path))
    assert says.format(tmp_path) in str(caught.value)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*ROWS])
    before = read(path).sha256
    write(path, [*ROWS, {"question": "more", "answer": "1"}])
    assert read(path).sha256 != before


def test_the_emulator_gets_the_problems_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write(tmp_path / "d.csv", [{"question": "Pens?", "answer": "2+2=<<2+2=4>>4 #### 4"}])
    (line,) = Path(emulator_file(RunOptions(dataset=str(path)))).read_text().splitlines()
    assert json.loads(line) == {"unique_id": "row/1", "problem": "Pens?", "answer": "4", "solution": "2+2=4"}
    plain = write(tmp_path / "d.jsonl", [{"problem": "a", "answer": "1"}])
    assert emulator_file(RunOptions(dataset=str(plain))) == str(plain)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """A pipe without a writer would never end."""
    os.mkfifo(tmp_path / "d.jsonl")
    with pytest.raises(UsageError, match=r"d.jsonl: is no regular file"):
        asked(tmp_path / "d.jsonl")
