"""Reading a /metrics page: what a sample is, and that a damaged page is a gap and not an error."""

import math

from hypothesis import given
from hypothesis import strategies as st

from loadgen.target.server_metrics import parse, totals

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
