"""Shows the progress of a run: a live view on a terminal, and otherwise a line of text every few seconds.

Rules: output goes to stderr only. The view is updated once a second, however high the load is. Its percentiles are over the
last WINDOW requests and are only for watching; those of the summary are over all requests and have intervals. Times are model
seconds, and rates are per model second.

This module does not know files or verdicts.
"""

import asyncio
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal, Self

from loadgen.errors import say
from loadgen.record import Record, RunInfo
from loadgen.terminal import printable

WINDOW = 512
PLAIN_EVERY_S = 5.0
LIVE_EVERY_S = 1.0


class Progress:
    """Counts requests and tokens, and shows them while its context is open."""

    def __init__(
        self, run: RunInfo, planned: int | None, done: int, how: Literal["auto", "plain", "none"]
    ) -> None:
        self.run = run
        self.planned = planned
        self.earlier = done
        self.sent = 0
        self.received = 0
        self.outcomes: Counter[str] = Counter()
        self.recent: deque[Record] = deque(maxlen=WINDOW)
        self._how = how
        self._began = time.perf_counter()
        self._task: asyncio.Task[None] | None = None
        self._live: Any = None

    def due(self, count: int = 1) -> None:
        """Count requests that are being sent."""
        self.sent += count

    def tokens(self, count: int) -> None:
        """Count tokens that have arrived."""
        self.received += count

    def ended(self, record: Record) -> None:
        """Count a request that has ended."""
        self.outcomes[record.outcome] += 1
        if record.outcome == "ok":
            self.recent.append(record)

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
            self._task = asyncio.get_running_loop().create_task(
                self._show_live() if live else self._show_plain()
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._live is not None:
            self._live.update(self.table())
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

        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._live.start()
        while True:
            self._live.update(self.table(), refresh=True)
            await asyncio.sleep(LIVE_EVERY_S)

    def line(self) -> str:
        """The progress as one line of text."""
        rows = dict(self.rows())
        return " · ".join(f"{name} {value}" for name, value in rows.items() if value)

    def table(self) -> Any:
        """The progress as a table, for the live view."""
        from rich.table import Table  # noqa: PLC0415  as above
        from rich.text import Text  # noqa: PLC0415

        run = self.run
        mark = f" (emulated, {run.time_scale:g} x)" if run.emulated else ""
        table = Table(show_header=False)
        # A Text, because rich would read brackets in a string as markup.
        table.add_row("run", Text(printable(f"{run.config} · {run.model}{mark}")))
        table.add_row("target", Text(printable(run.target)))
        table.add_section()
        for name, value in self.rows():
            if value:
                table.add_row(name, value)
        return table

    def rows(self) -> list[tuple[str, str]]:
        """The name and the value of each row. An empty value is not shown."""
        ended = sum(self.outcomes.values())
        elapsed_s = (time.perf_counter() - self._began) * self.run.time_scale
        rate = ended / elapsed_s if elapsed_s > 0 else 0.0
        scheduled = self.run.load.get("rate")
        failed = {name: n for name, n in self.outcomes.items() if name != "ok"}
        total = "" if self.planned is None else f"/{self.planned + int(self.run.load.get('warmup') or 0)}"
        return [
            ("done", f"{self.earlier + ended}{total}"),
            ("in flight", str(self.sent - ended)),
            ("rate", f"{rate:.3g}/s" + (f" of {scheduled:.3g} scheduled" if scheduled else "")),
            ("tokens", f"{self.received / elapsed_s if elapsed_s > 0 else 0:,.0f}/s"),
            ("ttft", self._percentiles("ttft_s")),
            ("tpot", self._percentiles("tpot_s")),
            ("e2e", self._percentiles("e2e_s")),
            ("failed", " ".join(f"{name}={n}" for name, n in sorted(failed.items()))),
            ("left", self._left(ended, rate)),
        ]

    def _percentiles(self, name: str) -> str:
        values = sorted(v for r in self.recent if (v := getattr(r, name)) is not None)
        if not values:
            return ""
        return f"p50 {human(_rank(values, 0.5))} p95 {human(_rank(values, 0.95))}"

    def _left(self, ended: int, rate: float) -> str:
        if self.planned is None or rate <= 0:
            return ""
        missing = max(0, self.planned + int(self.run.load.get("warmup") or 0) - self.earlier - ended)
        return human(missing / rate / self.run.time_scale) if missing else ""


def _rank(ordered: Sequence[float], level: float) -> float:
    return ordered[max(0, math.ceil(level * len(ordered)) - 1)]


def human(seconds: float) -> str:
    """A duration with three digits and a unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
