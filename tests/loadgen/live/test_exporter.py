"""What shows a run while it is running: the values of the Prometheus metrics, and the lines on stderr."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.errors import UsageError
from loadgen.live.exporter import Metrics, serving
from loadgen.measure.formulas import meets
from loadgen.record import Record, RunInfo
from tests.fixtures.emulated import ROOT, emulated, loadgen

RUN = RunInfo(run_id="r", config="tp2-ngram", model="m", target="http://x/v1", started_at="", clock={"wall_s": 5.0},
              tensor_parallel_size=2, speculation="ngram", emulated=True, load={"rate": 4.0})  # fmt: skip


def record(**more: Any) -> Record:
    fields: dict[str, Any] = {
        "run_id": "r", "seq": 0, "problem_id": "p", "budget": 64, "due_s": 0.0, "outcome": "ok", "ttft_s": 0.03,
        "tpot_s": 0.002, "e2e_s": 0.2, "e2e_due_s": 0.3, "send_lag_s": 0.0002, "prompt_tokens": 9,
    }  # fmt: skip
    return Record(**{**fields, **more})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_metrics_count_the_records() -> None:
    metrics = Metrics()
    metrics.begin(msgspec.structs.replace(RUN, slo={"ttft": 0.05}), 10, 4.0)
    metrics.observe(record(), {"ttft": 0.05})
    metrics.observe(record(ttft_s=0.07), {"ttft": 0.05})
    metrics.observe(record(outcome="reset", ttft_s=None), {"ttft": 0.05})
    metrics.observe(record(warmup=True), {"ttft": 0.05})
    assert value(metrics, "loadgen_requests_total", outcome="ok", budget="64") == 3
    assert value(metrics, "loadgen_requests_total", outcome="reset", budget="64") == 1
    assert value(metrics, "loadgen_good_requests_total", budget="64") == 1
    assert value(metrics, "loadgen_slo_requests_total", budget="64") == 3
    assert value(metrics, "loadgen_slo_seconds", objective="ttft") == 0.05
    assert value(metrics, "loadgen_ttft_seconds_count", budget="64") == 2
    assert value(metrics, "loadgen_ttft_seconds_bucket", budget="64", le="0.04") == 1
    assert value(metrics, "loadgen_prompt_tokens_total", budget="64") == 36
    labels = {"run": "r", "config": "tp2-ngram", "model": "m", "tp": "2", "speculation": "ngram"}
    assert value(metrics, "loadgen_run_info", **labels, target="http://x/v1", emulated="true") == 1
    assert value(metrics, "loadgen_requests_planned") == 10
    assert value(metrics, "loadgen_run_started_timestamp_seconds") == 5.0


def test_gaps_are_counted_in_model_seconds() -> None:
    """At a speed of 2, gaps of 1, 1 and 3 real ms are 2, 2 and 6 model ms."""
    metrics = Metrics()
    metrics.gaps.observe([0, 1_000_000, 2_000_000, 5_000_000], 2.0)
    assert value(metrics, "loadgen_inter_chunk_seconds_bucket", le="0.002") == 2
    assert value(metrics, "loadgen_inter_chunk_seconds_bucket", le="0.0075") == 3
    assert value(metrics, "loadgen_inter_chunk_seconds_count") == 3
    assert value(metrics, "loadgen_inter_chunk_seconds_sum") == pytest.approx(0.01)


def test_one_verdict_is_current() -> None:
    metrics = Metrics()
    assert value(metrics, "loadgen_verdict", verdict="RUNNING") == 1
    metrics.end("SUSPECT")
    assert [value(metrics, "loadgen_verdict", verdict=v) for v in ("RUNNING", "VALID", "SUSPECT")] == [0, 0, 1]
    assert (value(metrics, "loadgen_run_ended_timestamp_seconds") or 0) > 1e9


def test_a_port_that_the_user_gives_must_be_free() -> None:
    with serving(Metrics(), "127.0.0.1", 0) as where:
        url = where.removeprefix("metrics: ")
        page = urllib.request.urlopen(url).read().decode()
        assert "loadgen_requests_in_flight 0.0" in page
        used = serving(Metrics(), "127.0.0.1", int(url.split(":")[2].split("/")[0]))
        with pytest.raises(UsageError, match="--metrics-port"), used:
            pass
    with serving(Metrics(), "127.0.0.1", -1) as where:
        assert where == "metrics: off"


def test_the_message_of_an_ipv6_address_is_a_url() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(Metrics(), "::1", 0) as where:
        assert b"loadgen_" in urllib.request.urlopen(where.removeprefix("metrics: ")).read()


def test_the_verdict_can_be_scraped_before_the_process_ends(tmp_path: Path) -> None:
    """Regular scrapes contain the requests in flight, the tokens as they arrive, and in the end the verdict."""
    with emulated("tp1", "--speed", "8") as url, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "--metrics-port", str(port), "--target", url, "--dataset", "sample",
             "--budgets", "2048", "--out", str(tmp_path / "run")],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        pages = []
        while process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
                if page.endswith("\n"):  # the process may end during a response, which is then incomplete
                    pages.append(page)
            time.sleep(0.1)
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    verdict = json.loads(stdout.splitlines()[-1])["verdict"]
    assert f'loadgen_verdict{{verdict="{verdict}"}} 1.0' in pages[-1]
    assert 'loadgen_requests_total{budget="2048",outcome="ok"} 49.0' in pages[-1]
    in_flight = [float(re.findall(r"^loadgen_requests_in_flight (\S+)", page, re.MULTILINE)[0]) for page in pages]
    assert max(in_flight) == 16
    assert in_flight[-1] == 0


def test_a_request_without_a_latency_meets_its_objective() -> None:
    """What was not measured is not met, but one token alone has no TPOT; a failure meets nothing."""
    assert not meets(record(tpot_s=None), {"tpot": 0.001})
    assert meets(record(tpot_s=None, completion_tokens=1, chunks=1), {"tpot": 0.001})
    assert not meets(record(tpot_s=0.002), {"tpot": 0.001})
    assert not meets(record(outcome="cut"), {"ttft": 1.0})


def test_doctor_names_what_would_disturb_a_run() -> None:
    """It reports that the server is emulated, shares the machine and counts tokens exactly. Nothing is written."""
    with emulated("tp1", "--speed", "0.2") as url:  # slow tokens, so that a busy machine does not put two in one chunk
        done = loadgen(url, "--dataset", "sample", verb="doctor")
    assert done.returncode == 0, done.stderr
    assert re.search(r"WARN\s+server\s+EMULATED, 0.2 x", done.stderr)
    assert re.search(r"GOOD\s+token counts\s+exact", done.stderr)
    assert re.search(r"WARN\s+host\s+client and server share", done.stderr)
    assert re.search(r"GOOD\s+prefix cache\s+off", done.stderr)


def test_calibrate_finds_the_capacity_of_the_machine(tmp_path: Path) -> None:
    """The number of streams is doubled in each step, and a result is stored for later runs."""
    done = loadgen("--most", "8", verb="calibrate", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert "8 streams" in done.stderr
    assert (tmp_path / "thinkload" / "calibration.json").exists() == (done.returncode == 0)
