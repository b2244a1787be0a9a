"""A key goes nowhere but to the server that was named with it, and is stored and shown nowhere."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cli import main
from loadgen.distributed.web_page import refusal, wrong_field
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.record import RunInfo, write_run
from loadgen.redaction import HIDDEN, Redactor
from loadgen.sweep.command import expanded
from loadgen.sweep.manifest import Manifest
from loadgen.target.control_api import secrets

KEYS = st.text(st.characters(codec="utf-8"), min_size=4).filter(lambda key: "***" not in key)


@given(KEYS, st.text(), st.text())
def test_a_repeated_key_is_removed_also_where_it_is_escaped(key: str, before: str, after: str) -> None:
    """The server puts the key into a text, into JSON, and into JSON inside JSON."""
    once = json.dumps({"error": key})
    for text in (before + key + after, once, json.dumps({"body": once})):
        cleaned = Redactor([key]).text(text)
        assert key not in cleaned or key in HIDDEN + before + after
        line = json.dumps({"seq": 1, "run_id": "r", "error": text}, ensure_ascii=False, separators=(",", ":"))
        stored = json.loads(Redactor([key]).line(line.encode(errors="replace")))
        assert stored["seq"] == 1
        assert stored["run_id"] == "r"


@pytest.mark.parametrize("key", ["sk-plain", 'sk-"quoted"', "sk-back\\slash", "sk-größe", "sk-'<&>/"])
@pytest.mark.parametrize("spelling", [str, json.dumps, repr, html.escape, lambda key: quote(key, safe="")])
def test_a_key_is_removed_in_every_spelling(key: str, spelling: Callable[[str], str]) -> None:
    shown = Redactor([key]).text(f"before {spelling(key)} after")
    assert key not in shown
    assert shown.replace('"', "").replace("'", "") == f"before {HIDDEN} after"


def test_a_short_value_is_no_secret() -> None:
    assert Redactor(["b", ""]).text("a b c") == "a b c"


def test_a_key_of_digits_does_not_damage_numbers() -> None:
    line = Redactor(["12345"]).line(b'{"seq":12345,"due_s":0.12345,"error":"bad key 12345"}')
    assert json.loads(line) == {"seq": 12345, "due_s": 0.12345, "error": f"bad key {HIDDEN}"}


def test_values_of_headers_with_credentials_are_removed() -> None:
    options = RunOptions(headers=(("Authorization", "Bearer abc\\def"), ("Accept", "text/plain")))
    redactor = Redactor(secrets(options, all_headers=False))
    assert redactor.text('no "abc\\def", text/plain') == f'no "{HIDDEN}", text/plain'
    assert "abc" not in redactor.text(json.dumps("Bearer abc\\def"))


def run_from_elsewhere(folder: Path, target: str) -> None:
    folder.mkdir()
    options = {"target": target, "api_key_env": "HOME"}
    clock = {"wall_s": 0.0, "perf_s": 0.0}
    run = RunInfo(run_id="r", config="c", model="m", target=target, started_at="", clock=clock, options=options)
    write_run(folder, run)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "give --api-key-env HOME again"),
        (("--target", "http://127.0.0.1:9/v1"), "the run's server is http://192.0.2.1/v1, not http://127.0.0.1:9/v1"),
        (("--target", "http://127.0.0.1:9/v1", "--api-key-env", "HOME"), "the run's server is http://192.0.2.1/v1"),
    ],
)
def test_a_folder_from_elsewhere_cannot_choose_where_a_key_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str
) -> None:
    run_from_elsewhere(tmp_path / "run", "http://192.0.2.1/v1")
    assert main(["--resume", str(tmp_path / "run"), *more]) == 2
    messages = capsys.readouterr().err
    assert says in messages
    assert messages.count("\n") == 1


def test_a_sweep_from_elsewhere_cannot_send_a_key(tmp_path: Path) -> None:
    """The values of headers are not saved, and a key and headers are asked for again."""
    saved = ["--configs", "tp1", "--header", f"X-Key: {HIDDEN}", "--api-key-env", "HOME"]
    Manifest.new(tmp_path, saved, [], {}).write()
    resume = ["--resume", str(tmp_path)]
    with pytest.raises(UsageError, match="the header 'X-Key' is not saved: give --header again"):
        expanded(resume)
    with pytest.raises(UsageError, match="give --api-key-env HOME again"):
        expanded([*resume, "--header", "X-Key: 1"])
    given = ["--header", "X-Key: 1", "--api-key-env", "HOME"]
    assert expanded([*resume, *given]) == ["--configs", "tp1", *resume, *given]


def test_sweep_json_has_no_value_of_a_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    words = ["--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--backend", "simulate", "--dataset", "sample"]
    words += ["--problems", "2", "--budgets", "64", "--concurrency", "2", "--out", str(out)]
    assert main(["sweep", *words, "--header", "X-Key: s3cret", "--header=Y: s3cret"]) == 0
    assert "s3cret" not in "".join(path.read_text() for path in out.rglob("*.json*"))


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Host": "127.0.0.1:8089"}, False),
        ({"Host": "127.0.0.1:8089", "Origin": "http://127.0.0.1:8089"}, False),
        ({"Host": "[::1]:8089"}, False),
        ({"Host": "localhost:8089", "Origin": "http://localhost:8089", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Host": "loads.example:8089"}, False),
        ({"Host": "127.0.0.1:8089", "Origin": "http://evil.example"}, True),
        ({"Host": "127.0.0.1:8089", "Origin": "null"}, True),
        ({"Host": "127.0.0.1:8089", "Origin": "http://127.0.0.1:8090"}, True),
        ({"Host": "127.0.0.1:8089", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Host": "evil.example:8089", "Origin": "http://evil.example:8089"}, True),
        ({"Host": "[::1"}, True),
        ({}, True),
    ],
)
def test_locusts_page_is_for_itself_only(headers: dict[str, str], refused: bool) -> None:
    assert (refusal("POST", "/swarm", headers, "loads.example") is not None) == refused


def test_a_form_cannot_name_a_host_a_key_or_a_file() -> None:
    assert wrong_field(["user_count", "spawn_rate", "budgets", "budget_mode", "rate"]) is None
    for name in ("target", "dataset", "out", "more", "html_file", "csv_prefix", "logfile", "web_host", "config"):
        assert wrong_field(["user_count", name]) == name
