"""Results of other tools become run folders, with fields as Thinkload defines them and notes for the differences."""

import json
import sqlite3
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
                            "timings": {"request_start": 100.0, "first_iteration": 100.5, "last_iteration": 101.5}
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


def imported(document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_gpus: str = "2") -> dict[str, Any]:
    """Import a document and write a report of it; returns the JSON output of the import."""
    tmp_path.mkdir(exist_ok=True)
    path, out = tmp_path / "theirs.json", tmp_path / "run"
    lines = document if isinstance(document, list) else [document]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    gpus = ["--num-gpus", num_gpus] if num_gpus else []
    assert main(["import", str(path), "--out", str(out), *gpus]) == 0
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["report", str(out), "--page-only"]) == 0
    return last


@pytest.mark.parametrize(("document", "tool"), [(VLLM, "vllm bench serve"), (GUIDELLM, "guidellm"), (AIPERF, "AIPerf")])
def test_each_tool_is_recognised_and_explained(
    document: Any, tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool is named, notes are printed, and failed requests are rows."""
    last = imported(document, tmp_path, capsys)
    assert last["tool"] == tool
    assert last["notes"]
    assert not any("base." in note for note in last["notes"])
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


def test_without_start_times_the_cost_of_a_run_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_each_line_of_append_result_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rates of one workload are two loads, and another workload at the same load is another data set."""
    other = VLLM | {"input_lens": [10, 12, 13]}
    rates: list[dict[str, Any]] = [VLLM, VLLM | {"request_rate": 2.0, "max_concurrency": None}, other]
    assert imported(rates, tmp_path, capsys)["runs"] == 3
    frame = analysis.load(tmp_path / "run")
    assert sorted(frame.groupby("cell", observed=True)["load"].first()) == ["2/s poisson", "c4", "c4"]
    table = summary(frame, 3.5)
    assert table["n"].tolist() == [3, 3, 3]
    assert table["dataset"].nunique() == 2


def test_the_summary_of_a_sweep_is_a_run_for_each_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`vllm bench sweep` writes an indented list. Without details the error says where to ask for them."""
    runs = [VLLM | {"run_number": number, "max_num_seqs": 256} for number in range(3)]
    assert imported([runs], tmp_path / "a", capsys)["runs"] == 3
    assert len(analysis.load(tmp_path / "a" / "run")) == 9
    summary_file = tmp_path / "summary.json"
    short = [{name: value for name, value in run.items() if not isinstance(value, list)} for run in runs]
    summary_file.write_text(json.dumps(short, indent=4))
    assert main(["import", str(summary_file), "--out", str(tmp_path / "b")]) == 2
    assert "--save-detailed in --bench-cmd" in capsys.readouterr().err


def test_the_timings_of_the_server_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """VLLM 0.33 keeps queue time and TTFT of the server in seconds; a request without them has null."""
    theirs = VLLM | {"server_queue_times": [0.004, None, None], "server_ttfts": [0.09, 0.15, None]}
    imported(theirs, tmp_path, capsys)
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line).get("server_timings") for line in lines] == [
        {"queue_time_ms": pytest.approx(4), "time_to_first_token_ms": pytest.approx(90)},
        {"time_to_first_token_ms": pytest.approx(150)},
        None,
    ]


def test_sglang_is_named_by_its_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SGLang's program can load a vLLM server, and vLLM's an SGLang server: the backend's name is not the tool's."""
    theirs = VLLM | {"backend": "vllm", "total_output_tokens_retokenized": 8}
    assert imported(theirs, tmp_path / "a", capsys)["tool"] == "SGLang bench_serving"
    ours = VLLM | {"backend": "sglang", "tokenizer_id": "m-7B"}
    assert imported(ours, tmp_path / "b", capsys)["tool"] == "vllm bench serve"


def test_without_their_number_gpus_have_no_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(VLLM, tmp_path, capsys, num_gpus="")
    assert summary(analysis.load(tmp_path / "run"), 3.5)["gpu_s_per_token"].isna().all()


def test_every_benchmark_of_guidellm_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its own load; the model is in the arguments, and what the end of a benchmark cancelled did not fail."""
    requests = GUIDELLM["benchmarks"][0]["requests"]
    rates = [
        {
            "config": {"strategy": {"type_": kind, "rate": rate}, "backend": {"model": "m-7B"}},
            "requests": requests | {"incomplete": [{"info": {"timings": {"request_start": 102.0}}}]},
        }
        for kind, rate in (("poisson", 2.0), ("constant", 4.0))
    ]
    empty = {"config": {}, "requests": {}}
    assert imported({"benchmarks": [*GUIDELLM["benchmarks"], *rates, empty]}, tmp_path, capsys)["runs"] == 3
    frame = analysis.load(tmp_path / "run")
    assert set(frame["load"]) == {"c2", "2/s poisson", "4/s constant"}
    assert set(frame["model"]) == {"unknown", "m-7B"}
    assert (frame["outcome"] == "cancelled").sum() == 2


def test_aiperf_has_its_model_load_acceptance_and_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Model and load are in the file beside it; an error is what its status or its type says."""
    speculation = {"spec_decode_acceptance_length": 2.5, "spec_decode_draft_acceptance_rate": 30.0}
    metrics = AIPERF[0]["metrics"] | {name: {"value": value} for name, value in speculation.items()}
    errors = [
        ({"code": 503, "type": "InternalServerError"}, {}, "server_error"),
        ({"code": 429, "type": "TooManyRequests"}, {}, "rate_limited"),
        ({"code": 499, "type": "RequestCancellationError"}, {}, "cancelled"),
        ({"type": "ClientPayloadError", "message": "incomplete"}, {}, "cut"),
        ({"type": "OSError"}, {"time_to_first_token": {"value": 9.0, "unit": "ms"}}, "cut"),
        ({"type": "TimeoutError"}, {}, "timeout"),
        ({"code": 400, "type": "BadRequest"}, {}, "http_error"),
    ]
    lines = [
        {"metadata": {"request_start_ns": 7_000_000_000}, "metrics": found, "error": error}
        for error, found, _ in errors
    ]
    loadgen = {"loadgen": {"concurrency": 8}, "endpoint": {"model_names": ["m-7B"]}}
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps({"input_config": loadgen}))
    imported([AIPERF[0] | {"metrics": metrics}, *lines], tmp_path, capsys)
    frame = analysis.load(tmp_path / "run")
    assert frame["outcome"].tolist() == ["ok", *(outcome for _, _, outcome in errors)]
    assert (frame["model"][0], frame["load"][0]) == ("m-7B", "c8")
    assert frame["draft_acceptance_rate"][0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("phase", "label"),
    [
        ({"type": "concurrency", "concurrency": 4}, "c4"),
        ({"type": "poisson", "rate": 2.0, "concurrency": 64}, "2/s poisson"),
        ({"type": "gamma", "rate": 2.0, "smoothness": 3.0}, "2/s gamma"),
        ({"type": "fixed_schedule"}, "unknown"),
    ],
)
def test_the_phases_and_items_of_newer_files_of_aiperf_are_read(
    phase: dict[str, Any], label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AIPerf 0.13 writes its models as items and its load as phases, of which the warm-up is not the measured one."""
    phases = [{"kind": "warmup", "type": "concurrency", "concurrency": 1}, phase | {"kind": "profiling"}]
    asked = {"models": {"items": [{"name": "m-7B"}]}, "endpoint": {"type": "chat"}, "phases": phases}
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps({"input_config": asked}))
    imported(AIPERF, tmp_path, capsys)
    frame = analysis.load(tmp_path / "run")
    assert (frame["model"][0], frame["load"][0]) == ("m-7B", label)


@pytest.mark.parametrize(
    ("words", "outcome"),
    [("ReadTimeout: ", "timeout"), ("Connection refused", "refused"), ("400 Bad Request", "http_error")],
)
def test_a_failure_is_what_its_words_say(
    words: str, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of guidellm and vllm bench have no status of a failed request, only the words of its error."""
    requests = GUIDELLM["benchmarks"][0]["requests"] | {"errored": [{"error": words}]}
    imported({"benchmarks": [GUIDELLM["benchmarks"][0] | {"requests": requests}]}, tmp_path / "1", capsys)
    imported(VLLM | {"errors": ["", "", words]}, tmp_path / "2", capsys)
    for number in ("1", "2"):
        assert analysis.load(tmp_path / number / "run")["outcome"].tolist()[-1] == outcome


def test_evalscope_is_read_from_its_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """e2e ends at the last content chunk and not at the usage; a failure has no reason; the responses are not read."""
    path = tmp_path / "benchmark_data.db"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE result(request TEXT, start_time REAL, inter_token_latencies TEXT, success INTEGER, "
            "response_messages TEXT, completed_time REAL, latency REAL, first_chunk_latency REAL, "
            "prompt_tokens INTEGER, completion_tokens INTEGER)"
        )
        rows = [
            ("a", 100.0, "[0.25, 0.25]", 1, "no pickle, of vllm-0.26.0-emulated", 101.2, 1.2, 0.5, 10, 11),
            ("b", 101.0, "[]", 0, None, 102.0, None, None, None, None),
        ]
        database.executemany(f"INSERT INTO result VALUES ({', '.join('?' * 10)})", rows)
    database.close()
    (tmp_path / "benchmark_args.json").write_text('{"model": "m-7B", "parallel": 4, "rate": -1}')
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["tool"] == "evalscope perf"
    frame = analysis.load(tmp_path / "run")
    assert frame["outcome"].tolist() == ["ok", "http_error"]
    assert (frame["model"][0], frame["load"][0], frame["source"][0]) == ("m-7B", "c4", "emulated")
    assert frame.loc[0, ["ttft_s", "e2e_s", "tpot_s"]].tolist() == pytest.approx([0.5, 1.0, 0.05])
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE runs(name TEXT)")
    other.close()
    assert main(["import", str(tmp_path / "other.db"), "--out", str(tmp_path / "no")]) == 2


def test_inference_perf_has_the_time_of_each_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both shapes of `info`; the server's count of tokens comes first, and an emulated server stays marked."""
    body, times = json.dumps({"model": "m-7B"}), [10.5, 11.0, 11.5]
    new = {"request_metrics": {"text": {"input_tokens": 7}}}
    new |= {
        "response_metrics": {"output_tokens": 4, "output_token_times": times, "server_usage": {"completion_tokens": 3}}
    }
    old = {"input_tokens": 7, "output_tokens": 3, "output_token_times": times}
    fingerprint = '{"system_fingerprint": "vllm-0.26.0-emulated"}'
    about = {"request": body, "start_time": 10.0, "end_time": 12.0}
    requests = [
        about | {"info": new, "error": None, "response": fingerprint},
        about | {"info": old, "error": None, "response": ""},
        about | {"info": None, "error": {"error_type": "ClientPayloadError", "error_msg": "x"}, "response": ""},
    ]
    path = tmp_path / "per_request_lifecycle_metrics.json"
    path.write_text(json.dumps(requests))
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["tool"] == "inference-perf"
    frame = analysis.load(tmp_path / "run")
    assert frame["outcome"].tolist() == ["ok", "ok", "cut"]
    for row in (0, 1):
        assert frame.loc[row, ["ttft_s", "e2e_s", "tpot_s"]].tolist() == pytest.approx([0.5, 1.5, 0.5])
    assert set(frame["source"]) == {"emulated"}
    assert frame["model"][0] == "m-7B"


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


@pytest.mark.parametrize("text", ["{}", "no json", '{"benchmarks": []}', '{"ttfts": []}', '{"ttfts": 3}', "[1]"])
def test_anything_else_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown file gives exit status 2 and one line, and no folder is created."""
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


NEGATIVE = {"ttfts": [-1.0] * 20, "itls": [[0.1]] * 20, "errors": [], "start_times": [n / 2 for n in range(20)]}


@pytest.mark.parametrize("odd", [{"output_lens": [None] * 3}, {"output_lens": [-5] * 3}, NEGATIVE])
def test_odd_numbers_do_not_stop_the_report(
    odd: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any count of tokens there is no series of tokens, and times that end before they begin are no run."""
    imported(VLLM | odd, tmp_path, capsys)


@pytest.mark.parametrize(("itls", "e2e_s"), [([None] * 3, None), ([[], [], []], 0.1)])
def test_without_gaps_the_time_per_token_is_unknown(
    itls: list[Any], e2e_s: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing gaps are not gaps of zero, and one chunk with all tokens has no time per token; a null model is unknown."""
    imported(VLLM | {"itls": itls, "model_id": None}, tmp_path, capsys)
    row = analysis.load(tmp_path / "run").iloc[0]
    assert np.isnan(row["e2e_s"]) if e2e_s is None else row["e2e_s"] == e2e_s
    assert np.isnan(row["tpot_s"])
    assert row["model"] == "unknown"


def test_nan_and_missing_times_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A NaN is no measurement, and a request without a start time has no place in the time of the run."""
    document = VLLM | {"ttfts": [0.1, 0.2, float("nan")], "itls": [[0.02, float("nan")], [0.05], []], "errors": [""]}
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
