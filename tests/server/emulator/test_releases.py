"""What differs between releases of vLLM: options and their spellings, default batch sizes, and the fields of 0.33."""

import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.config import ConfigError, load_serving, overrides_from
from server.emulator.engine.hardware import gpus
from server.emulator.engine.model_runner import served
from tests.fixtures.emulated import emulated
from tests.fixtures.golden import events


@pytest.mark.parametrize(
    ("option", "version", "refusal"),
    [
        ("--disable-prefix-caching", "0.33", None),
        ("--no-enable-prefix-caching", "0.33", None),
        ("--disable-prefix-caching", "0.32", "does not know this spelling: write no-enable-prefix-caching"),
        ("--enable-uvicorn-access-log", "0.33", None),
        ("--enable-uvicorn-access-log", "0.26", "write no-disable-uvicorn-access-log"),
        ("--disable-log-requests", "0.33", None),
        ("--disable-log-requests", "0.26", "write no-enable-log-requests"),
        ("--disable-log-requests", "0.7.3", None),
        ("--swap-space=4", "0.7.3", None),
        ("--swap-space=4", "0.26", "0.26.0 has no such option"),
        ("--max-seq-len-to-capture=8192", "0.32", "0.32.0 has no such option"),
        ("--tensor-parallel-backend=mp", "0.33", "0.33.0 has no such option"),
        ("--max-num-queued-reqs=8", "0.26", "0.26.0 has no such option"),
        ("--max-num-queued-reqs=8", "0.32", None),
    ],
)
def test_an_option_is_refused_by_the_releases_that_do_not_have_it(
    option: str, version: str, refusal: str | None
) -> None:
    serving = load_serving("tp1", overrides_from([option]))
    if refusal is None:
        served(serving, version, {})
        return
    with pytest.raises(ConfigError, match=refusal) as raised:
        served(serving, version, {})
    assert option[2:].partition("=")[0] in str(raised.value)


@pytest.mark.parametrize(
    ("option", "enabled"),
    [("--enable-prefix-caching", True), ("--disable-prefix-caching", False), ("--disable-async", None)],
)
def test_disable_is_the_opposite_of_enable(option: str, enabled: bool | None) -> None:
    if enabled is None:
        with pytest.raises(ConfigError, match="not an option of vllm serve"):
            load_serving("tp1", overrides_from([option]))
    else:
        assert load_serving("tp1", overrides_from([option])).enable_prefix_caching is enabled


@pytest.mark.parametrize(
    ("gpu", "version", "sizes"),
    [
        ("h200", "0.33", (1024, 8192)),
        ("h100", "0.26", (1024, 8192)),
        ("a100", "0.32", (256, 2048)),
        ("h200", "0.7.3", (256, 8192)),
    ],
)
def test_default_batch_sizes_depend_on_the_gpu(
    gpu: str, version: str, sizes: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An A100 has the sizes of a small GPU. A size in the file is kept."""
    own = tmp_path_factory.mktemp("configs") / "own.yaml"
    own.write_text("max-model-len: 4096\n")
    serving, _ = served(load_serving(str(own)), version, {}, gpu=gpus()[gpu])
    assert (serving.max_num_seqs, serving.max_num_batched_tokens) == sizes
    own.write_text("max-num-seqs: 12\n")
    assert served(load_serving(str(own)), version, {}, gpu=gpus()[gpu])[0].max_num_seqs == 12


def call(target: str, method: str, path: str, sent: object = None) -> str:
    with closing(http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)) as connection:
        connection.request(method, path, json.dumps(sent) if sent else None)
        return connection.getresponse().read().decode()


def chunks(stream: str) -> list[Any]:
    return [json.loads(event) for event in events(stream) if event != "[DONE]"]


def test_the_fields_of_0_33() -> None:
    """Null fields of its chunks, the new label of the cache, and the words of a server whose engine dies in mid-answer."""
    options = ("--engine-version", "0.33", "--speed", "20", "--fault", "crash-after=3")
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
    with emulated("tp1", *options) as target:
        role, *_, last = chunks(call(target, "POST", "/v1/chat/completions", chat))
        assert "kv_transfer_params" not in role
        assert last["kv_transfer_params"] is last["choices"][0]["weight_versions"] is None
        text = {"prompt": "Hi", "max_tokens": 2}
        first = chunks(call(target, "POST", "/v1/completions", text | {"stream": True}))[0]
        assert first["choices"][0]["weight_versions"] is first["kv_transfer_params"] is None
        assert json.loads(call(target, "POST", "/v1/completions", text))["choices"][0]["weight_versions"] is None
        assert 'simple_cpu_offload_num_blocks="None"' in call(target, "GET", "/metrics")
        said = call(target, "POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 40, "ignore_eos": True})
        assert json.loads(said)["error"]["message"] == "The server had an error while processing your request."


def test_an_answer_that_the_engine_has_finished_gets_the_error_of_a_dead_engine_too() -> None:
    """With one token, the engine is done with the sequence before the response is written."""
    with emulated("tp1", "--fault", "crash-after=0") as target:
        said = call(target, "POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1})
    assert json.loads(said)["error"]["code"] == 500
