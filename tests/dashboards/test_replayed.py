"""Every query of every dashboard returns data while the metrics of a recorded server, client and GPU increase from zero."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ROOT
from tests.fixtures.dashboards import FILES, ask, queries
from tests.fixtures.prometheus import Prometheus, needs_prometheus, prometheus
from tests.fixtures.replay import replaying, rise

RECORDINGS = ROOT / "tests" / "recordings"
SERVERS = {
    "vllm-0.26": "measurements/h200-1.5b-tp1-off.metrics.txt",
    "vllm-0.26-ngram": "measurements/h200-1.5b-tp1-ngram.metrics.txt",
    "vllm-0.26-tp2": "measurements/h200-1.5b-tp2-off.metrics.txt",
    "vllm-0.32": "reference/vllm-samples/base-metrics-after.prom",
    "vllm-0.32-ngram": "reference/vllm-samples/ngram-metrics-after.prom",
    "vllm-0.32-tp2": "reference/vllm-samples/tp2-metrics.prom",
}
RAMP_S = 10


@dataclass(frozen=True)
class Replay:
    """A Prometheus that scraped the recordings while they increased from `start_s` to `end_s`."""

    server: Prometheus
    start_s: float
    end_s: float


@pytest.fixture(scope="module")
def replay(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    """All recordings at the same time, each as a separate configuration with a client and a GPU."""
    pages = {}
    for config, path in SERVERS.items():
        pages[f"/{config}/metrics"] = (shared / path).read_text()
        pages[f"/{config}/client"] = (RECORDINGS / "loadgen.prom").read_text().replace("CONFIG", config)
        pages[f"/{config}/gpu"] = (RECORDINGS / "gpu.prom").read_text()
    with prometheus(tmp_path_factory.mktemp("prometheus")) as server, replaying(pages, RAMP_S) as address:
        start_s = time.time()
        server.set_targets("recordings", [target for config in SERVERS for target in targets(address, config)])
        time.sleep(RAMP_S + 2)
        yield Replay(server, start_s, time.time())


def targets(address: str, config: str) -> list[dict[str, object]]:
    """The targets that a launcher writes. The instance of a client is a name, because all clients share one port here."""
    who = {"config": config, "model": "m", "tp": "2" if "tp2" in config else "1", "run": "recorded"}
    who["speculation"] = "ngram" if "ngram" in config else "none"
    path = "__metrics_path__"
    return [
        {"targets": [address], "labels": {**who, "job": "server", path: f"/{config}/metrics"}},
        {"targets": [address], "labels": {**who, "job": "gpu", path: f"/{config}/gpu"}},
        {"targets": [address], "labels": {"job": "loadgen", path: f"/{config}/client", "instance": config}},
    ]


@needs_prometheus
@pytest.mark.parametrize("config", SERVERS)
@pytest.mark.parametrize("board", FILES, ids=lambda path: path.stem)
def test_every_query_has_data(replay: Replay, board: Path, config: str) -> None:
    """With one configuration selected, a query returns a number that is not NaN within a second, whatever the version of vLLM."""
    answers = [ask(replay.server, query, replay.start_s, replay.end_s, {"config": config}) for query in queries(board)]
    assert [fault for fault in (answer.fault() for answer in answers) if fault] == []


@needs_prometheus
def test_a_healthy_replay_raises_no_alert(replay: Replay) -> None:
    assert replay.server.firing() == set()


def test_a_replay_ends_with_its_recording() -> None:
    """Counts are integers and cumulative at every step, gauges are constant, and the last step equals the recording."""
    steps = [text.splitlines()[1::2] for text in (rise(RECORDING, 0.5), rise(RECORDING, 1))]
    assert steps[0] == ['tokens_total{engine="0"} 50', "running 3.0", 'wait_bucket{le="1.0"} 2', "wait_sum 2.0"]
    assert steps[1] == ['tokens_total{engine="0"} 101', "running 3.0", 'wait_bucket{le="1.0"} 5', "wait_sum 4.0"]


RECORDING = """\
# TYPE tokens_total counter
tokens_total{engine="0"} 101.0
# TYPE running gauge
running 3.0
# TYPE wait histogram
wait_bucket{le="1.0"} 5.0
wait_bucket{le="+Inf"} 9.0
wait_sum 4.0
"""
