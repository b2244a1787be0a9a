"""Reading a /metrics page: what a sample is, and that a damaged page is a gap and not an error."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.measure.verdict import RESTARTED
from loadgen.options import RunOptions
from loadgen.record import RunInfo, read_run
from loadgen.target.control_api import ControlApi
from loadgen.target.server_metrics import (
    ENGINES_LIMIT,
    LINE_CHARACTERS,
    SAMPLE_CHARACTERS,
    SAMPLES_LIMIT,
    SCRAPES,
    engines,
    parse,
    totals,
    waiting,
)
from tests.fixtures.control import ControlServer, InTurn
from tests.fixtures.emulated import emulated, loadgen

PAGE = """\
# HELP vllm:prompt_tokens Tokens.
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens{engine="0",model_name="a \\"b\\""} 3.0
vllm:prompt_tokens{engine="1",model_name="c"} 4
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 2 1395066363000

vllm:cache_config_info{enable_prefix_caching="True
DCGM_FI_DEV_GPU_UTIL{gpu="0"} NaN
{="x"} 1
limit{le="+Inf"} +Inf
last 1
"""


def test_names_and_values_are_kept_and_damaged_lines_are_skipped() -> None:
    """Counters keep their names, timestamps are ignored, and what follows a damaged line is still read."""
    samples = [(sample.name, sample.labels) for sample in parse(PAGE)]
    assert samples == [
        ("vllm:prompt_tokens", {"engine": "0", "model_name": 'a "b"'}),
        ("vllm:prompt_tokens", {"engine": "1", "model_name": "c"}),
        ("vllm:num_requests_running", {}),
        ("DCGM_FI_DEV_GPU_UTIL", {"gpu": "0"}),
        ("limit", {"le": "+Inf"}),
        ("last", {}),
    ]
    found = totals(PAGE)
    assert (found["vllm:prompt_tokens"], found["vllm:num_requests_running"]) == (7.0, 2.0)
    assert math.isnan(found["DCGM_FI_DEV_GPU_UTIL"])
    assert found["limit"] == math.inf


def test_only_the_prefixes_that_were_asked_for_are_read() -> None:
    assert [sample.name for sample in parse(PAGE, ("DCGM_", "last"))] == ["DCGM_FI_DEV_GPU_UTIL", "last"]


@given(st.text('aé_:{}=",\\ \t\n#1.e+-', max_size=60))
def test_no_page_raises(page: str) -> None:
    for sample in parse(page):
        assert isinstance(sample.value, int | float)


def page(started: float, tokens: int, engine: str = "0") -> bytes:
    return (
        "# TYPE vllm:num_requests_running gauge\n"
        f'vllm:num_requests_running{{engine="{engine}",model_name="m"}} 0\n'
        "# TYPE vllm:generation_tokens counter\n"
        f'vllm:generation_tokens_total{{engine="{engine}",model_name="m"}} {tokens}\n'
        f"process_start_time_seconds {started}\n"
    ).encode()


def run_on(pages: list[bytes], out: Path) -> RunInfo:
    """Run against a server that serves these /metrics pages in turn."""
    with ControlServer({"/metrics": InTurn(pages)}).running() as target:
        loadgen("--target", target, "--dataset", "sample", "--problems", "3", "--budgets", "64", "--out", str(out))
    return read_run(out)


@pytest.mark.parametrize(
    "pages",
    [
        [page(1000, 500), page(2000, 90)],
        [page(2000, 90), page(1000, 500)],
        [page(1000, 500, "0"), page(1000, 90, "1")],  # told apart by their labels
    ],
)
def test_two_servers_behind_one_address_are_no_restart(pages: list[bytes], tmp_path: Path) -> None:
    """Neither their start times nor their counters can be compared, and two servers have more GPUs than one."""
    run = run_on(pages, tmp_path / "run")
    assert run.verdict == "SUSPECT", run.reasons
    assert any(reason.startswith("2 servers answer at this address") for reason in run.reasons)
    assert RESTARTED not in run.reasons
    assert (run.num_gpus, run.server["replicas"]) == (None, 2)
    before, after = ((tmp_path / "run" / f"server-{when}.prom").read_bytes() for when in ("before", "after"))
    assert before == after, "both pages are those of the same server"


def test_a_server_that_was_restarted_in_between_is_still_found(tmp_path: Path) -> None:
    """Every page of the preflight and of the snapshot before is of the first process, every later one of the second."""
    run = run_on([page(1000, 500)] * 2 * SCRAPES + [page(9000, 0)] * SCRAPES, tmp_path / "run")
    assert run.verdict == "INVALID"
    assert RESTARTED in run.reasons


@pytest.mark.parametrize(
    ("page", "requests"),
    [
        (b'vllm:num_requests_waiting{engine="0"} 3.0\nvllm:num_requests_waiting{engine="1"} 4.0\n', 7.0),
        (b'vllm:num_requests_waiting 5\nvllm:num_requests_waiting_by_reason{reason="capacity"} 5\n', 5.0),
        (b"vllm:num_requests_running 3\n", None),
        (b"vllm:num_requests_waiting{ many\n", None),
        ((503, b"vllm:num_requests_waiting 5\n"), None),
    ],
)
def test_the_queue_is_the_sum_over_the_engines(page: object, requests: float | None) -> None:
    answer = (lambda _body: page) if isinstance(page, tuple) else page
    with ControlServer({"/metrics": answer}).running() as target:
        assert waiting(ControlApi(RunOptions(target=target))) == requests


def test_a_run_beyond_the_capacity_names_the_queue_of_the_server(tmp_path: Path) -> None:
    """A server that works on one request at a time is asked for many more than it answers."""
    with emulated("tp1", "--max-num-seqs", "1", "--speed", "4") as target:
        loadgen(
            "--target", target, "--dataset", "sample", "--budgets", "32", "--rate", "30", "--requests", "150",
            "--out", str(tmp_path / "run"),
        )  # fmt: skip
    (reason,) = [text for text in read_run(tmp_path / "run").reasons if "requests/s were asked" in text]
    found = re.search(
        r"; vllm:num_requests_waiting of the server was 0 before the run and (\d+) at the last request$", reason
    )
    assert found is not None, reason
    assert 0 < int(found[1]) < 150


def test_a_page_without_end_is_read_in_part() -> None:
    text = "".join(f'x{{n="{n}"}} 1\n' for n in range(SAMPLES_LIMIT + 5))
    assert totals(text) == {"x": SAMPLES_LIMIT}


def test_engines_are_counted_by_their_label() -> None:
    one, two = page(1, 1, "0").decode(), page(1, 1, "1").decode()
    assert (engines(""), engines(one), engines(one + two)) == (0, 1, 2)


def test_a_number_too_large_for_a_float_is_a_damaged_line() -> None:
    assert totals(f"x {'9' * 400}\nx -{'9' * 400}\nx 2\n") == {"x": 2.0}


def test_buckets_are_left_out_of_the_totals() -> None:
    assert totals('x_bucket{le="1"} 4\nx_sum 3\nx_count 4\n') == {"x_sum": 3.0, "x_count": 4.0}


def test_long_lines_and_many_labels_do_not_make_a_page_slow_to_read() -> None:
    """What is read is limited in samples and in characters, because every label takes time to parse."""
    labels = ",".join(f'a{n}="y"' for n in range(1_000))
    assert len(labels) < LINE_CHARACTERS
    pages = f"x{{{labels}}} 1\n" * 1_600
    assert 0 < totals(pages)["x"] <= SAMPLES_LIMIT * SAMPLE_CHARACTERS / len(labels)
    assert totals(f"x{{{','.join([labels] * 2)}}} 1\ny 1\n") == {"y": 1.0}
    assert engines("".join(f'vllm:num_requests_running{{engine="{n}"}} 0\n' for n in range(5_000))) == ENGINES_LIMIT
