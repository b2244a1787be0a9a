"""The emulator answers as vLLM did: the same chunks, keys in the same order, errors and metrics as recorded."""

import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fixtures.emulated import emulated
from tests.fixtures.golden import GOLDEN, body, catalogue, events, headers, shape, shapes

V32 = GOLDEN / "vllm-0.32.0"
TINY = """
id: /models/tiny
prompt: chat
dtype: bfloat16
shape: {hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64,
        intermediate_size: 688, vocab_size: 4096, tie_word_embeddings: true}
"""
NGRAM = '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4,"prompt_lookup_min":2}'
# Slower than real time, so that chunks are not merged on a busy test machine.
COMMON = (
    "--served-model-name",
    "tiny",
    "--max-model-len",
    "2048",
    "--max-num-seqs",
    "16",
    "--text",
    "loop",
    "--speed",
    "0.02",
)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "What is 2+2? Answer briefly."}], "max_tokens": 8}
CHAT |= {"temperature": 0, "ignore_eos": True}
TEXT = {"model": "tiny", "prompt": "def f(x):", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
EACH = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def base(tiny: Path) -> Iterator[str]:
    with emulated("tp1", *COMMON, model=str(tiny)) as target:
        yield target


@pytest.fixture(scope="module")
def ngram(tiny: Path) -> Iterator[str]:
    flags = ("--speculative-config", NGRAM, "--enable-prompt-tokens-details", "--enable-server-load-tracking")
    with emulated("tp1", *COMMON, *flags, model=str(tiny)) as target:
        yield target


def call(target: str, path: str, sent: object = None, *, method: str = "POST", **extra: str) -> str:
    """The response to one request in the format of `curl -i`."""
    data = sent if isinstance(sent, str) else json.dumps(sent)
    fields = {"content-type": "application/json", "connection": "close", **extra}
    with closing(http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)) as connection:
        connection.request(method, path, data, fields)
        answer = connection.getresponse()
        lines = [f"{name}: {value}" for name, value in answer.getheaders()]
        with closing(answer):
            text = answer.read().decode()
    return "\n".join([f"HTTP/1.1 {answer.status} {answer.reason}", *lines]) + "\n\n" + text


def recorded(name: str) -> str:
    return (V32 / name).read_text()


@pytest.mark.parametrize(
    ("name", "path", "sent"),
    [
        ("chat-stream-include_usage", "/v1/chat/completions", CHAT | USAGE),
        ("chat-stream-continuous_usage", "/v1/chat/completions", CHAT | EACH),
        ("chat-stream-return_token_ids", "/v1/chat/completions", CHAT | USAGE | {"return_token_ids": True}),
        ("comp-stream-plain", "/v1/completions", TEXT | {"stream": True}),
        ("comp-stream-include_usage", "/v1/completions", TEXT | USAGE),
        ("comp-stream-continuous_usage", "/v1/completions", TEXT | EACH),
        ("comp-stream-return_token_ids", "/v1/completions", TEXT | {"stream": True, "return_token_ids": True}),
    ],
)
def test_streams_have_the_recorded_chunks(base: str, name: str, path: str, sent: dict[str, object]) -> None:
    """Chunks, their keys in order, null values and the last events are equal; ids, times and text may differ."""
    expected, actual = recorded(f"base-{name}.txt"), call(base, path, sent)
    assert shapes(body(expected)) == shapes(body(actual))
    wanted = headers(expected)
    assert wanted.items() <= headers(actual).items()


@pytest.mark.parametrize("name", ["chat-stream-continuous_usage", "chat-stream-return_token_ids", "comp-stream-continuous_usage", "comp-stream-return_token_ids"])  # fmt: skip
def test_speculation_changes_only_how_many_tokens_a_chunk_holds(ngram: str, name: str) -> None:
    chat = name.startswith("chat")
    sent = (CHAT if chat else TEXT) | (EACH if "usage" in name else {"stream": True, "return_token_ids": True})
    if chat and "ids" in name:
        sent |= USAGE
    path = "/v1/chat/completions" if chat else "/v1/completions"
    expected, actual = recorded(f"ngram-{name}.txt"), call(ngram, path, sent)
    assert shapes(body(expected)) == shapes(body(actual))
    sizes = [len(json.loads(event)["choices"][0].get("token_ids") or []) for event in events(actual)[:-2]]
    assert max(sizes) > 1 or "ids" not in name


@pytest.mark.parametrize(
    ("name", "path", "sent"),
    [("chat-nonstream", "/v1/chat/completions", CHAT), ("comp-nonstream", "/v1/completions", TEXT)],
)
def test_whole_answers_have_the_recorded_keys(base: str, name: str, path: str, sent: dict[str, object]) -> None:
    expected, actual = recorded(f"base-{name}.txt"), call(base, path, sent)
    assert shape(json.loads(body(expected))) == shape(json.loads(body(actual)))
    assert headers(expected).items() <= headers(actual).items()


def test_two_choices_interleave_by_index(base: str) -> None:
    """Each choice begins with its own role chunk and ends with its own finish reason."""
    sent = CHAT | {"stream": True, "n": 2, "seed": 1, "temperature": 1.0}
    expected, actual = (body(recorded("base-chat-stream-n2.txt")), body(call(base, "/v1/chat/completions", sent)))
    for index in (0, 1):
        chosen = ["\n".join(f"data: {e}" for e in events(s) if f'"index":{index}' in e) for s in (expected, actual)]
        assert shapes(chosen[0]) == shapes(chosen[1])


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("bad-json", '{"model":'),
        ("maxtokens-too-big", {"model": "tiny", "prompt": "hi", "max_tokens": 999999}),
        ("too-long-stream", {"model": "tiny", "stream": True, "prompt": "x y z " * 3000, "max_tokens": 8}),
        ("unknown-model", {"model": "nope", "prompt": "x"}),
        ("usage-no-stream", TEXT | {"stream_options": {"include_usage": True}}),
    ],
)
def test_errors_are_vllms_to_the_letter(base: str, name: str, sent: object) -> None:
    expected, actual = recorded(f"base-err-{name}.txt"), call(base, "/v1/completions", sent)
    assert json.loads(body(expected)) == json.loads(body(actual))
    assert headers(expected).items() <= headers(actual).items()


def test_models_and_version_have_the_recorded_keys(base: str) -> None:
    """`/version` has further keys, which mark the server as emulated."""
    assert shape(json.loads(body(recorded("base-models.txt")))) == shape(
        json.loads(body(call(base, "/v1/models", method="GET")))
    )
    version = json.loads(body(call(base, "/version", method="GET")))
    assert version["version"] == json.loads(body(recorded("base-version.txt")))["version"]
    assert version["emulated"] is True


def test_a_stop_token_ends_with_its_id_and_no_text(base: str) -> None:
    prefix = events(call(base, "/v1/chat/completions", CHAT | {"stream": True, "return_token_ids": True}))
    second = json.loads(prefix[2])["choices"][0]["token_ids"][0]
    sent = CHAT | USAGE | {"return_token_ids": True, "stop_token_ids": [second]}
    actual = body(call(base, "/v1/chat/completions", sent))
    assert shapes(body(recorded("finish-stop_token_ids.txt"))) == shapes(actual)
    assert json.loads(events(actual)[-3])["choices"][0]["stop_reason"] == second


def test_a_stop_string_is_held_back_and_cut(base: str) -> None:
    """The text before the stop string is complete, and no part of the stop string is sent."""
    whole = json.loads(body(call(base, "/v1/completions", TEXT | {"max_tokens": 16})))["choices"][0]["text"]
    stop = whole[4:7]
    answer = json.loads(body(call(base, "/v1/completions", TEXT | {"max_tokens": 16, "stop": [stop]})))
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["stop_reason"] == stop
    assert answer["choices"][0]["finish_reason"] == "stop"
    streamed = events(call(base, "/v1/completions", TEXT | {"max_tokens": 16, "stop": [stop], "stream": True}))
    pieces = [json.loads(event)["choices"][0]["text"] for event in streamed[:-1]]
    assert "".join(pieces) == whole[: whole.index(stop)]


@pytest.mark.parametrize(("level", "name"), [("detailed", "specmetrics-chat-stream.txt")])
def test_speculation_metrics_of_a_request(tiny: Path, level: str, name: str) -> None:
    """The usage chunk has the recorded keys, and `--stream-interval` groups the chunks."""
    spec = NGRAM.replace('_tokens":4', '_tokens":3')
    flags = ("--speculative-config", spec, "--per-request-spec-decode-metrics", level, "--stream-interval", "4")
    with emulated("tp1", *COMMON, *flags, model=str(tiny)) as target:
        actual = body(call(target, "/v1/chat/completions", CHAT | EACH | {"max_tokens": 32}))
    assert shapes(body(recorded(name))) == shapes(actual)


def test_request_metrics_with_and_without_streaming(tiny: Path) -> None:
    flags = ("--speculative-config", NGRAM, "--enable-per-request-metrics")
    with emulated("tp1", *COMMON, *flags, model=str(tiny)) as target:
        stream = body(call(target, "/v1/chat/completions", CHAT | USAGE | {"max_tokens": 32}))
        whole = json.loads(body(call(target, "/v1/chat/completions", CHAT | {"max_tokens": 16})))
    assert shapes(body(recorded("per-request-metrics-stream.txt"))) == shapes(stream)
    assert shape(json.loads(recorded("per-request-metrics.json"))) == shape(whole)


def test_reasoning_has_its_own_key(tiny: Path) -> None:
    with emulated("tp1", *COMMON, "--reasoning-parser", "qwen3", "-tp=2", model=str(tiny)) as target:
        sent = CHAT | {"max_tokens": 6}
        stream = body(call(target, "/v1/chat/completions", sent | EACH | {"return_token_ids": True}))
        whole = json.loads(body(call(target, "/v1/chat/completions", sent)))
    assert shapes(recorded("reasoning-chat-stream.txt")) == shapes(stream)
    assert shape(json.loads(recorded("reasoning-chat-nonstream.json"))) == shape(whole)
    assert "-tp2-" in whole["system_fingerprint"]


def test_a_key_guards_v1_only(tiny: Path) -> None:
    with emulated("tp1", *COMMON, "--api-key", "secret", model=str(tiny)) as target:
        refused = call(target, "/v1/models", method="GET")
        assert body(refused) == body(recorded("err-401.txt"))
        assert headers(refused)["status"] == headers(recorded("err-401.txt"))["status"]
        assert call(target, "/health", method="GET").startswith("HTTP/1.1 200")
        assert call(target, "/v1/models", method="GET", authorization="Bearer secret").startswith("HTTP/1.1 200")


def test_a_dead_engine_ends_streams_with_an_error_event(tiny: Path) -> None:
    with emulated("tp1", *COMMON, model=str(tiny)) as target:
        fault = {"x-thinkload-fault": "crash"}
        actual = body(call(target, "/v1/chat/completions", CHAT | {"stream": True, "max_tokens": 64}, **fault))
        assert call(target, "/health", method="GET").startswith("HTTP/1.1 503")
    expected = body(recorded("err-engine-dead-midstream.txt"))
    assert shapes(expected) == shapes(actual)
    assert events(expected)[-2:] == events(actual)[-2:]


def test_a_full_queue_is_a_503_or_an_error_inside_a_stream(tiny: Path) -> None:
    """Requests that passed the check before the queue was full are refused inside their stream."""
    flags = ("--max-num-queued-reqs", "1")
    small = tuple("1" if flag == "16" else flag for flag in COMMON)
    with emulated("tp1", *small, *flags, model=str(tiny)) as target:
        netloc = urlsplit(target).netloc
        connections = [http.client.HTTPConnection(netloc, timeout=30) for _ in range(6)]
        for connection in connections:
            sent = json.dumps(CHAT | {"stream": True, "max_tokens": 16})
            connection.request("POST", "/v1/chat/completions", sent, {"content-type": "application/json"})
        answers = [connection.getresponse().read().decode() for connection in connections[::-1]]
        for connection in connections:
            connection.close()
    assert any(events(answer) == events(recorded("err-queue-full-in-stream.txt")) for answer in answers)


@pytest.mark.parametrize("kind", ["base", "ngram"])
def test_metrics_have_every_recorded_name_type_label_and_bucket(kind: str, request: pytest.FixtureRequest) -> None:
    target = request.getfixturevalue(kind)
    for path in ("/v1/models", "/nowhere"):
        call(target, path, method="GET" if "models" in path else "POST")
    call(target, "/v1/chat/completions", CHAT)
    call(target, "/v1/completions", TEXT | {"max_tokens": 0})
    expected = catalogue(gzip.decompress((V32 / f"{kind}-metrics.prom.gz").read_bytes()).decode())
    actual = catalogue(body(call(target, "/metrics", method="GET")))
    assert {name: found for name, found in expected.items() if actual.get(name) != found} == {}
    assert {name for name in actual if name.startswith("vllm:")} - set(expected) == set()


def test_engine_0_26_has_its_own_catalogue_and_chunks(tiny: Path) -> None:
    spec = NGRAM.replace('_tokens":4', '_tokens":5').replace('_min":2', '_min":1')
    flags = (
        "--speculative-config",
        spec,
        "--engine-version",
        "0.26",
        "--reasoning-parser",
        "deepseek_r1",
        "--max-model-len",
        "16384",
    )
    with emulated("tp1", *COMMON, *flags, model=str(tiny)) as target:
        sent = CHAT | EACH | {"max_tokens": 48}
        streams = [
            body(call(target, path, one))
            for path, one in (("/v1/chat/completions", sent), ("/v1/completions", TEXT | EACH | {"max_tokens": 48}))
        ]
        metrics = body(call(target, "/metrics", method="GET"))
    folder = GOLDEN / "vllm-0.26.0"
    for kind, actual in zip(("chat", "completions"), streams, strict=True):
        reads = (folder / f"h200-1.5b-tp1-ngram-{kind}.sse.jsonl").read_text().splitlines()
        expected = "".join(json.loads(read)["bytes"] for read in reads).replace('"1.5b"', '"tiny"')
        assert shapes(expected) == shapes(actual)
    expected_metrics = catalogue(gzip.decompress((folder / "ngram-metrics.prom.gz").read_bytes()).decode())
    names = {name for name in expected_metrics if name.startswith("vllm:")}
    assert names == {name for name in catalogue(metrics) if name.startswith("vllm:")}
