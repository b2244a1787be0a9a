"""Panels for what goes wrong show it: a GPU that fails or is throttled, requests that wait, and a target that does not answer."""

import time
from pathlib import Path

import pytest

from tests.fixtures.dashboards import FOLDER, filled, queries
from tests.fixtures.parallel import free_port
from tests.fixtures.prometheus import Prometheus, needs_prometheus, prometheus
from tests.fixtures.replay import replaying

pytestmark = needs_prometheus

RAMP_S = 12
WHO = {"config": "c", "model": "m", "tp": "1", "speculation": "none", "run": "r"}
GPU = f"""# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{{gpu="0"}} 690
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{{gpu="0"}} 84
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{{gpu="0"}} 79
# TYPE DCGM_FI_DEV_POWER_VIOLATION counter
DCGM_FI_DEV_POWER_VIOLATION{{gpu="0"}} {RAMP_S * 0.5e9:.0f}
"""
ENGINE = "".join(
    f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="{engine}"}} 8
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{{engine="{engine}",reason="capacity"}} 4
vllm:num_requests_waiting_by_reason{{engine="{engine}",reason="deferred"}} 1
# TYPE vllm:estimated_flops_per_gpu_total counter
vllm:estimated_flops_per_gpu_total{{engine="{engine}"}} {RAMP_S * 0.4 * 989e12:.0f}
# TYPE vllm:request_prompt_tokens histogram
vllm:request_prompt_tokens_sum{{engine="{engine}"}} 30000
vllm:request_prompt_tokens_count{{engine="{engine}"}} 100
"""
    for engine in (0, 1)
)
EXPECTED: dict[str, dict[float, float]] = {
    "gpu_telemetry › Temperature": {84: 0, 0: 0},
    "gpu_telemetry › Last XID error": {79: 0},
    "gpu_telemetry › Throttling": {0.5: 0.3, 0: 0},
    "vllm_server › Waiting requests by reason": {8: 0, 2: 0},
    "vllm_server › Prompt length": {300: 0.2},
    "vllm_server › Model FLOPS utilization (MFU)": {0.4: 0.3},
    "vllm_server › Unreachable targets": {1: 0, 0: 0},
}
"""The lines of each panel, and the relative error that is allowed: rates are rough, because scrapes are late on a busy machine."""


def largest_values(server: Prometheus, panel: str, start_s: float) -> list[float]:
    """The largest value of each line of a panel, in ascending order; lines that are never a number are left out."""
    file, title = panel.split(" › ")
    exprs = [query.expr for query in queries(FOLDER / f"{file}.json") if f" › {title} › " in query.where]
    rows = [
        [float(value) for _, value in row["values"] if value != "NaN"]
        for expr in exprs
        for row in server.range(filled(expr, range_s=RAMP_S), start_s, time.time())
    ]
    return sorted(max(values) for values in rows if values)


def test_faults_are_visible(tmp_path: Path) -> None:
    """Each line shows what was exported. With two engines, MFU is their mean and waiting their sum."""
    with prometheus(tmp_path) as server, replaying({"/gpu": GPU, "/metrics": ENGINE}, RAMP_S) as address:
        start_s = time.time()
        gpu, gone = WHO | {"job": "gpu", "__metrics_path__": "/gpu"}, f"127.0.0.1:{free_port()}"
        server.set_targets(
            "faults",
            [
                {"targets": [address], "labels": WHO | {"job": "server"}},
                {"targets": [address], "labels": gpu},
                {"targets": [gone], "labels": gpu},
            ],
        )
        time.sleep(RAMP_S + 1)
        for panel, expected in EXPECTED.items():
            close = [pytest.approx(value, rel=rough) for value, rough in sorted(expected.items())]
            assert largest_values(server, panel, start_s) == close, panel
