"""Runs that are started in Locust's web page, through the HTTP interface that the page uses."""

import csv
import json
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.fixtures.emulated import emulated
from tests.fixtures.swarm import free_port, gathered, locust, locust_rows, records, until


class Page:
    """The requests that Locust's page sends to its server."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        """Get a page or its data."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def stats(self) -> dict[str, Any]:
        """What the page shows; nothing before it is up."""
        try:
            return dict(json.loads(self.get("/stats/requests")))
        except OSError:
            return {}

    def start(self, **form: object) -> None:
        """Submit the form that starts a run."""
        data = urlencode({"user_count": 4, "spawn_rate": 4, "host": "", "dataset": "sample", **form}).encode()
        with urllib.request.urlopen(f"{self.url}/swarm", data, timeout=30) as answer:
            assert json.loads(answer.read())["success"]

    def rows(self) -> dict[tuple[str, str], int]:
        """The number of requests by type and name, from the CSV file of the page."""
        table = csv.DictReader(self.get("/stats/requests/csv").splitlines())
        return {(row["Type"], row["Name"]): int(row["Request Count"]) for row in table}


def test_runs_are_started_in_the_page_one_after_the_other(tmp_path: Path) -> None:
    """The form has the options, and the log shows a refusal. Rows, chart and CSV count only requests, without TTFT and TPOT."""
    page, port = Page(), str(free_port())
    master = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    processes = [
        locust(*master, "--web-host", "127.0.0.1", "--web-port", str(page.port), log=tmp_path / "log"),
        locust("--worker", "--master-port", port, log=tmp_path / "worker"),
    ]
    try:
        with emulated("tp1", model="r1-distill-qwen-14b") as target:
            until(lambda: page.stats().get("worker_count") == 1)
            assert all(f'"{name}"' in page.get("/") for name in ("target", "budgets", "budget_mode", "more"))
            page.start(target=target, budgets="many")
            until(lambda: "loadgen: --budgets: 'many' is not a number" in page.get("/logs"))
            for name in ("first", "second"):
                out = tmp_path / name
                while not (
                    out / "distributed.json"
                ).exists():  # Locust accepts no start before it has stopped
                    page.start(target=target, budgets="8,16", out=out)
                    time.sleep(2)
                until(lambda: page.stats()["state"] == "stopped")
                assert page.stats()["stats"][-1]["num_requests"] == 98, "the chart is drawn from this number"
                line, _ = gathered(out)
                assert line["missing"] == []
                assert page.rows() == locust_rows(records(out))
                assert {record.budget for record in records(out)} == {8, 16}
    finally:
        for process in processes:
            process.kill()
            process.wait()
