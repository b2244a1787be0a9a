"""The engine on virtual time: what a request gets does not depend on requests that arrive after it has ended."""

import numpy as np
import pytest

from server.config import ConfigError
from server.emulator.simulated_cell import ModelOutputs, PreparedOutput, PreparedRequest, simulate_requests
from tests import ROOT

SAMPLE = str(ROOT / "loadgen" / "data" / "sample.jsonl")


@pytest.fixture(scope="module")
def outputs() -> ModelOutputs:
    return ModelOutputs("r1-distill-qwen-7b", SAMPLE)


def requests(n: int) -> list[PreparedRequest]:
    output = PreparedOutput(prompt=list(range(60)), ids=list(range(50)), ended=True, thinking_end=None)
    return [PreparedRequest(output, 40) for _ in range(n)]


@pytest.mark.parametrize("config", ["tp1", "tp2-ngram"])
def test_no_request_waits_for_later_arrivals(config: str, outputs: ModelOutputs) -> None:
    alone = simulate_requests(config, outputs.model, requests(1), due_s=[0.0]).responses[0]
    due_s = [number * 10.0 for number in range(30)]
    many = simulate_requests(config, outputs.model, requests(30), due_s=due_s).responses
    for response, at_s in zip(many, due_s, strict=True):
        assert response.sent_s == at_s
        np.testing.assert_allclose(response.times_s - at_s, alone.times_s, rtol=0.01)


def test_requests_that_arrive_together_share_the_engine(outputs: ModelOutputs) -> None:
    burst = simulate_requests("tp1", outputs.model, requests(8), due_s=[1.0] * 8).responses
    closed = simulate_requests("tp1", outputs.model, requests(8), concurrency=8).responses
    for response, expected in zip(burst, closed, strict=True):
        np.testing.assert_allclose(response.times_s - 1.0, expected.times_s, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"kv-cache-memory-bytes": "100M"}, "20480 tokens do not fit into the KV cache, which holds"),
        ({"tensor-parallel-size": 8}, "does not divide the 28 attention heads"),
    ],
)
def test_a_server_that_would_not_start_is_not_simulated(
    option: dict[str, object], says: str, outputs: ModelOutputs
) -> None:
    with pytest.raises(ConfigError, match=says):
        simulate_requests("tp1", outputs.model, requests(1), overrides=option, concurrency=1)
