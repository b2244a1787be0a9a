"""A real Prometheus over real runs: every query returns data, client and server agree, and problems of a run raise their alerts."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grafana import render
from loadgen.record import read_run
from tests.fixtures.dashboards import FILES, FOLDER, ask, filled, queries
from tests.fixtures.emulated import ROOT, emulated
from tests.fixtures.parallel import free_port
from tests.fixtures.prometheus import Prometheus, needs_prometheus, prometheus, until
from tests.loadgen.run.test_run import records

pytestmark = needs_prometheus

MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
TTFT_BUCKETS = (0, 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@contextmanager
def generator(port: int, target: str, out: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `python -m loadgen` during the block, with its metrics on `port`."""
    command = [sys.executable, "-m", "loadgen", "--target", target, "--dataset", "sample", "--out", str(out)]
    with subprocess.Popen(
        [*command, "--metrics-port", str(port), *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def announced(target: str, config: str) -> list[dict[str, Any]]:
    """The targets that the launcher writes for an emulated server."""
    address = target.removeprefix("http://").removesuffix("/v1")
    tp, _, speculation = config.removeprefix("tp").partition("-")
    who = {"config": config, "model": MODEL, "tp": tp, "speculation": speculation or "none", "run": "none"}
    gpu = {**who, "job": "gpu", "__metrics_path__": "/dcgm/metrics"}
    return [{"targets": [address], "labels": {**who, "job": "server"}}, {"targets": [address], "labels": gpu}]


def client(port: int) -> dict[str, Any]:
    """The target of the load generator."""
    return {"targets": [f"127.0.0.1:{port}"], "labels": {"job": "loadgen"}}


@dataclass(frozen=True)
class RecordedRuns:
    """Prometheus after two simultaneous runs, and the folders of the runs."""

    server: Prometheus
    start_s: float
    end_s: float
    folders: dict[str, Path]

    def start_and_end(self, config: str) -> tuple[float, float]:
        """Unix times at which a run started and ended. On a busy machine one run may end long before the other."""
        run = read_run(self.folders[config])
        assert run.duration_s is not None
        return run.clock["wall_s"], run.clock["wall_s"] + run.duration_s

    def board_query(self, board: str, panel: str, letter: str) -> str:
        """One of a panel's queries, by the letter of its reference."""
        where = f"{board} › {panel} › {letter}"
        (expr,) = (query.expr for query in queries(FOLDER / f"{board}.json") if query.where == where)
        return expr

    def last_samples(self, metric: str, condition: str = "") -> list[dict[str, Any]]:
        """The last sample of a metric of each load generator. A range query might not have a step at that time."""
        joined = "* on (instance) group_left (config) last_over_time(loadgen_run_info[10m])"
        return self.server.instant(f"(last_over_time({metric}[10m]) {condition}) {joined}", self.end_s)


LOADS = {
    "tp1": ("--rate", "2", "--arrival", "constant", "--requests", "48"),
    "tp2-ngram": ("--concurrency", "5", "--requests", "50"),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedRuns]:
    """An open loop on one configuration and a closed loop on another at the same time, in real time."""
    folder = tmp_path_factory.mktemp("live")
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(tmp_path_factory.mktemp("prometheus")))
        targets = {config: stack.enter_context(emulated(config, model="r1-distill-qwen-14b")) for config in LOADS}
        ports = {config: free_port() for config in LOADS}
        servers = [target for config in LOADS for target in announced(targets[config], config)]
        server.set_targets("runs", [*servers, *map(client, ports.values())])
        start_s, running = time.time(), []
        for config, load in LOADS.items():
            options = ("--budgets", "256,512", "--slo", "ttft=0.5,tpot=50ms,e2e=30", *load)
            running.append(stack.enter_context(generator(ports[config], targets[config], folder / config, *options)))
        assert until(lambda: all(process.poll() is not None for process in running), 200)
        yield RecordedRuns(server, start_s, time.time(), {config: folder / config for config in LOADS})


@pytest.mark.parametrize("board", FILES, ids=lambda path: path.stem)
def test_every_query_has_data_during_a_run(recorded: RecordedRuns, board: Path) -> None:
    """The queries of panels, variables and annotations return a number that is not NaN within a second; a failure names the panel."""
    answers = [ask(recorded.server, query, recorded.start_s, recorded.end_s) for query in queries(board)]
    assert [fault for fault in (answer.fault() for answer in answers) if fault] == []


@pytest.mark.parametrize("config", LOADS)
def test_client_and_server_count_the_same_tokens(recorded: RecordedRuns, config: str) -> None:
    """The two lines of the load test dashboard differ by at most 2 % from the middle of a run until its last requests."""
    start_s, end_s = recorded.start_and_end(config)
    client_rows, server_rows = (
        recorded.server.range(filled(expr, range_s=60, chosen={"config": config}), (start_s + end_s) / 2, end_s - 5)
        for expr in (
            recorded.board_query("load_test_run", "Output tokens: client and server", letter) for letter in "AB"
        )
    )
    (client_rates,), (server_rates,) = ([by_time(row) for row in rows] for rows in (client_rows, server_rows))
    both = client_rates.keys() & server_rates.keys()  # on a busy machine, a missed scrape leaves a gap in one of them
    assert len(both) >= 4
    assert sum(client_rates[at] for at in both) == pytest.approx(sum(server_rates[at] for at in both), rel=0.02)


def by_time(row: dict[str, Any]) -> dict[float, float]:
    """The values of one series of a range query, by time."""
    return {float(at): float(value) for at, value in row["values"]}


@pytest.mark.parametrize("config", LOADS)
def test_client_and_server_agree_on_the_first_token(recorded: RecordedRuns, config: str) -> None:
    """The median TTFT over the whole run in the client's panel is in the same bucket as in the server's, or in the next one."""
    start_s, end_s = recorded.start_and_end(config)
    buckets = []
    for panel in ("TTFT, client", "TTFT, server"):
        expr = recorded.board_query("load_test_run", panel, "A").replace("$__rate_interval", f"{end_s - start_s:.0f}s")
        # One second before the end, the labels of the load generator still exist and nearly all requests are counted.
        (row,) = recorded.server.instant(filled(expr, range_s=60, chosen={"config": config}), end_s - 1)
        buckets.append(bucket(float(row["value"][1])))
    assert abs(buckets[0] - buckets[1]) <= 1


def bucket(value: float) -> int:
    """The index of the vLLM bucket that contains a value."""
    return sum(bound < value for bound in TTFT_BUCKETS)


def test_the_comparison_matches_the_records(recorded: RecordedRuns) -> None:
    """Requests and tokens of each configuration and budget on the comparison dashboard equal those in records.jsonl."""
    range_s = recorded.end_s - recorded.start_s
    for letter, count in (("A", len), ("B", lambda rows: sum(r.completion_tokens for r in rows) / len(rows))):
        expr = recorded.board_query("configuration_comparison", "Latency by budget and configuration", letter)
        found = recorded.server.instant(filled(expr, range_s=range_s), recorded.end_s)
        assert len(found) == 4
        for row in found:
            labels = row["metric"]
            rows = [r for r in records(recorded.folders[labels["config"]]) if str(r.budget) == labels["budget"]]
            assert float(row["value"][1]) == pytest.approx(count(rows), rel=0.001), labels


def test_the_end_of_a_run_is_scraped(recorded: RecordedRuns) -> None:
    """The load generator waits for a last scrape, which contains the verdict of run.json and the time of the end."""
    verdicts = recorded.last_samples("loadgen_verdict", "== 1")
    last = {row["metric"]["config"]: row["metric"]["verdict"] for row in verdicts}
    ended = recorded.last_samples("loadgen_run_ended_timestamp_seconds")
    ended_s = {row["metric"]["config"]: float(row["value"][1]) for row in ended}
    for config, folder in recorded.folders.items():
        run = read_run(folder)
        assert last[config] == run.verdict
        assert run.clock["wall_s"] + (run.duration_s or 0) == pytest.approx(ended_s[config], abs=3)


def test_the_dashboards_can_be_drawn(recorded: RecordedRuns, tmp_path: Path) -> None:
    """`python -m grafana.render` draws a picture of each dashboard from the same Prometheus."""
    last, end = f"{recorded.end_s - recorded.start_s:.0f}s", str(recorded.end_s)
    url = recorded.server.url
    assert render.main(["--prometheus", url, "--last", last, "--end", end, "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in FILES}


PROBLEMS = {
    # A server with KV cache for two of eight requests, a server that fails every third request, and a client that the test stops.
    "full": (("--num-gpu-blocks-override", "160", "--max-model-len", "2048"), ("--concurrency", "8")),
    "failing": (("--fault", "error=0.3"), ("--rate", "8", "--arrival", "constant")),
    "stalled": ((), ("--concurrency", "2")),
}


@dataclass(frozen=True)
class Watch:
    """Runs with problems, and a Prometheus with the committed alerts, which fire after one second here."""

    server: Prometheus
    generators: dict[str, tuple["subprocess.Popen[str]", str]]
    """Process and instance of each load generator."""

    def fires(self, alert: str, instance: str | None = None, timeout_s: float = 150) -> bool:
        """Wait until the alert fires; False if it does not fire in time."""
        return until(lambda: alert in self.server.firing(instance), timeout_s)


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """All problems at the same time, because waiting for one after the other would take longer."""
    folder = tmp_path_factory.mktemp("problems")
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(tmp_path_factory.mktemp("alerts"), quick_alerts=True))
        generators, aimed = {}, []
        for name, (options, load) in PROBLEMS.items():
            target, port = stack.enter_context(emulated("tp1", *options)), free_port()
            aimed += [*announced(target, "tp1"), client(port)]
            long = ("--budgets", "1024", "--duration", "4m", *load)
            process = stack.enter_context(generator(port, target, folder / name, *long))
            generators[name] = process, f"127.0.0.1:{port}"
        server.set_targets("problems", aimed)
        yield Watch(server, generators)


def test_a_killed_server_is_reported(watch: Watch) -> None:
    """TargetDown fires for the server and its GPU. It stops when the server's target is removed, as after a normal stop."""
    with emulated("tp1") as target:
        watch.server.set_targets("killed", announced(target, "tp1"))
        address = target.removeprefix("http://").removesuffix("/v1")
        assert until(lambda: len(watch.server.instant(f'up{{instance="{address}"}} == 1')) == 2, 150)
        assert "TargetDown" not in watch.server.firing(address)
    assert watch.fires("TargetDown", address)
    watch.server.set_targets("killed", [])
    assert until(lambda: "TargetDown" not in watch.server.firing(address), 150)


def test_a_full_cache_is_reported(watch: Watch) -> None:
    assert watch.fires("KVCacheFull")


def test_failing_requests_are_reported(watch: Watch) -> None:
    assert watch.fires("ErrorRate", watch.generators["failing"][1])


def pause_repeatedly(process: subprocess.Popen[bytes]) -> bool:
    """Pause a process for 30 ms ten times in a second. One long pause would delay only one tick, which a p99 need not show."""
    for _ in range(10):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.03)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.07)
    return True


def test_a_stalled_client_is_reported(watch: Watch) -> None:
    """ClientStalled fires while the process is stopped, ClientLag while it is paused again and again."""
    process, instance = watch.generators["stalled"]
    assert until(lambda: watch.server.instant(f'loadgen_requests_in_flight{{instance="{instance}"}} == 2'), 60)
    process.send_signal(signal.SIGSTOP)
    try:
        assert watch.fires("ClientStalled", instance)
    finally:
        process.send_signal(signal.SIGCONT)
    assert until(lambda: pause_repeatedly(process) and "ClientLag" in watch.server.firing(instance), 150)
