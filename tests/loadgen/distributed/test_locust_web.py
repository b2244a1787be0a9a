"""Runs that are started in Locust's web page, through the HTTP interface that the page uses."""

import csv
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.fixtures.emulated import emulated
from tests.fixtures.parallel import free_port
from tests.fixtures.swarm import gathered, locust, locust_rows, records, until


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
        assert json.loads(self.post(form))["success"]

    def post(self, form: dict[str, object], **headers: str) -> str:
        """Send a form, as the page or as the page of another site."""
        data = urlencode({"user_count": 4, "spawn_rate": 4, "host": "", **form}).encode()
        request = urllib.request.Request(f"{self.url}/swarm", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"

    def rows(self) -> dict[tuple[str, str], int]:
        """The number of requests by type and name, from the CSV file of the page."""
        table = csv.DictReader(self.get("/stats/requests/csv").splitlines())
        return {(row["Type"], row["Name"]): int(row["Request Count"]) for row in table}


def test_runs_are_started_in_the_page_one_after_the_other(tmp_path: Path) -> None:
    """The form has the options, and the log shows a refusal. Rows, chart and CSV count only requests, without TTFT and TPOT."""
    page, port = Page(), str(free_port())
    master = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    processes = []
    try:
        with emulated("tp1", model="r1-distill-qwen-14b") as target:
            options = ("--target", target, "--dataset", "sample", "--out", str(tmp_path / "first"))
            processes = [
                locust(*master, *options, "--web-port", str(page.port), log=tmp_path / "log"),
                locust("--worker", "--master-port", port, log=tmp_path / "worker"),
            ]
            until(lambda: page.stats().get("worker_count") == 1)
            assert all(f'"{name}"' in page.get("/") for name in ("budgets", "budget_mode"))
            assert not any(f'"{name}": {{"choices"' in page.get("/") for name in ("target", "more", "out"))
            check_refusals(page)
            page.start(budgets="many")
            until(lambda: "loadgen: --budgets: 'many' is not a number" in page.get("/logs"))
            out = tmp_path / "first"
            while not (out / "distributed.json").exists():  # Locust accepts no start before it has stopped
                page.start(budgets="8,16")
                time.sleep(2)
            until(lambda: page.stats()["state"] == "stopped")
            assert page.stats()["stats"][-1]["num_requests"] == 98, "the chart is drawn from this number"
            until(
                lambda: "loadgen gather" in (tmp_path / "log").read_text()
            )  # the master has read the server's metrics
            line, _ = gathered(out)
            assert line["missing"] == []
            assert page.rows() == locust_rows(records(out))
            assert {record.budget for record in records(out)} == {8, 16}
            page.start(budgets="8")
            until(lambda: "exists: give another --out" in page.get("/logs"))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def check_refusals(page: Page) -> None:
    """The page of another site can start nothing, and no form can change where requests, keys and files go."""
    assert "403" in page.post({"more": "x"})
    assert "page of another site" in page.post({"budgets": "8"}, Origin="http://evil.example")
    assert "is not this machine" in page.post({"budgets": "8"}, Host="evil.example")
    for name in ("target", "out", "more", "dataset", "html_file"):
        assert f"'{name}' can be given on the command line only" in page.post({name: "x"})
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{page.port:04X}" in listening
    assert f"00000000:{page.port:04X}" not in listening
