"""The way of requests through the API process to the engine, and of outputs back, on virtual time."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import load_model, load_serving
from server.emulator.engine.api_queue import ApiQueue
from server.emulator.engine.hardware import engine_versions, gpus
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.virtual_time import Simulation

READ_S, TOKENIZE_S, REST_S = 0.5e-3, 1e-3, 3e-3
VERSION = replace(
    engine_versions()["0.26"],
    read_request_us=READ_S * 1e6,
    tokenize_request_us=TOKENIZE_S * 1e6,
    tokenize_token_us=0.0,
    ingest_ms=REST_S * 1e3,
)


def request(prompt: int = 100, tokens: int = 4) -> TokenSequence:
    return TokenSequence(ids=[7] * (prompt + tokens), prompt=prompt, end=tokens)


def reached(times_s: list[float], looks_s: list[float]) -> list[float]:
    """When requests that arrive at these times reach the engine, if it looks for requests at the other times too."""
    queue, sequences = ApiQueue(VERSION), [request() for _ in times_s]
    events = sorted([(at_s, True) for at_s in times_s] + [(at_s, False) for at_s in looks_s])
    unsent = iter(sequences)
    for at_s, sends in events:
        if sends:
            queue.submit(next(unsent), at_s)
        else:
            list(queue.take(at_s))
    while queue.next_s() < float("inf"):
        next_s = queue.next_s()
        assert next(queue.take(next_s)).queued_s == next_s
    assert not list(queue)
    return [sequence.queued_s for sequence in sequences]


def test_all_requests_of_a_burst_are_read_before_the_first_goes_on() -> None:
    """128 requests at once: the first waits until all are read, and then one follows another as they are tokenized."""
    found = reached([0.0] * 128, [])
    assert found[0] == pytest.approx(128 * READ_S + TOKENIZE_S + REST_S)
    assert [b - a for a, b in pairwise(found)] == pytest.approx([TOKENIZE_S] * 127)
    assert reached([0.0], []) == pytest.approx([READ_S + TOKENIZE_S + REST_S])


def test_a_later_request_is_read_before_an_earlier_one_is_tokenized_only_if_it_came_first() -> None:
    """The second request comes while the first is read, the third while the first is tokenized."""
    found = reached([0.0, 0.4e-3, 0.9e-3], [])
    assert found == pytest.approx([0.002 + REST_S, 0.0035 + REST_S, 0.0045 + REST_S])


@given(
    times_s=st.lists(st.floats(0, 0.02), min_size=1, max_size=12).map(sorted),
    looks_s=st.lists(st.floats(0, 0.05), max_size=12),
)
def test_the_times_do_not_depend_on_when_the_engine_looks(times_s: list[float], looks_s: list[float]) -> None:
    found = reached(times_s, looks_s)
    assert found == pytest.approx(reached(times_s, []))
    assert found == sorted(found)
    assert all(end >= at + READ_S + TOKENIZE_S + REST_S - 1e-12 for at, end in zip(times_s, found, strict=True))


def first_tokens(config: str, requests: int) -> list[float]:
    """TTFT of requests that are sent together, in milliseconds."""
    simulation = Simulation(
        load_serving(config), load_model("r1-distill-qwen-1.5b"), gpus()["h200"], engine_versions()["0.26"]
    )
    for _ in range(requests):
        simulation.submit(request(200, 40), 0.0)
    return sorted(1e3 * float(response.times_s[0]) for _, response in simulation.run())


def test_on_one_gpu_an_output_waits_until_the_next_prompts_are_launched() -> None:
    """The process that schedules also launches kernels. With two GPUs, other processes launch them, and the first output leaves earlier."""
    one, two = first_tokens("tp1", 8), first_tokens("tp2", 8)
    assert one[0] > 0.9 * one[-1]
    assert two[0] < 0.7 * two[-1]


def test_a_burst_is_slower_than_its_requests_alone() -> None:
    """Measured with 1.5B on an H200: 13 to 18 ms for one request, 54 ms for eight with 118 tokens, 100 ms for 32."""
    one, eight, many = (first_tokens("tp1", n) for n in (1, 8, 32))
    assert 8 < one[0] < 25
    assert 2 < eight[4] / one[0] < 6
    assert 4 < many[16] / one[0] < 12
