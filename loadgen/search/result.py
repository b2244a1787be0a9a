"""`search.json`: every test of a search and its result, and the same in one line for people.

The file is replaced after every test. `--resume` reads from it what was searched for; the runs themselves hold the rest. This
module does not know how the limit is found.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from loadgen.files import read_json, write_json
from loadgen.record import RunInfo, read_run
from loadgen.search.bracket import Bracket, Over, Stopped
from loadgen.search.decision import Cause
from loadgen.search.probes import Goodput, Probe

FILE = "search.json"
SCHEMA = 1


class Limit(msgspec.Struct, kw_only=True):
    """The highest load that meets the objectives, and the figures of the latest run there."""

    load: float
    interval: tuple[float | None, float | None]
    """The highest load that passed, and the lowest that failed; null where no load failed."""
    fails_first: Cause | None
    """What the lowest load that failed fails on."""
    run: str
    verdict: str | None
    goodput: Goodput
    good_per_s: float | None
    requests_per_s: float | None
    completion_tokens_per_s: float | None
    gpu_seconds_per_token: float | None
    usd_per_million_tokens: float | None
    joules_per_token: float | None


class SearchFile(msgspec.Struct, kw_only=True):
    """The content of search.json."""

    schema: int = msgspec.field(name="schema_version", default=SCHEMA)
    target: str
    over: Over
    slo: dict[str, float]
    attain: float
    first: float = msgspec.field(name="from")
    last: float = msgspec.field(name="to")
    most: int
    """Most requests of a test."""
    probes: list[Probe] = []
    limit: Limit | None = None
    stopped: Stopped | None = None
    """Null while the search runs, and after it was killed."""
    emulated: bool = False
    simulated: bool = False
    invalid: list[str] = []
    """The runs that are INVALID for another reason than that every request failed."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a search. Raises UsageError."""
        return read_json(folder / FILE, cls, "name the folder of a search, or start a new one", SCHEMA)

    def write(self, folder: Path) -> None:
        """Replace the file. Raises OSError."""
        write_json(folder / FILE, self)

    def finish(self, folder: Path, bracket: Bracket, stopped: Stopped) -> None:
        """Add the result, with the figures of the run at the limit."""
        self.stopped, best = stopped, bracket.best()
        if best is not None:
            at_limit = [probe for probe in self.probes if probe.load == best][-1]
            beyond = [probe.fails for probe in self.probes if probe.load == bracket.failed and probe.fails]
            run = read_run(folder / at_limit.runs[-1])
            self.limit = Limit(
                load=best,
                interval=(bracket.passed, bracket.failed),
                fails_first=beyond[-1] if beyond else None,
                run=at_limit.runs[-1],
                verdict=run.verdict,
                goodput=at_limit.goodput,
                **figures(run),
            )
        self.write(folder)


def figures(run: RunInfo) -> dict[str, Any]:
    """Return goodput of a run, and throughput, cost and energy: those of its steady window, where it has one."""
    steady, whole = run.summary["steady"], run.summary["throughput"]
    gpu_s, tokens_per_s = whole["gpu_seconds_per_token_wall"], whole["completion_tokens_per_s"]
    duration_s, joules = whole["duration_s"], run.energy.get("joules")
    requests_per_s = whole["requests_per_s"]
    if run.window_s is not None:
        gpu_s, tokens_per_s = steady["gpu_seconds_per_token"], steady["completion_tokens_per_s"]
        duration_s, joules = run.window_s[1] - run.window_s[0], run.energy.get("steady", {}).get("joules")
        requests_per_s = steady["requests"] / duration_s
    tokens = (tokens_per_s or 0.0) * (duration_s or 0.0)
    price = run.price_per_gpu_hour
    return {
        "good_per_s": run.summary.get("goodput", {}).get("requests_per_s"),
        "requests_per_s": requests_per_s,
        "completion_tokens_per_s": tokens_per_s,
        "gpu_seconds_per_token": gpu_s,
        "usd_per_million_tokens": gpu_s * price / 3600 * 1e6 if gpu_s and price else None,
        "joules_per_token": joules / tokens if joules and tokens else None,
    }


def probe_line(probe: Probe, over: Over) -> str:
    """Return a test as one line."""
    goodput = probe.goodput
    interval = "" if goodput.interval is None else " ({:.1%} to {:.1%})".format(*goodput.interval)
    fails = f" on {probe.fails}" if probe.fails else ""
    verb = {"pass": "passes", "fail": "fails"}.get(probe.decision, "undecided")
    good = f"{goodput.share:.1%} of {goodput.requests} requests are good{interval}"
    return f"{named(probe.load, over)}: {verb}{fails}, {good}"


def named(load: float, over: Over) -> str:
    """Return a load with its unit."""
    if over == "rate":
        return f"{load:g} requests/s"
    return "1 stream" if load == 1 else f"{load:g} streams"


def lines(search: SearchFile) -> Sequence[str]:
    """Return the result for people: one line, and one of figures where a limit was found."""
    limit, over = search.limit, search.over
    why = "" if search.stopped in ("resolved", "never failed") else f" ({search.stopped})"
    if limit is None:
        if search.stopped == "failed at the lowest load":
            return [f"{named(search.first, over)}: the objectives are not met at the lowest load"]
        return [f"no load is known to meet the objectives{why}"]
    low, high = limit.interval
    beyond = "no load tested fails" if high is None else f"{high:g} fails on {limit.fails_first}"
    least = "at least " if high is None and search.stopped != "never failed" else ""
    certain = "" if low == limit.load else f"{low:g} passes, "
    dollars, joules = limit.usd_per_million_tokens, limit.joules_per_token
    there = f"there: {limit.goodput.share:.1%} good, {limit.requests_per_s or 0:.3g} requests/s, "
    there += f"{limit.completion_tokens_per_s or 0:,.0f} tokens/s"
    there += f", ${dollars:.3g} per million tokens" if dollars else ""
    there += f", {joules:.3g} J per token" if joules else ""
    return [f"limit {least}{named(limit.load, over)}; {certain}{beyond}{why}", there]
