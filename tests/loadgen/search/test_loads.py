"""Requests in proportion to the load, and `run --loads`."""

import pytest

from loadgen.errors import UsageError
from loadgen.option_types import LoadgenParser, load_points
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
        ["--requests", "8x", "--duration", "2m"],
        ["--requests", "8x", "--ramp", "1:30"],
        ["--requests", "8x", "--one-pass"],
    ],
)
def test_requests_in_proportion_to_what_is_not_known(words: list[str]) -> None:
    with pytest.raises(UsageError):
        options_of(*words)


def test_each_load_point_has_its_own_number_of_requests() -> None:
    options = RunOptions(requests_x=8.0)
    assert [point.applied(options).requests for point in load_points("1,32,0.5/s")] == [8, 256, 4]
