"""`python -m loadgen` against the emulated server, as a user runs it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadgen.chunks import read_chunks
from loadgen.record import Record, read_records, read_run
from tests.fixtures.emulated import emulated, loadgen

SPEED = ("--speed", "40")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", *SPEED) as url:
        yield url


def records(folder: Path) -> list[Record]:
    return list(read_records(folder / "records.jsonl"))


def test_every_problem_and_budget_is_recorded_exactly_once(target: str, tmp_path: Path) -> None:
    """The folder contains all that the analysis needs, and the last line on stdout contains the result."""
    out = tmp_path / "run"
    done = loadgen("--target", target, "--dataset", "sample", "--budgets", "64,256", "--out", str(out))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    found = records(out)
    problems = [json.loads(row) for row in (out / "problems.jsonl").read_text().splitlines()]
    assert sorted((r.problem_id, r.budget) for r in found) == sorted(
        (p["unique_id"], b) for p in problems for b in (64, 256)
    )
    assert "problem" not in problems[0]
    assert line["requests"] == len(found)
    assert line["outcomes"] == {"ok": len(found)}
    assert {r.seq for r in found} == set(range(len(found)))
    run = read_run(out)
    assert (run.config, run.emulated, run.time_scale, run.preset) == ("tp1", True, 40.0, "r1-distill-qwen-1.5b")
    assert run.verdict == line["verdict"]
    assert run.energy["source"] == "emulated"
    assert (out / "server-before.prom").stat().st_size > 0
    assert (out / "gpu.csv").read_text().startswith("t_s,gpu,power_w")
    counts = {c.seq: sum(c.tokens) for c in read_chunks(out / "chunks.bin")}
    assert counts == {r.seq: r.completion_tokens for r in found}


def test_a_duration_goes_through_the_plan_again_and_marks_the_pass(target: str, tmp_path: Path) -> None:
    """With --duration, the warm-up requests come first, and the records of later passes are numbered."""
    out = tmp_path / "run"
    options = ("--dataset", "sample", "--problems", "3", "--budgets", "8", "--duration", "120", "--warmup", "4")
    done = loadgen("--target", target, *options, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert sorted(r.seq for r in found if r.warmup) == [0, 1, 2, 3]
    assert max(r.repeat for r in found) > 0
    assert json.loads(done.stdout.splitlines()[-1])["requests"] == len(found) - 4


def test_an_open_loop_sends_on_schedule(target: str, tmp_path: Path) -> None:
    """The due times are those of the schedule, in model seconds, whatever the speed of the server."""
    out = tmp_path / "run"
    options = ("--dataset", "sample", "--budgets", "16", "--rate", "2", "--arrival", "constant", "--requests", "20")
    done = loadgen("--target", target, *options, "--out", str(out))
    assert done.returncode == 0, done.stderr
    due = sorted(r.due_s for r in records(out))
    assert due[-1] - due[0] == pytest.approx(19 / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--target", "http://127.0.0.1:9/v1"), "no server at http://127.0.0.1:9/v1"),
        (("--target", "ftp://x"), "is not an http(s) URL"),
        (("--model", "gpt-9"), "--model 'gpt-9' is not served"),
        (("--model", ""), "--model is empty"),
        (("--dataset", "none.jsonl"), "none.jsonl"),
        (("--budgets", "1024,x"), "'x' is not a number of tokens"),
        (("--budgets", "0"), "'0' is not a number of tokens"),
        (("--budgets", "64k"), "max_model_len"),
        (("--problems", "1000"), "--problems 1000"),
        (("--budget-mode", "forced", "--prompt", "chat"), "no raw template"),
        (("--prompt", "nice"), "'nice' is not a prompt style"),
        (("--ca-file", "/nowhere.pem"), "--ca-file /nowhere.pem: No such file or directory: give a PEM file"),
        (("--one-pass", "--temperature", "0.6"), "--one-pass needs greedy"),
        (("--rate", "2", "--concurrency", "3"), "closed loop"),
        (("--arrival", "constant"), "--arrival constant needs a rate"),
        (("--arrival", "burst:x", "--rate", "2"), "'x' is not a whole number"),
        (("--slo", "speed=3"), "--slo: 'speed'"),
        (("--concurrency", "0"), "--concurrency: '0' is not a whole number from 1 to"),
        (("--samples", "9" * 20), "--samples: '99999999999999999999' is not a whole number from 1 to"),
        (("--budgets", "9" * 20), "'99999999999999999999' is not a number of tokens"),
        (("--duration", "1e300"), "--duration: '1e300' is above 1,000,000,000"),
        (("--rate", "1e8", "--duration", "10m"), "more than 10,000,000 requests"),
        (("--arrival", "burst", "--requests", "999999999"), "more than 10,000,000 requests"),
        (("--arrival", "gamma:1e-9", "--rate", "5", "--duration", "1m"), "more than 10,000,000 requests"),
        (("--dataset", "synthetic:input=1,input=9,output=3"), "write synthetic:input=512,output=256"),
        (("--extra-body", '{"top_k": NaN}'), "the text is not JSON"),
        (("--extra-body", '{"stop": "\\ud800"}'), "the text is not JSON"),
        (("--header", "Content-Length: 3"), "--header: Content-Length"),
        (("--header", "X-Key: a\nb"), "--header: write 'NAME: VALUE'"),
        (("--workers", "300"), "--workers: '300' is above 256 processes"),
        (("--label", "name=\udcff"), "is not UTF-8"),
        (("--metrics-host", "a..b", "--metrics-port", "9464"), "cannot listen on a..b:9464"),
        (("--warmup", "-1"), "--warmup: '-1' is not a whole number"),
        (("--top-p", "7"), "--top-p: '7' is above one"),
        (("--gpu-metrics", "here"), "--gpu-metrics: 'here' is not an http(s) URL"),
        (("--gpu-metrics", "http://127.0.0.1:9/metrics"), "--gpu-metrics http://127.0.0.1:9/metrics: connection refused"),
        (("--api-key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE: that variable is not set"),
        (("--times", "none.txt"), "none.txt"),
        (("--resume", "none"), "--resume none"),
        (("--wat",), "--wat"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_sent(
    target: str, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """The exit code is 2, one line names the option, and no folder is made."""
    out = () if "--resume" in options else ("--out", str(tmp_path / "run"))
    done = loadgen("--target", target, "--dataset", "sample", *out, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_lines_are_named_by_file_and_line(target: str, tmp_path: Path) -> None:
    """A line that is not JSON or has no problem or answer is refused with its file and number."""
    bad = tmp_path / "bad.jsonl"
    good = '{"problem": "1+1?", "answer": 2}'
    for line, says in (("{", "is not JSON"), ('{"answer": "2"}', "`problem`"), ('{"problem": "x"}', "`answer`")):
        bad.write_text(f"{good}\n{line}\n")
        done = loadgen("--target", target, "--dataset", str(bad), "--out", str(tmp_path / "run"))
        assert (done.returncode, f"{bad}:2" in done.stderr, says in done.stderr) == (2, True, True), done.stderr


def test_an_existing_folder_is_left_alone(target: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    done = loadgen("--target", target, "--dataset", "sample", "--out", str(tmp_path))
    assert (done.returncode, "exists" in done.stderr) == (2, True)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        ((), "use --cache salt"),
        (("--cache", "keep"), None),
        (("--cache", "salt"), None),
        (("--cache", "reset"), "reset"),
    ],
)
def test_the_hits_of_the_prefix_cache_must_fit_the_option_cache(
    caching: str, tmp_path: Path, cache: tuple[str, ...], says: str | None
) -> None:
    """Two budgets send each problem twice. Unintended hits are a reason against the run; salted requests have none."""
    options = ("--dataset", "sample", "--budgets", "8,16", *cache, "--out", str(tmp_path / "run"))
    done = loadgen("--target", caching, *options)
    reasons = [r for r in json.loads(done.stdout.splitlines()[-1])["reasons"] if "prefix cache" in r]
    assert bool(reasons) == (says is not None), done.stderr
    assert says is None or says in reasons[0]


@pytest.fixture(scope="module")
def caching() -> Iterator[str]:
    with emulated("tp1", *SPEED, "--enable-prefix-caching") as url:
        yield url


@pytest.mark.parametrize("version", ["0.26", "0.32"])
@pytest.mark.parametrize("text", ["loop", "random"])
def test_a_run_reports_the_drafted_and_the_accepted_tokens(text: str, version: str, tmp_path: Path) -> None:
    """A text that repeats itself has an accepted draft in nearly every step; 0.32 fills the end of each with wrong tokens.

    For a random text, 0.26 drafts in few steps and 0.32 in all of them.
    """
    with emulated("tp1-ngram", *SPEED, "--text", text, "--engine-version", version) as url:
        out = tmp_path / "run"
        more = ("--temperature", "1", "--extra-body", '{"ignore_eos":true}')
        done = loadgen(
            "--target", url, "--dataset", "sample", "--requests", "4", "--warmup", "2",
            "--concurrency", "1", "--budgets", "256", *(more if text == "random" else more[2:]), "--out", str(out),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = read_run(out).summary["speculation"]
    made = sum(record.completion_tokens or 0 for record in records(out) if not record.warmup)
    if text == "loop":
        assert 0.9 * found["steps"] < found["drafts"] <= found["steps"]
        assert found["tokens_per_step"] > 2.5
        assert (found["acceptance_rate"] > 0.9) == (version == "0.26")
    else:
        assert (found["drafts"] < 0.3 * found["steps"]) == (version == "0.26")
        assert found["accepted_tokens"] < 0.1 * found["draft_tokens"]
    accepted, drafts = found["accepted_tokens"], found["drafts"]
    assert found["tokens_per_step"] == pytest.approx(1 / (1 - found["accepted_fraction"]), rel=0.05)
    assert found["tokens_per_drafting_step"] == pytest.approx(1 + accepted / drafts)
    assert sum(found["accepted_at_position"]) == pytest.approx(accepted / drafts)
    assert found["steps"] + found["accepted_tokens"] == pytest.approx(made, rel=0.05)
    assert "drafted tokens accepted" in done.stderr


def test_no_text_keeps_prompts_and_answers_out(target: str, tmp_path: Path) -> None:
    """The folder contains no words of problems or answers, but their counts and times."""
    out = tmp_path / "run"
    data = tmp_path / "d.jsonl"
    data.write_text('{"problem": "What is XYZZY plus 1?", "answer": "PLUGH"}\n')
    options = ("--dataset", str(data), "--budgets", "32,64", "--no-text", "--one-pass", "--out", str(out))
    done = loadgen("--target", target, *options)
    assert done.returncode == 0, done.stderr
    assert all(r.text is None and r.reasoning is None and r.completion_tokens for r in records(out))
    everything = b"".join(p.read_bytes() for p in out.iterdir())
    assert b"XYZZY" not in everything


def test_samples_are_separate_requests_with_numbered_records(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (
        "--dataset",
        "sample",
        "--problems",
        "4",
        "--samples",
        "3",
        "--sampling",
        "recommended",
        "--budgets",
        "64",
    )
    assert loadgen("--target", target, *options, "--out", str(out)).returncode == 0
    found = records(out)
    assert sorted(r.sample for r in found) == [0] * 4 + [1] * 4 + [2] * 4
    assert read_run(out).sampling == {"name": "recommended", "prompt": "r1", "temperature": 0.6, "top_p": 0.95}


def test_strict_gives_the_verdict_as_exit_code(target: str, tmp_path: Path) -> None:
    """Three requests are too few for a p90: the run is SUSPECT, and the exit code is 3."""
    options = ("--dataset", "sample", "--problems", "3", "--budgets", "8", "--strict", "--out", str(tmp_path / "run"))
    done = loadgen("--target", target, *options)
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["verdict"]) == (3, "SUSPECT")


def test_a_dry_run_sends_and_writes_nothing(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = loadgen("--target", target, "--dataset", "sample", "--budgets", "8,16", "--dry-run", "--out", str(out))
    assert (done.returncode, "would send 98 requests" in done.stderr, out.exists()) == (0, True, False)


def test_a_key_that_a_server_repeats_is_removed(tmp_path: Path) -> None:
    """If a server repeats the Authorization header in an error, the record contains the error without the key."""
    key = "sk-echoed-0815"
    with echoing() as url:
        options = ("--target", url, "--model", "m", "--dataset", "sample", "--problems", "2", "--budgets", "8")
        done = loadgen(*options, "--api-key-env", "MY_KEY", "--out", str(tmp_path / "run"), env={"MY_KEY": key})
    found = records(tmp_path / "run")
    assert {r.outcome for r in found} == {"http_error"}
    assert all("***" in (r.error or "") for r in found)
    everything = b"".join(p.read_bytes() for p in (tmp_path / "run").iterdir())
    assert key.encode() not in everything + done.stdout.encode() + done.stderr.encode()


@contextmanager
def echoing() -> Iterator[str]:
    """A server that answers every request with a 400 that repeats the key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            body = json.dumps({"error": {"message": f"bad {self.headers['Authorization']}"}}).encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
