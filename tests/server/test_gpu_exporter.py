"""The GPU exporter uses the metric names and labels of dcgm-exporter. The samples are constants, because NVML needs a GPU."""

import signal
import subprocess
import sys
import threading
import urllib.request
from http.server import ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.target.gpu_log import gpu_inventory, gpu_rows
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import gpus
from server.emulator.engine.step_time import Usage
from server.gpu import GpuSample
from server.gpu.exporter import exposition, fields, handler
from server.launch.gpus import inventory
from server.launch.lifecycle import gpu_metrics
from tests import ROOT

VALUES = {
    "DCGM_FI_DEV_POWER_USAGE": 412.5,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 123456789012.0,
    "DCGM_FI_DEV_GPU_UTIL": 97.0,
    "DCGM_FI_DEV_FB_USED": 131072.0,
    "DCGM_FI_DEV_SM_CLOCK": 1980.0,
    "DCGM_FI_PROF_DRAM_ACTIVE": 0.83,
    "DCGM_FI_PROF_SM_ACTIVE": 0.5,
}


def sample(index: int, values: dict[str, float], name: str = "NVIDIA H200") -> GpuSample:
    return GpuSample(index, f"GPU-{index}", f"00000000:{index:02X}:00.0", name, "host", "580.159.04", values)


def test_page_is_prometheus_text_with_dcgm_labels() -> None:
    """Each metric appears once, with a series for each GPU and the labels of dcgm-exporter."""
    families = {f.name: f for f in text_string_to_metric_families(exposition([sample(0, VALUES), sample(1, VALUES)]))}
    assert families.keys() == VALUES.keys()
    power = families["DCGM_FI_DEV_POWER_USAGE"]
    assert power.type == "gauge"
    assert [row.labels["gpu"] for row in power.samples] == ["0", "1"]
    assert power.samples[1].labels == {
        "gpu": "1",
        "UUID": "GPU-1",
        "pci_bus_id": "00000000:01:00.0",
        "device": "nvidia1",
        "modelName": "NVIDIA H200",
        "hostname": "host",
        "DCGM_FI_DRIVER_VERSION": "580.159.04",
    }


def test_a_value_that_a_gpu_does_not_report_is_absent() -> None:
    """A value that was not read is not zero: an old GPU has no activity counters."""
    page = exposition([sample(0, {"DCGM_FI_DEV_POWER_USAGE": 70.0})])
    assert "DCGM_FI_PROF" not in page
    assert exposition([]) == "\n"


def test_counters_keep_every_digit_and_labels_are_escaped() -> None:
    """Energy since boot is a large number, of which small differences are used."""
    page = exposition([sample(0, {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 123456789012.0}, name='A "b" \\ c')])
    assert page.endswith(" 123456789012\n")
    families = list(text_string_to_metric_families(page))
    assert families[0].samples[0].labels["modelName"] == 'A "b" \\ c'


def test_the_load_generator_reads_it_like_the_emulator() -> None:
    rows = gpu_rows(exposition([sample(0, VALUES)]))
    assert rows["0"]["power_w"] == 412.5
    assert round(rows["0"]["energy_j"], 3) == 123456789.012
    assert rows["0"]["dram_active"] == 0.83
    assert gpu_inventory(exposition([sample(0, VALUES)]))[0]["uuid"] == "GPU-0"


def test_fields_cover_those_of_the_emulator() -> None:
    """One dashboard works with dcgm-exporter (which reads this list), with NVML and with the emulator."""
    telemetry = Telemetry(gpus()["h200"], 2, used_bytes=0, seed=0)
    assert telemetry.readings(0.0, Usage()).keys() <= {name for name, _, _ in fields()}
    page = telemetry.render(1.0, Usage()).decode()
    assert page.count('modelName="NVIDIA H200 (emulated)"') == 2 * len(telemetry.readings(1.0, Usage()))


def test_served_over_http() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(lambda: [sample(0, VALUES)]))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert b"DCGM_FI_DEV_POWER_USAGE" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("ends_by", ["SIGTERM", "the end of its standard input"])
def test_the_process_ends_without_a_message(ends_by: str) -> None:
    """The exporter of a sweep ends with its group of servers, while a thread of it waits for the end of standard input."""
    program = "from server.gpu.exporter import serve; serve(list, '127.0.0.1', 0, until_stdin_closes=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as exporter:
        assert exporter.stderr is not None
        assert exporter.stderr.readline().startswith(b"gpu-exporter: http://")
        if ends_by == "SIGTERM":
            exporter.send_signal(signal.SIGTERM)
            assert exporter.wait() == 0  # its standard input is still open
        _, said = exporter.communicate()
    assert (exporter.returncode, said) == (0, b"")


@pytest.mark.skipif(bool(inventory()), reason="this machine has a GPU")
def test_a_sweep_says_why_there_is_no_telemetry(capfd: pytest.CaptureFixture[str]) -> None:
    """The exporter itself prints nothing, because that would be written over the screen of the sweep."""
    said: list[str] = []
    with gpu_metrics((0,), said.append):
        pass
    assert said[-1].startswith("no GPU telemetry: gpu-exporter: no GPU can be read: ")
    assert capfd.readouterr() == ("", "")
