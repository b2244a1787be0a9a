"""Other clients work with the emulator unchanged, and injected faults have the requested effects."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import openai
import pytest

from tests.fixtures.emulated import ROOT, emulated
from tests.fixtures.golden import body, catalogue, events
from tests.server.emulator.test_golden import call

PROBLEM = json.loads((ROOT / "loadgen/data/sample.jsonl").read_text().splitlines()[0])["problem"]
MESSAGES = [{"role": "user", "content": PROBLEM}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "20", "--max-num-seqs", "64") as url:
        yield url


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=target, api_key="none", max_retries=0) as made:
        yield made


def test_openai_lists_models_and_completes(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=40)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"
    text = client.completions.create(model=model, prompt=[PROBLEM, "Another"], max_tokens=12)
    assert [choice.index for choice in text.choices] == [0, 1]


def test_openai_streams(client: openai.OpenAI, target: str) -> None:
    """The pieces together are the answer, and usage comes last."""
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, stream=True, temperature=0.6,
        seed=1, stream_options={"include_usage": True}, logprobs=None  # type: ignore[arg-type]
    )  # fmt: skip
    chunks = list(stream)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 40
    assert chunks[-2].choices[0].finish_reason == "stop"
    content = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "\\boxed{" in content
    del target


def test_openai_streams_asynchronously(target: str) -> None:
    """32 concurrent streams are all complete."""

    async def one(client: openai.AsyncOpenAI, number: int) -> int:
        tokens = 0
        stream = await client.completions.create(model="", prompt=PROBLEM, stream=True, max_tokens=50, seed=number, temperature=1, stream_options={"include_usage": True})  # fmt: skip
        async for chunk in stream:
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return tokens

    async def many() -> list[int]:
        async with openai.AsyncOpenAI(base_url=target, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(32)))

    assert set(asyncio.run(many())) == {50}


def test_openai_raises_the_same_errors_as_for_vllm(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=MESSAGES)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="max_model_len"):
        client.chat.completions.create(model="", messages=MESSAGES, max_tokens=99_999)  # type: ignore[arg-type]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="", messages=MESSAGES, extra_headers={"x-thinkload-fault": "error"})  # type: ignore[arg-type]


def test_same_seed_same_text_with_and_without_speculation(target: str) -> None:
    """Text and token ids are equal."""
    sent = {"messages": MESSAGES, "temperature": 0.6, "seed": 5, "max_tokens": 600, "return_token_ids": True}

    def answer(url: str) -> tuple[object, object]:
        choice = json.loads(body(call(url, CHAT, sent)))["choices"][0]
        return choice["message"], choice["token_ids"]

    first = answer(target)
    assert first == answer(target)
    with emulated("tp2-ngram", "--speed", "20") as other:
        assert first == answer(other)
        metrics = body(call(other, "/metrics", method="GET"))
    steps = float(re.findall(r"^vllm:inter_token_latency_seconds_count\S* (\S+)", metrics, re.MULTILINE)[0])
    assert steps < 599


@pytest.mark.parametrize(
    "content",
    [
        PROBLEM,
        [{"type": "text", "text": PROBLEM}],
        [{"type": "text", "text": "Hello."}, {"type": "text", "text": PROBLEM}],
    ],
    ids=["string", "part", "parts"],
)
def test_content_may_be_text_or_parts(target: str, content: object) -> None:
    answer = json.loads(body(call(target, CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 4})))
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("prompt", ["Hi", ["Hi"], [1, 2, 3], [[1, 2, 3], [4, 5]], ["Hi", "Ho"]], ids=str)
def test_prompts_may_be_text_or_ids_or_many(target: str, prompt: object) -> None:
    answer = json.loads(body(call(target, "/v1/completions", {"prompt": prompt, "max_tokens": 3, "n": 2})))
    many = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], (str, list)) else 1
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * many))


def test_min_tokens_and_ignore_eos_go_beyond_the_end(target: str) -> None:
    """An output that ends by itself continues up to the limit when the request asks for it."""
    whole = json.loads(body(call(target, CHAT, {"messages": MESSAGES, "temperature": 0.6, "seed": 1})))
    natural = whole["usage"]["completion_tokens"]
    assert whole["choices"][0]["finish_reason"] == "stop"
    for extra in ({"ignore_eos": True}, {"min_tokens": natural + 20}):
        sent = {"messages": MESSAGES, "temperature": 0.6, "seed": 1, "max_tokens": natural + 50} | extra
        assert json.loads(body(call(target, CHAT, sent)))["usage"]["completion_tokens"] == natural + 50


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"stop": [1, 2]}, "body.stop"),
        ({"stop": list("abcde")}, "body.stop"),
        ({"stop_token_ids": ["a"]}, "body.stop_token_ids"),
        ({"max_tokens": "five"}, "body.max_tokens"),
        ({"seed": 2**70}, "body.seed"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"prompt": [-4]}, "body.prompt"),
        ({"prompt": [10**7]}, None),
        ({"temperature": 3}, "temperature"),
        ({"n": 100_000}, None),
        ({"n": 2, "temperature": 0}, None),
        ({"presence_penalty": 3}, None),
        ({"min_tokens": 9, "max_tokens": 8}, None),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
    ],
    ids=str,
)
def test_a_wrong_body_is_refused_at_once(target: str, sent: dict[str, object], param: str | None) -> None:
    """Status and parameter are those of a real vLLM 0.32, which lists one error for each type of a field."""
    answer = call(target, "/v1/completions", {"prompt": "Hi", "stream": True} | sent)
    assert answer.startswith("HTTP/1.1 400 ")
    assert json.loads(body(answer))["error"]["param"] == param


def test_numbers_may_be_strings(target: str) -> None:
    """As pydantic reads them. A limit of null means the model's limit, not the default."""
    sent = {"prompt": "Hi", "max_tokens": "3", "temperature": "0", "logprobs": 0}
    choice = json.loads(body(call(target, "/v1/completions", sent)))["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 3
    assert choice["logprobs"]["text_offset"][1] == len(choice["logprobs"]["tokens"][0])
    whole = json.loads(body(call(target, "/v1/completions", sent | {"max_tokens": None})))
    assert whole["usage"]["completion_tokens"] > 16


def test_tokenize_and_back(target: str) -> None:
    found = json.loads(body(call(target, "/tokenize", {"prompt": PROBLEM})))
    assert found["count"] == len(found["tokens"])
    assert json.loads(body(call(target, "/detokenize", {"tokens": found["tokens"]})))["prompt"] == PROBLEM
    assert json.loads(body(call(target, "/tokenize", {"messages": MESSAGES})))["count"] > found["count"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/health", 200), ("HEAD", "/v1/models", 200), ("OPTIONS", CHAT, 200), ("GET", CHAT, 405), ("GET", "/v2", 404), ("PUT", "/", 404)],
)  # fmt: skip
def test_other_methods_get_the_expected_status(target: str, method: str, path: str, status: int) -> None:
    answer = call(target, path, method=method)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "x-thinkload-emulated: 20.0" in answer
    assert method != "HEAD" or not body(answer)


def test_a_connection_serves_pipelined_requests_in_order(target: str) -> None:
    """With keep-alive, pipelining and chunked request bodies."""
    address = urlsplit(target)
    data = json.dumps({"prompt": "Hi", "max_tokens": 3, "stream": True}).encode()
    half = len(data) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (data[:half], data[half:])) + b"0\r\n\r\n"
    chunked = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + pieces
    with socket.create_connection((address.hostname, address.port or 80)) as connection:
        connection.sendall(chunked + chunked + b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b"data: [DONE]") == 2


def test_bytes_that_are_not_http_are_refused(target: str) -> None:
    address = urlsplit(target)
    with socket.create_connection((address.hostname, address.port or 80)) as connection:
        connection.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_disconnect_ends_the_request(target: str) -> None:
    """Afterwards nothing is running, and the request is not counted as success."""

    def success() -> float:
        metrics = body(call(target, "/metrics", method="GET"))
        return sum(map(float, re.findall(r"^vllm:request_success_total\S* (\S+)", metrics, re.MULTILINE)))

    before = success()
    address = urlsplit(target)
    connection = http.client.HTTPConnection(address.netloc)
    connection.request(
        "POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 15_000, "ignore_eos": True, "stream": True})
    )
    connection.getresponse().read(200)
    connection.close()
    deadline = time.monotonic() + 60
    while "num_requests_running" in (page := body(call(target, "/metrics", method="GET"))):
        if re.search(r"^vllm:num_requests_running\S* 0.0$", page, re.MULTILINE):
            break
        assert time.monotonic() < deadline
    assert success() == before


def test_thinking_ends_at_its_budget(target: str) -> None:
    sent = {"messages": MESSAGES, "temperature": 0, "thinking_token_budget": 50}
    usage = json.loads(body(call(target, CHAT, sent)))["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 50


def test_an_answer_begun_by_the_client_is_continued(target: str) -> None:
    """The last message contains closed thinking and an open box; the output is content that closes the box."""
    begun = {"role": "assistant", "content": "<think>\nSo.\n</think>\n\nIt is $\\boxed{"}
    sent = {"messages": [*MESSAGES, begun], "continue_final_message": True, "temperature": 0}
    answer = json.loads(body(call(target, CHAT, sent | {"add_generation_prompt": False})))
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert answer["choices"][0]["message"]["content"].count("}") == 1
    assert call(target, CHAT, sent | {"add_generation_prompt": True}).startswith("HTTP/1.1 400 ")


def test_gpu_telemetry_follows_the_load(target: str) -> None:
    """Names and labels are DCGM's, power is plausible under load, and energy increases."""
    sent = json.dumps({"prompt": "Hi", "max_tokens": 15_000, "ignore_eos": True, "stream": True})
    with contextlib.closing(http.client.HTTPConnection(urlsplit(target).netloc)) as connection:
        connection.request("POST", "/v1/completions", sent)
        with contextlib.closing(connection.getresponse()) as answer:
            answer.read(20_000)
            first = body(call(target, "/dcgm/metrics", method="GET"))
            second = body(call(target, "/dcgm/metrics", method="GET"))

    def value(page: str, name: str) -> float:
        return float(re.findall(rf"^{name}{{.*}} (\S+)$", page, re.MULTILINE)[0])

    for name in ("DEV_POWER_USAGE", "DEV_GPU_UTIL", "DEV_FB_USED", "DEV_TOTAL_ENERGY_CONSUMPTION", "DEV_SM_CLOCK", "PROF_DRAM_ACTIVE", "PROF_SM_ACTIVE", "PROF_NVLINK_TX_BYTES", "PROF_NVLINK_RX_BYTES"):  # fmt: skip
        assert f"DCGM_FI_{name}{{" in first
    assert catalogue(first)["DCGM_FI_DEV_POWER_USAGE"][1] == {
        ("DCGM_FI_DRIVER_VERSION", "UUID", "device", "gpu", "hostname", "modelName", "pci_bus_id")
    }
    assert 150 < value(first, "DCGM_FI_DEV_POWER_USAGE") < 700
    assert value(second, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION") > value(first, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION")


def test_faults_by_header(target: str) -> None:
    """An error, a broken connection and a stall, each for the request whose header asks for it."""
    sent = {"prompt": "Hi", "max_tokens": 100, "stream": True, "ignore_eos": True}
    assert call(target, "/v1/completions", sent, **{"x-thinkload-fault": "error"}).startswith("HTTP/1.1 500")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        call(target, "/v1/completions", sent, **{"x-thinkload-fault": "cut"})
    began = time.perf_counter()
    stalled = call(target, "/v1/completions", sent, **{"x-thinkload-fault": "stall=20"})
    assert time.perf_counter() - began > 1  # 20 model seconds at 20 times the speed
    assert events(stalled)[-1] == "[DONE]"


def test_an_error_rate_and_a_crash_by_option() -> None:
    """The process exits with status 1 after a failure of the engine."""
    command = [sys.executable, "-m", "server", "emulate", "tp1", "--model", "s1.1-1.5b", "--port", "0", "--speed", "50"]
    command += ["--fault", "error=0.5", "--fault", "crash-after=20"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"at (http://\S+/v1)", process.stderr.readline())
        assert found
        sent = {"prompt": "Hi", "max_tokens": 40, "ignore_eos": True}
        statuses = [call(found[1], "/v1/completions", sent).split()[1] for _ in range(20)]
        assert 4 <= statuses.count("500") <= 16
        with contextlib.suppress(OSError, http.client.HTTPException):  # until the server has exited
            while True:
                call(found[1], "/v1/completions", sent)
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert json.loads(out.splitlines()[-1])["status"] == 1


def test_responses_are_marked_as_emulated(target: str) -> None:
    answer = call(target, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})
    assert "x-thinkload-emulated: 20.0" in answer
    assert "emulated" in json.loads(body(answer))["system_fingerprint"]
    version = json.loads(body(call(target, "/version", method="GET")))
    assert (version["emulated"], version["time_scale"], version["num_gpus"]) == (True, 20.0, 1)
    metrics = body(call(target, "/metrics", method="GET"))
    assert 'thinkload_emulated_info{config="tp1"' in metrics
    assert "thinkload_time_scale 20.0" in metrics


def test_engine_0_7_3_has_its_own_names() -> None:
    """0.7.3 has `reasoning_content`, time_per_output_token and no engine label."""
    with emulated("tp1", "--era", "0.7.3", "--speed", "20") as url:
        sent = {"messages": MESSAGES, "max_tokens": 5, "stream": True}
        first = json.loads(events(call(url, CHAT, sent))[1])
        metrics = body(call(url, "/metrics", method="GET"))
    assert "reasoning_content" in first["choices"][0]["delta"]
    assert first["usage"] is None
    assert re.search(r"^vllm:time_per_output_token_seconds_count{model_name=", metrics, re.MULTILINE)
    assert "vllm:gpu_cache_usage_perc" in metrics
