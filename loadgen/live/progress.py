"""Shows the progress of a run: a live view on a terminal, and otherwise a line of text every few seconds.

Rules: output goes to stderr only. The view is updated once a second, however high the load is. Elapsed and remaining time are
real seconds; latencies are model seconds, and rates are per model second. The percentiles and the share within
the objectives are over the last WINDOW requests of a budget and are only for watching; those of the summary are over all
requests. A percentile is shown from the sample size on that the summary needs for it.

This module does not know files or verdicts.
"""

import asyncio
import math
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from loadgen.measure.console_table import share_text
from loadgen.measure.dependence import kind_of, share_interval
from loadgen.measure.formulas import meets
from loadgen.measure.quantiles import LEVELS, least_sample
from loadgen.record import Record, RunInfo
from loadgen.terminal import duration_text, latency_text, printable, say

WINDOW = 512
PLAIN_EVERY_S = 5.0
LIVE_EVERY_S = 1.0
METRICS = {"TTFT": "ttft_s", "TPOT": "tpot_s", "E2E": "e2e_s"}


class Progress:
    """Counts requests and tokens, and shows them while its context is open. Whoever sends requests adds to `sent` and `tokens`."""

    def __init__(self, run: RunInfo, planned: int | None, done: int, how: Literal["auto", "plain", "none"]) -> None:
        self.run = run
        self.total = None if planned is None else planned + int(run.load.get("warmup") or 0)
        self.earlier = done
        self.sent = 0
        self.tokens = 0
        """Tokens that have arrived."""
        self.outcomes: Counter[str] = Counter()
        self.recent: defaultdict[int, deque[Record]] = defaultdict(lambda: deque(maxlen=WINDOW))
        """The last successful requests of each budget."""
        self.good: deque[bool] = deque(maxlen=WINDOW)
        """For the last requests whether they met every objective."""
        self._how = how
        self._began = time.perf_counter()
        self._load_began: float | None = None
        self._ended_before_load = 0
        self._last_due_s: float | None = None
        """When the last request is due, in model seconds from the begin of the load, where a schedule or a duration says it."""
        self._task: asyncio.Task[None] | None = None
        self._live: Any = None

    def load_begins(self, due_s: Sequence[float], duration_s: float | None) -> None:
        """Note the begin of the measured load, and the due times of an open loop. Further phases of the load change nothing."""
        if self._load_began is None:
            self._load_began, self._ended_before_load = time.perf_counter(), self.count
            self.tokens = 0
            self._last_due_s = due_s[-1] if due_s else duration_s

    def ended(self, record: Record) -> None:
        """Count a request that has ended."""
        self.outcomes[record.outcome] += 1
        if record.warmup:
            return
        if self.run.slo:
            self.good.append(meets(record, self.run.slo))
        if record.outcome == "ok":
            self.recent[record.budget].append(record)

    @property
    def count(self) -> int:
        """Number of requests that have ended."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Number of requests that have failed."""
        return self.count - self.outcomes["ok"]

    def say(self, text: str) -> None:
        """Print a message without disturbing the live view."""
        if self._live is not None:
            self._live.console.print(printable(text), markup=False, highlight=False)
        elif self._how != "none":
            say(text)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if self._how != "none":
            live = self._how == "auto" and sys.stderr.isatty()
            self._task = asyncio.get_running_loop().create_task(self._show_live() if live else self._show_plain())
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._how != "none":
            self.say(self.line())

    async def _show_plain(self) -> None:
        while True:
            await asyncio.sleep(PLAIN_EVERY_S)
            self.say(self.line())

    async def _show_live(self) -> None:
        from rich.console import Console  # noqa: PLC0415  this import takes 50 ms, which only a live view needs
        from rich.live import Live  # noqa: PLC0415

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        while True:
            self._live.update(self.view(self._live.console.width), refresh=True)
            await asyncio.sleep(LIVE_EVERY_S)

    def line(self) -> str:
        """The progress as one line of text. Percentiles are in it if there is one budget."""
        rows = [f"{name} {value}" for name, value in self.rows()]
        if len(self.run.budgets) == 1:
            for name, cells in zip(METRICS, self._percentiles(self.run.budgets[0]), strict=True):
                rows += [f"{name} p50 {cells[0]}, p95 {cells[1]}"] if any(cells) else []
        return " · ".join(rows)

    def view(self, width: int) -> Any:
        """The progress as the live view. It is plain text, because laying out tables would delay the timestamps by milliseconds."""
        from rich.text import Text  # noqa: PLC0415  as above

        run = self.run
        mark = f" (emulated, {run.time_scale:g} x)" if run.emulated else ""
        title = printable(f"{run.config} · {run.model}{mark} at {run.target}")
        view = Text(f"{title}\n", no_wrap=True, overflow="ellipsis")
        if (done := self.fraction(time.perf_counter())) is not None:
            view.append(f"{'━' * round(done * (width - 6)):{width - 6}} {done:4.0%}\n", "green")
        for name, value in self.rows():
            view.append(f"{name:11}", "bold")
            view.append(f"{value}\n", "red" if name == "failed" and self.failed else "")
        headings = ("TTFT p50", "p95", "TPOT p50", "p95", "E2E p50", "p95")
        view.append("budget   " + "".join(f"{heading:>10}" for heading in headings))
        for budget in sorted(self.recent):
            cells = (cell for pair in self._percentiles(budget) for cell in pair)
            view.append(f"\n{budget:<9,}" + "".join(f"{cell:>10}" for cell in cells))
        return view

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the value of each row."""
        now = time.perf_counter()
        model_s = (now - (self._load_began or self._began)) * self.run.time_scale
        ended = self.count - self._ended_before_load
        per_s = 1 / model_s if model_s > 0 else 0.0
        scheduled = None if self.run.load.get("ramp") else self.run.load.get("rate")
        kinds = ", ".join(f"{name} {n}" for name, n in self.outcomes.most_common() if name != "ok")
        left = ""
        if (left_s := self.left_s(now)) is not None:
            left = f", {duration_text(left_s)} left" if left_s else ", waiting for those in flight"
        yield "elapsed", duration_text(now - self._began) + left
        yield "done", f"{self.earlier + self.count:,}" + ("" if self.total is None else f" of {self.total:,}")
        yield "in flight", f"{self.sent - self.count}" + (" (warm-up)" if self._load_began is None else "")
        yield "rate", f"{ended * per_s:.3g}/s" + (f" of {scheduled:.3g}/s scheduled" if scheduled else "")
        yield "tokens", f"{self.tokens * per_s:,.0f}/s"
        yield "failed", f"{self.failed}" + (f" ({kinds})" if kinds else "")
        if self.good:
            hits = list(self.good)
            interval = share_interval(hits, kind_of(self.run.load))
            yield "SLO", f"{share_text(sum(hits) / len(hits), interval)} of the last {len(hits)}"

    def fraction(self, now: float) -> float | None:
        """Return which share of this part of the load is done, or None where nothing says how much there will be."""
        if self._load_began is None:
            return None
        if self._last_due_s is not None:
            model_s = (now - self._load_began) * self.run.time_scale
            return min(1.0, model_s / self._last_due_s) if self._last_due_s > 0 else 1.0
        to_do = (self.total or 0) - self.earlier - self._ended_before_load
        return (self.count - self._ended_before_load) / to_do if to_do > 0 else None

    def left_s(self, now: float) -> float | None:
        """Return the real seconds until the last request is due or, in a closed loop, has ended at the rate so far."""
        if self._load_began is None or not (done := self.fraction(now)):
            return None
        return (now - self._load_began) * (1 - done) / done

    def _percentiles(self, budget: int) -> list[tuple[str, str]]:
        """Return p50 and p95 of each metric; empty where nothing was measured."""
        pairs = []
        for name in METRICS.values():
            values = sorted(v for r in self.recent[budget] if (v := getattr(r, name)) is not None)
            p50, p95 = (_percentile(values, level) for level in ("p50", "p95"))
            pairs.append((p50, p95) if values else ("", ""))
        return pairs


def _percentile(ordered: list[float], name: str) -> str:
    level = LEVELS[name]
    enough = len(ordered) >= least_sample(level)
    return latency_text(ordered[math.ceil(level * len(ordered)) - 1]) if enough else "–"
