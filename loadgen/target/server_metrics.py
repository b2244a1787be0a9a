"""Reads a server's /metrics page in the Prometheus text format, and saves it before and after a run.

The raw text is kept (`server-before.prom`, `server-after.prom`), so that every number can be derived again. A damaged page
is a gap in the measurements and never an exception.

This module does not know what the numbers prove about a run (see loadgen/measure/verdict.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadgen.errors import DiskFullError
from loadgen.files import write_atomically
from loadgen.target.control_api import ControlApi


def parse(text: str, prefixes: tuple[str, ...] = ("",)) -> Iterator[Sample]:
    """Yield the samples whose name begins with one of `prefixes`; damaged lines are skipped.

    Every line is parsed separately and without its TYPE comment, because the library stops at the first damaged line and
    renames counters that lack the suffix `_total`. Parsing takes about 10 µs a sample, so name the prefixes you need where
    this runs beside the load.
    """
    for line in text.splitlines():
        if line.startswith(prefixes) and not line.startswith("#"):
            with suppress(ValueError, IndexError):  # the library raises IndexError for a label without a name
                for family in text_string_to_metric_families(line):
                    yield from family.samples


def totals(text: str) -> dict[str, float]:
    """Return for every metric name the sum over all its labels."""
    found: dict[str, float] = defaultdict(float)
    for sample in parse(text):
        found[sample.name] += sample.value
    return dict(found)


def snapshot(api: ControlApi, path: Path) -> dict[str, float]:
    """Save the server's /metrics to `path` and return its totals; empty where the server has no such page.

    Raises DiskFullError where the file cannot be written.
    """
    response = api.get(f"{api.root}/metrics")
    if response.status != 200:
        return {}
    try:
        write_atomically(path, response.body)
    except OSError as error:
        raise DiskFullError(f"{path}: {error.strerror}") from error
    return totals(response.body.decode(errors="replace"))


def drafted(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return what speculative decoding drafted between two snapshots.

    The result is empty where the server reports no speculation, or where the first snapshot is missing.
    """
    names = {
        "drafts": "vllm:spec_decode_num_drafts_total",
        "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
        "accepted_tokens": "vllm:spec_decode_num_accepted_tokens_total",
        "steps": "vllm:iteration_tokens_total_count",
    }
    if not before or not all(name in after for name in names.values()):
        return {}
    return {name: after[counter] - before.get(counter, 0.0) for name, counter in names.items()}
