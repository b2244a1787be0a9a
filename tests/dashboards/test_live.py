"""A real Prometheus over real runs: every query has data, client and server agree, and what spoils a run raises its alert."""

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

from loadgen.record import read_run
from tests.fixtures.dashboards import FILES, FOLDER, ask, filled, queries
from tests.fixtures.emulated import ROOT, emulated
from tests.fixtures.prometheus import Prometheus, free_port, needs_prometheus, prometheus, until
from tests.loadgen.run.test_run import records

pytestmark = needs_prometheus

MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
TTFT_BUCKETS = (0, 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@contextmanager
def generator(port: int, target: str, out: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m loadgen` while the block lasts, its metrics on `port`."""
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
    """What a launcher writes of an emulated server."""
    address = target.removeprefix("http://").removesuffix("/v1")
    tp, _, speculation = config.removeprefix("tp").partition("-")
    who = {"config": config, "model": MODEL, "tp": tp, "speculation": speculation or "none", "run": "none"}
    gpu = {**who, "job": "gpu", "__metrics_path__": "/dcgm/metrics"}
    return [{"targets": [address], "labels": {**who, "job": "server"}}, {"targets": [address], "labels": gpu}]


def client(port: int) -> dict[str, Any]:
    """The generator's own target."""
    return {"targets": [f"127.0.0.1:{port}"], "labels": {"job": "loadgen"}}


@dataclass(frozen=True)
class Seen:
    """What two runs at once left in Prometheus."""

    server: Prometheus
    start_s: float
    end_s: float
    folders: dict[str, Path]

    def lasted(self, config: str) -> tuple[float, float]:
        """When one of the runs began and ended: a busy machine may end one well before the other."""
        run = read_run(self.folders[config])
        assert run.duration_s is not None
        return run.clock["wall_s"], run.clock["wall_s"] + run.duration_s

    def board_query(self, board: str, panel: str, letter: str) -> str:
        """One of a panel's queries."""
        where = f"{board} › {panel} › {letter}"
        (expr,) = (query.expr for query in queries(FOLDER / f"{board}.json") if query.where == where)
        return expr

    def at_the_end(self, metric: str, test: str = "") -> list[dict[str, Any]]:
        """The last sample of a metric of each run's generator, whatever the grid of a range query would have hit."""
        joined = "* on (instance) group_left (config) last_over_time(loadgen_run_info[10m])"
        return self.server.instant(f"(last_over_time({metric}[10m]) {test}) {joined}", self.end_s)


LOADS = {
    "tp1": ("--rate", "2", "--arrival", "constant", "--requests", "48"),
    "tp2-ngram": ("--concurrency", "5", "--requests", "50"),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """An open loop on one configuration beside a closed loop on another, in real time."""
    folder = tmp_path_factory.mktemp("live")
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(tmp_path_factory.mktemp("prometheus")))
        targets = {
            config: stack.enter_context(emulated(config, model="r1-distill-qwen-14b")) for config in LOADS
        }
        ports = {config: free_port() for config in LOADS}
        servers = [target for config in LOADS for target in announced(targets[config], config)]
        server.set_targets("runs", [*servers, *map(client, ports.values())])
        start_s, running = time.time(), []
        for config, load in LOADS.items():
            options = ("--budgets", "256,512", "--slo", "ttft=0.5,e2e=30", *load)
            running.append(
                stack.enter_context(generator(ports[config], targets[config], folder / config, *options))
            )
        assert until(lambda: all(process.poll() is not None for process in running), 200)
        yield Seen(server, start_s, time.time(), {config: folder / config for config in LOADS})


@pytest.mark.parametrize("board", FILES, ids=lambda path: path.stem)
def test_every_query_has_data_during_a_run(seen: Seen, board: Path) -> None:
    """Panels, variables and annotations: some number, not only NaN, each within a second; a failure names its panel."""
    answers = [ask(seen.server, query, seen.start_s, seen.end_s) for query in queries(board)]
    assert [fault for fault in (answer.fault() for answer in answers) if fault] == []


@pytest.mark.parametrize("config", LOADS)
def test_client_and_server_count_the_same_tokens(seen: Seen, config: str) -> None:
    """The Run dashboard's two lines, from the middle of a run until its requests run out, are within 2 % of each other."""
    start_s, end_s = seen.lasted(config)
    ours, theirs = (
        seen.server.range(
            filled(expr, range_s=60, chosen={"config": config}), (start_s + end_s) / 2, end_s - 5
        )
        for expr in (seen.board_query("run", "Output tokens: client and server", letter) for letter in "AB")
    )
    (our_rates,), (their_rates,) = ([by_time(row) for row in rows] for rows in (ours, theirs))
    both = (
        our_rates.keys() & their_rates.keys()
    )  # a busy machine may miss a scrape, which leaves a gap in one of them
    assert len(both) >= 4
    assert sum(our_rates[at] for at in both) == pytest.approx(sum(their_rates[at] for at in both), rel=0.02)


def by_time(row: dict[str, Any]) -> dict[float, float]:
    """Values of one series of a range."""
    return {float(at): float(value) for at, value in row["values"]}


@pytest.mark.parametrize("config", LOADS)
def test_client_and_server_agree_on_the_first_token(seen: Seen, config: str) -> None:
    """The median TTFT over the whole run, by the Run dashboard's two panels, is in the same or the next bucket."""
    start_s, end_s = seen.lasted(config)
    buckets = []
    for panel in ("TTFT, client", "TTFT, server"):
        expr = seen.board_query("run", panel, "A").replace("$__rate_interval", f"{end_s - start_s:.0f}s")
        # At a run's last second: its generator is there to be joined, and all but its last requests are counted.
        (row,) = seen.server.instant(filled(expr, range_s=60, chosen={"config": config}), end_s - 1)
        buckets.append(bucket(float(row["value"][1])))
    assert abs(buckets[0] - buckets[1]) <= 1


def bucket(value: float) -> int:
    """Which of vLLM's buckets a value is in."""
    return sum(bound < value for bound in TTFT_BUCKETS)


def test_the_comparison_is_that_of_the_records(seen: Seen) -> None:
    """Requests and tokens of each configuration and budget on the Compare dashboard are those in records.jsonl."""
    range_s = seen.end_s - seen.start_s
    for letter, count in (
        ("A", len),
        ("B", lambda rows: sum(r.completion_tokens for r in rows) / len(rows)),
    ):
        expr = seen.board_query("compare", "Each budget, each configuration", letter)
        found = seen.server.instant(filled(expr, range_s=range_s), seen.end_s)
        assert len(found) == 4
        for row in found:
            labels = row["metric"]
            rows = [r for r in records(seen.folders[labels["config"]]) if str(r.budget) == labels["budget"]]
            assert float(row["value"][1]) == pytest.approx(count(rows), rel=0.001), labels


def test_the_end_of_a_run_is_scraped(seen: Seen) -> None:
    """The last scrape holds the verdict of run.json, the time of the end and every request: the generator waits for it."""
    verdicts = seen.at_the_end("loadgen_verdict", "== 1")
    last = {row["metric"]["config"]: row["metric"]["verdict"] for row in verdicts}
    ended = seen.at_the_end("loadgen_run_ended_timestamp_seconds")
    ended_s = {row["metric"]["config"]: float(row["value"][1]) for row in ended}
    for config, folder in seen.folders.items():
        run = read_run(folder)
        assert last[config] == run.verdict
        assert run.clock["wall_s"] + (run.duration_s or 0) == pytest.approx(ended_s[config], abs=3)


def test_the_run_can_be_drawn(seen: Seen, tmp_path: Path) -> None:
    """`python -m grafana.render` makes a picture of each dashboard from the same Prometheus."""
    last = f"{seen.end_s - seen.start_s:.0f}s"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "grafana.render",
            "--prometheus",
            seen.server.url,
            "--last",
            last,
            "--end",
            str(seen.end_s),
            "--out",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in FILES}


SPOILED = {
    # A server with room for two requests where eight want in; one where every third request fails; a client to be stopped.
    "full": (("--num-gpu-blocks-override", "160", "--max-model-len", "2048"), ("--concurrency", "8")),
    "failing": (("--fault", "error=0.3"), ("--rate", "8", "--arrival", "constant")),
    "stalled": ((), ("--concurrency", "2")),
}


@dataclass(frozen=True)
class Watch:
    """A Prometheus whose alerts fire after one second, else as committed, over runs that go wrong."""

    server: Prometheus
    generators: dict[str, tuple["subprocess.Popen[str]", str]]
    """Process and instance of each."""

    def fires(self, alert: str, instance: str | None = None, patience_s: float = 60) -> bool:
        """True once it does."""
        return until(lambda: alert in self.server.firing(instance), patience_s)


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """All that goes wrong at once, to save the time of waiting for each."""
    folder = tmp_path_factory.mktemp("spoiled")
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(tmp_path_factory.mktemp("alerts"), quick_alerts=True))
        generators, aimed = {}, []
        for name, (options, load) in SPOILED.items():
            target, port = stack.enter_context(emulated("tp1", *options)), free_port()
            aimed += [*announced(target, "tp1"), client(port)]
            long = ("--budgets", "1024", "--duration", "4m", *load)
            process = stack.enter_context(generator(port, target, folder / name, *long))
            generators[name] = process, f"127.0.0.1:{port}"
        server.set_targets("spoiled", aimed)
        yield Watch(server, generators)


def test_a_killed_server_is_reported(watch: Watch) -> None:
    """TargetDown, for the server and its GPU; a server that was stopped as it should be is forgotten."""
    with emulated("tp1") as target:
        watch.server.set_targets("killed", announced(target, "tp1"))
        address = target.removeprefix("http://").removesuffix("/v1")
        assert until(lambda: len(watch.server.instant(f'up{{instance="{address}"}} == 1')) == 2, 60)
        assert "TargetDown" not in watch.server.firing(address)
    assert watch.fires("TargetDown", address)
    watch.server.set_targets("killed", [])
    assert until(lambda: "TargetDown" not in watch.server.firing(address), 60)


def test_a_full_cache_is_reported(watch: Watch) -> None:
    assert watch.fires("KVCacheFull")


def test_failing_requests_are_reported(watch: Watch) -> None:
    assert watch.fires("ErrorRate", watch.generators["failing"][1])


def stutter(process: subprocess.Popen[bytes]) -> bool:
    """Hold a process for 30 ms ten times a second: one long stop is one late tick, which no p99 need show."""
    for _ in range(10):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.03)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.07)
    return True


def test_a_stalled_client_is_reported(watch: Watch) -> None:
    """ClientStalled while its process is stopped; ClientLag when it goes on by fits and starts."""
    process, instance = watch.generators["stalled"]
    assert until(
        lambda: watch.server.instant(f'loadgen_requests_in_flight{{instance="{instance}"}} == 2'), 60
    )
    process.send_signal(signal.SIGSTOP)
    try:
        assert watch.fires("ClientStalled", instance)
    finally:
        process.send_signal(signal.SIGCONT)
    assert until(lambda: stutter(process) and "ClientLag" in watch.server.firing(instance), 60)
