"""Reads a server's /metrics page in the Prometheus text format, and saves it before and after a run.

The raw text is kept (`server-before.prom`, `server-after.prom`), so that every number can be derived again. A damaged page
is a gap in the measurements and never an exception.

A page is read several times on separate connections, because several servers may answer at one address. Servers are told
apart by the start of their process and by the labels of their engines. The page that is kept is always that of the server
that started first, so that the pages before and after a run can be compared.

This module does not know what the numbers prove about a run (see loadgen/measure/verdict.py).
"""

import asyncio
import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadgen.errors import naming_full_disk
from loadgen.files import write_atomically
from loadgen.measure.observations import REPLICAS, WAITING
from loadgen.target.control_api import METRICS_BYTES, PAGE_BYTES, ControlApi, ControlResponse
from loadgen.terminal import say

SCRAPES = 4
"""Of two servers that answer equally often, one is overlooked in an eighth of the cases."""
AGAIN_TIMEOUT_S = 2.0
"""For the scrapes after the first one, which are not waited for as long, because a run can do without them."""
SAMPLES_LIMIT = 20_000
"""vLLM has about 200 samples for each engine, buckets not counted. What follows this many is not read."""
ENGINES_LIMIT = 1_000
"""Samples that are read to tell servers and engines apart: each engine has one."""
SAMPLE_CHARACTERS = 100
"""Mean length of the samples that are read. The time to parse grows with the number of labels too."""
LINE_CHARACTERS = 10_000
"""A longer line is skipped: the time to parse it grows with the square of the number of its labels."""
STARTED = "process_start_time_seconds"
RUNNING = "vllm:num_requests_running"


class MetricsPage(NamedTuple):
    """A /metrics page, and how many servers answered for it."""

    response: ControlResponse
    replicas: int


def parse(text: str, prefixes: tuple[str, ...] = ("",), limit: int = SAMPLES_LIMIT) -> Iterator[Sample]:
    """Yield the samples whose name begins with one of `prefixes`; damaged lines are skipped.

    Every line is parsed separately and without its TYPE comment, because the library stops at the first damaged line and
    renames counters that lack the suffix `_total`. Parsing takes about 10 µs a sample, so name the prefixes you need where
    this runs beside the load. Buckets of histograms are left out, because nothing uses them. At most `limit` samples are
    read, and SAMPLE_CHARACTERS for each of them on average, so that no page takes longer than a second or two.
    """
    lines = (
        line
        for line in io.StringIO(text, None)
        if line.startswith(prefixes)
        and not line.startswith("#")
        and "_bucket{" not in line
        and len(line) <= LINE_CHARACTERS
    )
    left = limit * SAMPLE_CHARACTERS
    for line in islice(lines, limit):
        left -= len(line)
        if left < 0:
            return
        # The library raises IndexError for a label without a name, and reads a whole number of any size.
        with suppress(ValueError, IndexError, OverflowError):
            for family in text_string_to_metric_families(line):
                for sample in family.samples:
                    yield sample._replace(value=float(sample.value))


def totals(text: str) -> dict[str, float]:
    """Return for every metric name the sum over all its labels, and as `name[3]` the sum for each draft position."""
    found: dict[str, float] = defaultdict(float)
    for sample in parse(text):
        found[sample.name] += sample.value
        if position := sample.labels.get("position"):
            found[f"{sample.name}[{position}]"] += sample.value
    return dict(found)


def engines(text: str) -> int:
    """Return the number of engines that a page of vLLM is about."""
    return len({sample.labels.get("engine") for sample in parse(text, (RUNNING,), ENGINES_LIMIT)})


async def read_page(api: ControlApi) -> MetricsPage:
    """Read /metrics, and find out how many servers answer."""
    url = f"{api.root}/metrics"
    first = await api.fetch(url, limit_bytes=METRICS_BYTES)
    identity = _identity(first)
    if identity is None:
        return MetricsPage(first, 1)
    again = (api.fetch(url, timeout_s=AGAIN_TIMEOUT_S, limit_bytes=PAGE_BYTES) for _ in range(SCRAPES - 1))
    others = await asyncio.gather(*again)
    pages = {identity: first} | {found: page for page in others if (found := _identity(page)) is not None}
    return MetricsPage(pages[min(pages)], len(pages))


def _identity(response: ControlResponse) -> tuple[float, tuple[str, ...]] | None:
    """Return what tells one server from another: the start of its process and the labels of its engines."""
    samples = list(parse(response.text(), (STARTED, RUNNING), ENGINES_LIMIT))
    started = sum(sample.value for sample in samples if sample.name == STARTED)
    engine_labels = {repr(sorted(sample.labels.items())) for sample in samples if sample.name == RUNNING}
    return (started, tuple(sorted(engine_labels))) if samples else None


def snapshot(api: ControlApi, path: Path) -> dict[str, float]:
    """Save the server's /metrics to `path` and return its totals; empty where the server has no such page.

    Raises DiskFullError where the file cannot be written.
    """
    page = asyncio.run(read_page(api))
    if page.response.status is None:
        say(f"{api.root}/metrics: {page.response.error}: {path.name} is missing, and what it would show")
    if page.response.status != 200:
        return {}
    with naming_full_disk(path):
        write_atomically(path, page.response.body)
    found = totals(page.response.text())
    return found | {REPLICAS: float(page.replicas)} if page.replicas > 1 else found


def waiting(api: ControlApi) -> float | None:
    """Return how many requests wait in the server's queue now, or None where it does not say in time."""
    page = api.get(f"{api.root}/metrics", AGAIN_TIMEOUT_S, PAGE_BYTES)
    found = [sample.value for sample in parse(page.text(), (f"{WAITING}{{", f"{WAITING} "), ENGINES_LIMIT)]
    return sum(found) if page.status == 200 and found else None
