"""The server's own numbers around and during a run: /metrics before and after, GPU telemetry once a second.

Rules: raw text is kept (`server-before.prom`, `server-after.prom`), numbers are taken from it. Scrapes run in a thread,
beside the load. GPU telemetry speaks DCGM_FI_* names, whether dcgm-exporter, the NVML exporter or the emulator does.

Does not know: what the numbers prove (verdict), or what a joule costs (analysis).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadgen.errors import DiskFullError
from loadgen.files import write_atomically
from loadgen.target.control_api import ControlApi

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class MetricSample(NamedTuple):
    """One line of the text format."""

    name: str
    labels: dict[str, str]
    value: float


def parse(text: str) -> Iterator[MetricSample]:
    """Samples of a /metrics page; a line that is none is skipped."""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        if match:
            try:
                value = float(match[3])
            except ValueError:
                continue
            yield MetricSample(match[1], dict(LABEL.findall(match[2] or "")), value)


def totals(text: str) -> dict[str, float]:
    """Sum over the labels of every name."""
    found: dict[str, float] = defaultdict(float)
    for sample in parse(text):
        found[sample.name] += sample.value
    return dict(found)


def snapshot(ask: ControlApi, path: Path) -> dict[str, float]:
    """Save the server's /metrics and return its totals; empty where it has none."""
    answer = ask.get(f"{ask.root}/metrics")
    if answer.status != 200:
        return {}
    try:
        write_atomically(path, answer.body)
    except OSError as error:
        raise DiskFullError(f"{path}: {error.strerror}") from error
    return totals(answer.body.decode(errors="replace"))


def drafted(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What the server drafted between two snapshots; empty where it tells of no speculation, or the first is missing."""
    names = {
        "drafts": "vllm:spec_decode_num_drafts_total",
        "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
        "accepted_tokens": "vllm:spec_decode_num_accepted_tokens_total",
        "steps": "vllm:iteration_tokens_total_count",
    }
    if not before or not all(name in after for name in names.values()):
        return {}
    return {name: after[counter] - before.get(counter, 0.0) for name, counter in names.items()}
