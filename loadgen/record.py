"""One Record a request, one RunInfo a run: the two types every other program of this suite reads.

Rules: a failed request is a Record with an outcome, never an exception and never missing. Times are model seconds
from the run's start (`RunInfo.clock`): on a time-scaled server the raw stamps stand beside them in `raw`. A field whose
value was not measured is null, never zero. Old schema versions stay readable: a new field has a default.

Does not know: how a request is sent, what an answer is worth, what a token costs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from loadgen.files import write_atomically

SCHEMA = 1

Outcome = Literal[
    "ok",
    "http_error",
    "rate_limited",
    "server_error",
    "refused",
    "reset",
    "timeout",
    "cut",
    "malformed",
    "cancelled",
]
BudgetMode = Literal["cut", "forced", "native", "prompt"]
Verdict = Literal["VALID", "SUSPECT", "INVALID"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one request did, as one line of `records.jsonl`. Formulas: docs/metrics.md."""

    schema: int = SCHEMA
    run_id: str
    seq: int
    """Position in the run's plan, unique in it."""
    problem_id: str
    sample: int = 0
    """0 … N-1 under `--samples N`."""
    repeat: int = 0
    """Pass of the plan, under `--repeats`, `--requests` or `--duration`."""
    budget: int
    """Token budget this record answers for."""
    budget_mode: BudgetMode = "cut"
    warmup: bool = False
    derived: bool = False
    """Computed from a longer run's token timestamps (`--one-pass`), not sent."""
    cut_at: Literal["token", "chunk"] | None = None
    """Derived only, where the budget fell inside a chunk: the text ends at the token, or at the chunk's start because
    the server gave no ids or no text for them."""
    emulated: bool = False
    simulated: bool = False
    due_s: float
    sent_s: float | None = None
    headers_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float | None = None
    ttft_s: float | None = None
    ttft_due_s: float | None = None
    ttfot_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None
    """Median over this request's tokens of gap / tokens in the chunk."""
    inter_chunk_s: float | None = None
    """Median raw gap between this request's token events."""
    e2e_s: float | None = None
    e2e_due_s: float | None = None
    send_lag_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    chunks: int = 0
    """Token events, not SSE events."""
    token_source: Literal["continuous_usage", "token_ids", "usage", "chunks"] | None = None
    outcome: Outcome
    status: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    server_timings: dict[str, Any] | None = None
    """The server's own per-request `metrics` object, as sent (milliseconds, vLLM's names)."""
    text: str | None = None
    reasoning: str | None = None
    raw: dict[str, float | None] | None = None
    """Unscaled stamps, only where the server's time scale is not 1."""
    phases: list[dict[str, Any]] | None = None
    """`forced` only: what each of the two calls did."""


class RunInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`run.json`: everything needed to repeat, join and judge one run (one cell of a sweep)."""

    schema: int = SCHEMA
    run_id: str
    config: str
    """Name of the serving configuration (`server/configs/NAME.yaml`), or what `--config-name` said."""
    model: str
    """Model id as served."""
    target: str
    num_gpus: int = 1
    """GPUs the server holds: tensor parallel × data parallel."""
    tensor_parallel_size: int = 1
    speculation: str | None = None
    """`ngram`, `eagle3`, … or null."""
    gpu: str | None = None
    emulated: bool = False
    simulated: bool = False
    time_scale: float = 1.0
    started_at: str
    """Wall clock, ISO 8601 UTC."""
    clock: dict[str, float]
    """`wall_s` (Unix time) and `perf_s` (monotonic) read together at the run's start."""
    duration_s: float | None = None
    """Model seconds from the start to the last end."""
    window_s: tuple[float, float] | None = None
    """Steady-state window, model seconds from the start."""
    segments: list[dict[str, float]] = []
    """After `--resume`: `offset_s` (where the part begins in the run's time), `wall_s`, `perf_s` of each further part."""
    argv: list[str] = []
    options: dict[str, Any] = {}
    """Every option, resolved; values of extra headers are left out."""
    labels: dict[str, str] = {}
    price_per_gpu_hour: float | None = None
    seed: int = 0
    load: dict[str, Any] = {}
    """`kind` closed|open, `concurrency` or `rate` + `arrival`, `requests`, `warmup`."""
    budgets: list[int] = []
    budget_mode: BudgetMode = "cut"
    one_pass: bool = False
    samples: int = 1
    sampling: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    """`name`, `path`, `sha256` (of canonical rows), `problems`."""
    preset: str | None = None
    """Name in `server/models/`, where known."""
    cache: str = "keep"
    slo: dict[str, float] = {}
    host: dict[str, Any] = {}
    packages: dict[str, str] = {}
    git: dict[str, Any] = {}
    server: dict[str, Any] = {}
    """`version`, `args`, `fingerprint`, `image`, `configuration` (the YAML as read), `engine`, … as far as known."""
    gpus: list[dict[str, Any]] = []
    """A row a GPU: `index uuid name power_limit_w driver clocks`."""
    energy: dict[str, Any] = {}
    """`joules`, `mean_w`, `source` (nvml | dcgm | emulated), over the measured window."""
    client: dict[str, Any] = {}
    """CPU, loop lag, GC, file descriptors of the generator."""
    verdict: Verdict | None = None
    reasons: list[str] = []
    summary: dict[str, Any] = {}


# The files of a run folder. `chunks.bin` is named in loadgen.chunks, which holds its format.
RECORDS = "records.jsonl"
RUN = "run.json"
PROBLEMS = "problems.jsonl"
"""`unique_id answer subject level` of each problem that was asked: what grading needs, without the problem's text."""
STRADDLES = "straddles.jsonl"
"""Chunks that hold tokens on both sides of a derived budget; deleted once the texts of their records are complete."""
GPU_LOG = "gpu.csv"
SERVER_BEFORE = "server-before.prom"
SERVER_AFTER = "server-after.prom"
"""The server's /metrics before and after the load, as sent."""
SERVER_LOG = "server.log"

_record_decoder = msgspec.json.Decoder(Record)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of one `records.jsonl`; a torn last line (a crash while writing) is skipped."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield _record_decoder.decode(line)


def read_run(folder: Path) -> RunInfo:
    """Read `run.json` of a run's folder. Raises FileNotFoundError, msgspec.DecodeError."""
    return msgspec.json.decode((folder / RUN).read_bytes(), type=RunInfo)


def write_run(folder: Path, run: RunInfo) -> None:
    """Write `run.json` whole or not at all: a reader never sees half a file."""
    write_atomically(folder / RUN, msgspec.json.format(msgspec.json.encode(run), indent=1))


def find_runs(root: Path) -> list[Path]:
    """Folders at or below `root` that hold a `run.json`, sorted."""
    return sorted(path.parent for path in root.rglob(RUN))
