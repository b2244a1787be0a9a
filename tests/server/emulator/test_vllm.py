"""Compares the emulator with a real vLLM 0.32.0 on the CPU, both with the same outputs (`make test-vllm`).

The tests do not run in CI: they need an environment of their own (Python 3.11, a CPU build of torch, 4 GB) and some
minutes on two cores. The model is shared/memo-20m, which has memorized MATH-500. The emulator replays the outputs of vLLM.
"""

import contextlib
import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.emulator.engine.ngram import NgramProposer
from server.speculation import Ngram
from tests import ROOT
from tests.fixtures.parallel import free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
HERE = ROOT / "tests" / "vllm"
SPECULATION = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 1, "prompt_lookup_max": 4}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
REFUSED = list(map(json.loads, (HERE / "refused.jsonl").read_text().splitlines()))
START_S = 300
QUESTIONS = 12
MAX_TOKENS = 600  # some outputs end by themselves, others are cut


@dataclass
class Answer:
    """The chunks of one streamed response."""

    chunks: list[dict[str, Any]]

    @property
    def ids(self) -> list[int]:
        """The token ids of the output."""
        return [
            token for chunk in self.chunks for choice in chunk["choices"] for token in choice.get("token_ids") or ()
        ]

    @property
    def text(self) -> str:
        """The content of the output."""
        return "".join(choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk["choices"])

    @property
    def finish(self) -> str | None:
        """The finish reason."""
        return next(
            (
                choice["finish_reason"]
                for chunk in self.chunks
                for choice in chunk["choices"]
                if choice["finish_reason"]
            ),
            None,
        )

    def kinds(self) -> list[tuple[str, ...]]:
        """The keys of each chunk. Equal neighbors are listed once, because their number depends on timing."""
        kinds: list[tuple[str, ...]] = []
        for chunk in self.chunks:
            kind = tuple(sorted(keys(chunk)))
            if not kinds or kinds[-1] != kind:
                kinds.append(kind)
        return kinds


@dataclass
class Served:
    """The responses of one server."""

    answers: list[Answer]
    metrics: str
    refusals: list[tuple[int, dict[str, Any]]]
    """Status and error of each body of refused.jsonl."""


def keys(value: object, path: str = "") -> Iterator[str]:
    """Every key of a chunk with the type of its value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{path}.{key}:{'null' if inner is None else type(inner).__name__}"
            yield from keys(inner, f"{path}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        yield from keys(value[0], f"{path}[]")


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The `vllm` command of the environment that `make test-vllm` creates."""
    command = Path(os.environ.get("THINKLOAD_VLLM", "")).resolve()
    if not os.environ.get("THINKLOAD_VLLM"):
        pytest.skip("opt-in: `make test-vllm` makes vLLM's environment and sets THINKLOAD_VLLM")
    if not command.is_file():
        why = command.parent.parent / "why"
        pytest.skip(why.read_text().strip() if why.is_file() else f"no vLLM at {command}")
    return command


@pytest.fixture(scope="session")
def memo(shared: Path) -> Path:
    folder = shared / "memo-20m"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return folder


@pytest.fixture(scope="session")
def questions(shared: Path) -> list[str]:
    lines = (shared / "math500.jsonl").read_text().splitlines()
    return [json.loads(line)["problem"] for line in lines[:: len(lines) // QUESTIONS]][:QUESTIONS]


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[int]:
    """A server that is ready; it is stopped at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **env}, cwd=ROOT)
        try:
            deadline = time.monotonic() + START_S
            while not healthy(port):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, f"not up in {START_S} s: {log}"
                time.sleep(0.5)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def ask(port: int, question: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = {
        "model": "memo", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": MAX_TOKENS,
        "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "return_token_ids": True,
    }  # fmt: skip
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    events = [line[6:] for line in response.read().split(b"\n") if line.startswith(b"data: ")]
    connection.close()
    assert events.pop() == b"[DONE]"
    return Answer([json.loads(event) for event in events])


def send(port: int, method: str, path: str, sent: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, sent, {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def refusal(port: int, wrong: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    path = "/v1/chat/completions" if "messages" in wrong else "/v1/completions"
    status, text = send(port, "POST", path, json.dumps({"model": "memo"} | wrong))
    return status, json.loads(text).get("error", {})


def use(port: int, questions: Sequence[str]) -> Served:
    answers = [ask(port, question) for question in questions]
    metrics = send(port, "GET", "/metrics")[1]
    return Served(answers, metrics, [refusal(port, wrong) for wrong in REFUSED])


@pytest.fixture(scope="session", params=["plain", "ngram"])
def both(
    request: pytest.FixtureRequest,
    vllm: Path,
    memo: Path,
    questions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Served, Served]:
    """The responses of vLLM and of the emulator, which replays vLLM's outputs, to the same questions."""
    folder = tmp_path_factory.mktemp(request.param)
    options = ["--served-model-name", "memo", "--dtype", "bfloat16", "--max-model-len", "4096", "--no-enable-prefix-caching",
               "--max-num-batched-tokens", "8192", "--max-num-seqs", "16", "--seed", "0"]  # fmt: skip
    if request.param == "ngram":
        options += ["--speculative-config", json.dumps(SPECULATION)]
    port = free_port()
    command = [str(vllm), "serve", str(memo), *options, "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, folder / "vllm.log", OFFLINE):
        real = use(port, questions)
    recorded = folder / "recorded.jsonl"
    rows = zip(questions, real.answers, strict=True)
    recorded.write_text("".join(json.dumps({"problem": q, "ids": answer.ids}) + "\n" for q, answer in rows))
    # transformers 5 may split text otherwise than tokenizer.json says, so the emulator gets the tokenizer that vLLM uses.
    script = "import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1]).backend_tokenizer.save(sys.argv[2])"
    used = [str(vllm.with_name("python")), "-c", script, str(memo), str(folder / "tokenizer.json")]
    subprocess.run(used, check=True, env={**os.environ, **OFFLINE}, capture_output=True)
    port = free_port()
    command = [sys.executable, "-m", "server", "emulate", "tp1", "--model", str(HERE / "memo-20m.yaml"), "--text",
               str(recorded), "--port", str(port), "--speed", "4", *options, "--tokenizer", str(folder)]  # fmt: skip
    with serving(command, port, folder / "emulator.log", {}):
        emulated = use(port, questions)
    return real, emulated


def test_the_emulator_writes_what_vllm_wrote(both: tuple[Served, Served]) -> None:
    """Ids, text, finish reasons and token counts, request by request."""
    real, emulated = both
    for one, other in zip(real.answers, emulated.answers, strict=True):
        assert other.ids == one.ids
        assert other.text == one.text
        assert other.finish == one.finish
        assert other.chunks[-1]["usage"] == one.chunks[-1]["usage"]


def test_chunks_have_the_same_keys_in_the_same_order(both: tuple[Served, Served]) -> None:
    """Keys and types of all chunks from the role chunk to the usage chunk."""
    real, emulated = both
    for one, other in zip(real.answers, emulated.answers, strict=True):
        assert other.kinds() == one.kinds()


def test_the_same_bodies_are_refused_in_the_same_words(both: tuple[Served, Served]) -> None:
    """Messages are equal, except for type errors: vLLM lists one error for each type that a field may have."""
    real, emulated = both
    for wrong, (status, error), (other_status, other) in zip(REFUSED, real.refusals, emulated.refusals, strict=True):
        assert (other_status, other["type"]) == (status, error["type"]), wrong
        if error["type"] == "Bad Request":
            assert error["param"].startswith(other["param"]), wrong
        else:
            assert other == error, wrong


def families(metrics: str) -> dict[str, str]:
    """Names and types of the metrics that begin with `vllm:`."""
    return dict(re.findall(r"^# TYPE (vllm:\S+) (\S+)$", metrics, re.MULTILINE))


def test_metrics_have_the_same_names_and_types(both: tuple[Served, Served]) -> None:
    real, emulated = both
    assert families(emulated.metrics) == families(real.metrics)


def counted(metrics: str, name: str) -> list[float]:
    """The samples of a counter, ordered by the label `position` if it has one."""
    lines = re.findall(rf"^{name}(?:{{[^}}]*?(?:position=\"(\d+)\")?[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    return [float(value) for _, value in sorted(lines, key=lambda line: int(line[0] or 0))]


def test_positions_are_accepted_in_the_same_order(both: tuple[Served, Served]) -> None:
    """On both servers acceptance decreases with the position, and the numbers are nearly equal."""
    real, emulated = (counted(each.metrics, "vllm:spec_decode_num_accepted_tokens_per_pos_total") for each in both)
    if not real:
        pytest.skip("no speculation in this configuration")
    print(f"accepted by position: vLLM {real}, emulator {emulated}")
    assert sorted(range(5), key=lambda at: -real[at]) == sorted(range(5), key=lambda at: -emulated[at])
    assert real == sorted(real, reverse=True)
    assert emulated == pytest.approx(real, rel=0.03)


def test_drafts_equal_vllm_s_own(vllm: Path) -> None:
    """20,000 random contexts with few different tokens, with lengths 1 to 4 and 2 to 3."""
    rng = random.Random(7)
    for k, min_n, max_n in ((5, 1, 4), (3, 2, 3)):
        contexts = [rng.choices(range(rng.randint(1, 9)), k=rng.randint(1, 60)) for _ in range(10_000)]
        run = subprocess.run(
            [str(vllm.with_name("python")), str(HERE / "drafts.py")], input=json.dumps([k, min_n, max_n, contexts]),
            capture_output=True, text=True, check=False, env={**os.environ, **OFFLINE},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        theirs = json.loads(run.stdout.splitlines()[-1])
        assert [NgramProposer(Ngram(k, min_n, max_n), context).propose() for context in contexts] == theirs
