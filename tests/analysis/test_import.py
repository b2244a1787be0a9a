"""Results of other tools become run folders, with fields as Thinkload defines them and notes for the differences."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.__main__ import main
from analysis.tables.summary import summary

VLLM = {
    "model_id": "m-7B",
    "max_concurrency": 4,
    "request_rate": "inf",
    "request_throughput": 1.0,
    "input_lens": [10, 12, 11],
    "output_lens": [5, 3, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.02, 0.02], [0.05, 0.05], []],
    "errors": ["", "", "boom"],
    "start_times": [0.0, 1.0, 2.0],
}
GUIDELLM = {
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 2}},
            "requests": {
                "successful": [
                    {
                        "prompt_tokens": 10,
                        "output_tokens": 11,
                        "request_latency": 9.0,
                        "info": {
                            "timings": {
                                "request_start": 100.0,
                                "first_iteration": 100.5,
                                "last_iteration": 101.5,
                            }
                        },
                    }
                ],
                "errored": [{"error": "boom", "info": {"timings": {"request_start": 101.0}}}],
            },
        }
    ]
}
AIPERF = [
    {
        "metadata": {"request_start_ns": 5_000_000_000},
        "metrics": {
            "time_to_first_token": {"value": 500.0, "unit": "ms"},
            "request_latency": {"value": 1500.0, "unit": "ms"},
            "output_sequence_length": {"value": 11, "unit": "tokens"},
            "input_sequence_length": {"value": 10, "unit": "tokens"},
        },
    },
    {"metadata": {"request_start_ns": 6_000_000_000}, "metrics": {}, "error": {"message": "boom"}},
]


def imported(document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Import a document and write a report of it; returns the JSON output of the import."""
    path, out = tmp_path / "theirs.json", tmp_path / "run"
    lines = document if isinstance(document, list) else [document]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    assert main(["import", str(path), "--out", str(out), "--num-gpus", "2"]) == 0
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["report", str(out), "--page-only"]) == 0
    return last


@pytest.mark.parametrize(
    ("document", "tool"), [(VLLM, "vllm bench serve"), (GUIDELLM, "guidellm"), (AIPERF, "AIPerf")]
)
def test_each_tool_is_recognised_and_explained(
    document: Any, tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool is named, notes are printed, and failed requests are rows."""
    last = imported(document, tmp_path, capsys)
    assert last["tool"] == tool
    assert last["notes"]
    frame = analysis.load(tmp_path / "run")
    assert (frame["outcome"] == "http_error").sum() == 1
    assert frame["sent_s"].min() == 0


def test_vllm_bench_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """e2e is ttft + the gaps, and tpot is computed per token and not per chunk."""
    imported(VLLM, tmp_path, capsys)
    row = analysis.load(tmp_path / "run").iloc[0]
    assert (row["ttft_s"], row["e2e_s"], row["tpot_s"]) == pytest.approx((0.1, 0.14, 0.01))
    assert row["gpu_s_paper"] == pytest.approx(0.28)
    assert row["load"] == "c4"


def test_without_start_times_the_cost_of_a_run_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Latencies are known, and no time of the run is invented. The result of SGLang has the same fields."""
    document = {name: value for name, value in VLLM.items() if name != "start_times"}
    last = imported(document | {"backend": "sglang-oai-chat", "output_throughput": 8.0}, tmp_path, capsys)
    assert last["tool"] == "SGLang bench_serving"
    assert any("no start times" in note and "8.0 output tokens/s" in note for note in last["notes"])
    frame = analysis.load(tmp_path / "run")
    assert frame["sent_s"].isna().all()
    assert frame["e2e_s"].iloc[0] == pytest.approx(0.14)
    row = summary(frame, 3.5).iloc[0]
    assert np.isnan([row["gpu_s_per_token"], row["tokens_per_s_gpu"], row["gpu_s_per_request"]]).all()


def test_several_results_in_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--append-result` writes one result a line."""
    path = tmp_path / "theirs.json"
    path.write_text(2 * (json.dumps(VLLM) + "\n"))
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "2 results in one file" in capsys.readouterr().err


def test_an_infinite_rate_is_a_burst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`vllm bench serve` without a limit sends all requests at once, which is a burst and not a rate of `inf`."""
    imported({name: value for name, value in VLLM.items() if name != "max_concurrency"}, tmp_path, capsys)
    assert set(analysis.load(tmp_path / "run")["load"]) == {"burst"}


def test_warm_up_requests_of_aiperf_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A request of AIPerf's warm-up phase is marked as warm-up."""
    first = {**AIPERF[0], "metadata": {"request_start_ns": 1, "benchmark_phase": "warmup"}}
    imported([first, *AIPERF], tmp_path, capsys)
    assert analysis.load(tmp_path / "run")["warmup"].tolist() == [True, False, False]


@pytest.mark.parametrize("document", [GUIDELLM, AIPERF])
def test_first_and_last_token_make_ttft_e2e_and_tpot(
    document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of 11 tokens comes after half a second, and the other ten take one second."""
    imported(document, tmp_path, capsys)
    row = analysis.load(tmp_path / "run").iloc[0]
    assert (row["ttft_s"], row["e2e_s"], row["tpot_s"]) == pytest.approx((0.5, 1.5, 0.1))


@pytest.mark.parametrize(
    "text", ["{}", "no json", '{"benchmarks": []}', '{"ttfts": []}', '{"ttfts": 3}', "[1]"]
)
def test_anything_else_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown file gives exit status 2 and one line, and no folder is created."""
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_nan_and_missing_times_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A NaN is no measurement, and a request without a start time has no place in the time of the run."""
    document = VLLM | {
        "ttfts": [0.1, 0.2, float("nan")],
        "itls": [[0.02, float("nan")], [0.05], []],
        "errors": [""],
    }
    imported(document | {"start_times": [7.0, 8.0]}, tmp_path, capsys)
    frame = analysis.load(tmp_path / "run")
    assert frame["outcome"].tolist() == ["ok", "ok", "http_error"]
    assert np.isnan(frame["e2e_s"][0])
    assert frame["e2e_s"][1] == pytest.approx(0.25)
    assert frame["sent_s"].tolist()[:2] == [0.0, 1.0]
    assert np.isnan(frame["sent_s"][2])


def test_a_file_of_aiperf_with_one_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON line is also a JSON document."""
    assert imported(AIPERF[:1], tmp_path, capsys)["tool"] == "AIPerf"
