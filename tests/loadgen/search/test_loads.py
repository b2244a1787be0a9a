"""Requests in proportion to the load, and `run --loads`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.option_types import LoadgenParser, Proportion, load_points
from loadgen.options import RunOptions, add_run_arguments, from_args


def options_of(*words: str) -> RunOptions:
    parser = LoadgenParser()
    add_run_arguments(parser)
    return from_args(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        (["--requests", "200"], 200),
        (["--requests", "8x", "--concurrency", "4"], 32),
        (["--requests", "8x"], 128),
        (["--requests", "8x", "--rate", "2.5"], 20),
        (["--requests", "0.5x", "--rate", "0.5"], 1),
        (["--requests", "8x", "--requests", "3"], 3),
    ],
)
def test_requests_in_total_or_for_each_stream_or_request_per_second(words: list[str], requests: int) -> None:
    assert options_of(*words).requests == requests


@pytest.mark.parametrize(
    "words",
    [
        ["--requests", "x"],
        ["--requests", "0x"],
        ["--requests", "0"],
        ["--warmup", "2x", "--ramp", "1:30"],
        ["--requests", "8x", "--duration", "2m"],
        ["--requests", "8x", "--ramp", "1:30"],
        ["--requests", "8x", "--one-pass"],
    ],
)
def test_requests_in_proportion_to_what_is_not_known(words: list[str]) -> None:
    with pytest.raises(UsageError):
        options_of(*words)


@given(st.text(max_size=30))
def test_any_text_is_a_number_of_requests_or_refused(text: str) -> None:
    try:
        found = options_of(f"--requests={text}")
    except UsageError:
        return
    assert 1 <= (found.requests or 0) <= 2**31 or text.isdigit()


def test_warmup_can_be_in_proportion_too() -> None:
    assert options_of("--warmup", "1x at most 16", "--concurrency", "64").warmup == 16
    assert options_of("--warmup", "2x", "--warmup", "0").warmup == 0


def test_each_load_point_has_its_own_number_of_requests() -> None:
    options = RunOptions(requests_per_load=Proportion(8.0))
    assert [point.applied(options).requests for point in load_points("1,32,0.5/s")] == [8, 256, 4]
