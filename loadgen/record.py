"""Defines the files of a run that every other program of this suite reads: a Record per request and a RunInfo per run.

A failed request has a Record too, with its outcome. Times are model seconds from the start of the run (`RunInfo.clock`); where
the server's time scale is not 1, `raw` holds the unscaled stamps. A value that was not measured is null, never zero. Files of
older schema versions stay readable, because every new field has a default. A run of a newer schema is refused, and a damaged
line of `records.jsonl` is skipped, counted and named by every reader.

This module does not know how a request is sent, whether an answer is right, or what a token costs.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from loadgen.exchange import BudgetMode, Outcome, TokenSource
from loadgen.files import write_atomically
from loadgen.terminal import printable

SCHEMA = 1

KNOWN_FINISH_REASONS = ("stop", "length", "tool_calls", "function_call")
"""The client records other words for the same under these. Any other reason is recorded as the server wrote it."""

Verdict = Literal["VALID", "SUSPECT", "INVALID"]
Whole = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
"""A larger whole number in a record is damage: a float, and so a table of records, cannot hold it exactly."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, which is one line of `records.jsonl`. The formulas are in docs/metrics.md."""

    schema: int = SCHEMA
    run_id: str
    seq: Whole
    """Number of the request in the run, from 0; unique."""
    problem_id: str
    sample: Whole = 0
    """Number of the sample, from 0 (`--samples`)."""
    repeat: Whole = 0
    """Number of the pass over the problems, from 0 (`--repeats`, `--requests`, `--duration`)."""
    budget: Whole
    """Token budget of the request."""
    budget_mode: BudgetMode = "cut"
    warmup: bool = False
    derived: bool = False
    """Derived from the token timestamps at a larger budget (`--one-pass`), not sent."""
    cut_at: Literal["token", "chunk"] | None = None
    """Derived records whose budget ended inside a chunk: the text ends at the token, or at the start of the chunk where the
    server gave no token ids or no text for them."""
    emulated: bool = False
    simulated: bool = False
    due_s: float
    sent_s: float | None = None
    connect_s: float | None = None
    """Time to open the connection, which is part of every latency; null where an open one was used."""
    connection_reused: bool = False
    """The request was sent on a connection that was open already."""
    headers_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float | None = None
    ttft_s: float | None = None
    ttft_due_s: float | None = None
    ttfot_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None
    """Median over the tokens of this request of gap / tokens in the chunk."""
    inter_chunk_s: float | None = None
    """Median raw gap between the token events of this request."""
    e2e_s: float | None = None
    e2e_due_s: float | None = None
    send_lag_s: float | None = None
    prompt_tokens: Whole | None = None
    completion_tokens: Whole | None = None
    reasoning_tokens: Whole | None = None
    cached_tokens: Whole | None = None
    chunks: Whole = 0
    """Number of token events, which is not the number of SSE events."""
    clumped_share: float | None = None
    """Share of the token events that arrived together with another one, within 0.1 ms; null for fewer than two events."""
    streamed: bool = True
    """False for an answer in one JSON body. Of its latencies only e2e is measured."""
    hidden_tokens: int | None = None
    """Output tokens that were generated before the first chunk and not shown, such as hidden reasoning, where known."""
    token_source: TokenSource | None = None
    counts_disagree: str | None = None
    """Which of the server's token counts contradict each other or the stream, with the numbers."""
    other_choices: bool = False
    """The server sent further choices (index 1 and higher) that nobody asked for. They are in no figure."""
    outcome: Outcome
    status: int | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `function_call`, or another reason as the server wrote it."""
    finish_reason_sent: str | None = None
    """The server's word, where it is another one than `finish_reason`."""
    error: str | None = None
    server_timings: dict[str, Any] | None = None
    """The times in the `metrics` object that the server sent with this reply (milliseconds, vLLM's names)."""
    text: str | None = None
    reasoning: str | None = None
    raw: dict[str, float | None] | None = None
    """Stamps in real seconds, where the server's time scale is not 1."""
    phases: list[dict[str, Any]] | None = None
    """Budget mode `forced`: one object for each of the two calls."""

    def without_texts(self) -> "Record":
        """Return a copy without what takes the most memory: the texts, and the calls of budget mode `forced`."""
        return msgspec.structs.replace(self, text=None, reasoning=None, phases=None)


class RunInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The contents of `run.json`: everything that is needed to repeat, compare and judge one run (one cell of a sweep)."""

    schema: int = SCHEMA
    run_id: str
    config: str
    """Name of the serving configuration (`server/configs/NAME.yaml`), or the value of `--config-name`."""
    model: str
    """Id of the model as served."""
    target: str
    num_gpus: int | None = 1
    """Number of GPUs that the server uses: tensor × pipeline × data parallel size. None means unknown; a file without it means 1."""
    tensor_parallel_size: int = 1
    speculation: str | None = None
    """Method of speculative decoding: `ngram`, `eagle3`, … or null."""
    gpu: str | None = None
    emulated: bool = False
    simulated: bool = False
    time_scale: float = 1.0
    started_at: str
    """Wall-clock time, ISO 8601 in UTC."""
    clock: dict[str, float]
    """`wall_s` (Unix time) and `perf_s` (monotonic clock), read together at the start of the run."""
    duration_s: float | None = None
    """Model seconds from the start of the run to the end of the last request."""
    window_s: tuple[float, float] | None = None
    """The steady window, in model seconds from the start of the run."""
    segments: list[dict[str, float]] = []
    """After `--resume`, for each further part: `offset_s` (its start in the time of the run), `wall_s` and `perf_s`."""
    argv: list[str] = []
    options: dict[str, Any] = {}
    """Every option with its resolved value, without the values of headers."""
    labels: dict[str, str] = {}
    price_per_gpu_hour: float | None = None
    seed: int = 0
    load: dict[str, Any] = {}
    """`kind` (closed or open), `concurrency` or `rate` and `arrival`, `requests`, `warmup`."""
    budgets: list[int] = []
    budget_mode: BudgetMode = "cut"
    one_pass: bool = False
    samples: int = 1
    sampling: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    """`name`, `path`, `sha256` (of the canonical rows), `problems`."""
    preset: str | None = None
    """Name of the model preset in `server/models/`, where known."""
    cache: str = "keep"
    slo: dict[str, float] = {}
    host: dict[str, Any] = {}
    packages: dict[str, str] = {}
    git: dict[str, Any] = {}
    server: dict[str, Any] = {}
    """`version`, `args`, `fingerprint`, `image`, `configuration` (the parsed YAML), `engine`, … as far as they are known."""
    gpus: list[dict[str, Any]] = []
    """One object for each GPU: `index uuid name power_limit_w driver clocks`."""
    energy: dict[str, Any] = {}
    """`joules`, `mean_w` and `source` (nvml, dcgm or emulated), over the measured time; `steady`: joules and mean power in the
    steady window."""
    client: dict[str, Any] = {}
    """CPU, event-loop lag, garbage collection and open files of the client."""
    verdict: Verdict | None = None
    reasons: list[str] = []
    requirements: list[dict[str, Any]] = []
    """For each `--require`: its `text`, the measured `value` or null, `met`, and `why` where it does not hold."""
    summary: dict[str, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C has ended the run."""
        return any("interrupted" in reason for reason in self.reasons)

    def checks(self, record: Record) -> bool:
        """Tell whether a record is of a request that was sent only to check a derived budget (`--one-pass`)."""
        sent = self.one_pass and not record.derived and not record.warmup
        return sent and record.budget < max(self.budgets, default=0)


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
LINE_BYTES = 1 << 26
"""A longer line is damage. It is skipped without being kept in memory."""
MOST_NAMED = 5


class DamagedLines:
    """The lines of one `records.jsonl` that are not records: how many, and where and why for the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.torn = False
        """The last line is incomplete, as a crash leaves it."""
        self._named: list[str] = []

    def add(self, number: int, reason: str) -> None:
        """Count one line; lines are numbered from 1."""
        self.count += 1
        if self.count <= MOST_NAMED:
            self._named.append(f"line {number}: {printable(reason[:120])}")

    def __str__(self) -> str:
        more = f"; and {self.count - MOST_NAMED} more" if self.count > MOST_NAMED else ""
        lines = "1 damaged line was" if self.count == 1 else f"{self.count} damaged lines were"
        return f"{lines} skipped ({'; '.join(self._named)}{more})"


def decode_record(line: bytes) -> Record:
    """Decode one line of a `records.jsonl`. Raises ValueError with the reason where the line is not a record."""
    if not line.endswith(b"\n"):
        raise ValueError("incomplete" if len(line) < LINE_BYTES else f"longer than {LINE_BYTES} bytes")
    try:
        record = _record_decoder.decode(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not 1 <= record.schema <= SCHEMA:
        raise ValueError(f"schema {record.schema} is unknown to this version")
    return record


def record_lines(path: Path, damaged: DamagedLines | None = None) -> Iterator[tuple[bytes, Record | None]]:
    """Yield each line of a `records.jsonl`, with None for a damaged line, which is also added to `damaged`.

    This is the only rule of what a record is: a run, `--resume`, `gather`, `grade` and `report` all skip the same lines.
    """
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(LINE_BYTES)
            if not line:
                return
            try:
                yield line, decode_record(line)
            except ValueError as error:
                if damaged is not None:
                    damaged.add(number, str(error))
                    damaged.torn = not line.endswith(b"\n")
                yield line, None
                while len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    line = file.readline(LINE_BYTES)


def read_records(path: Path, damaged: DamagedLines | None = None) -> Iterator[Record]:
    """Yield the records of one `records.jsonl`. Damaged lines are skipped and added to `damaged`."""
    return (record for _, record in record_lines(path, damaged) if record is not None)


def read_run(folder: Path) -> RunInfo:
    """Read `run.json` in the folder of a run. Raises OSError, or ValueError where the file is damaged or of a newer version."""
    try:
        run = msgspec.json.decode((folder / RUN).read_bytes(), type=RunInfo)
    except RecursionError:
        raise ValueError(f"{RUN} is nested too deeply") from None
    if run.schema > SCHEMA:
        raise FutureSchemaError(run.schema)
    return run


class FutureSchemaError(ValueError):
    """A file was written by a newer version of this suite, whose fields may mean something else."""

    def __init__(self, schema: int) -> None:
        super().__init__(f"{RUN} has schema {schema}, and this version reads up to {SCHEMA}: use a newer version")


def write_run(folder: Path, run: RunInfo) -> None:
    """Write `run.json` in the folder of a run."""
    write_atomically(folder / RUN, msgspec.json.format(msgspec.json.encode(run), indent=1))


def find_runs(root: Path) -> list[Path]:
    """Return the folders at or below `root` that contain a `run.json`, sorted."""
    return sorted(path.parent for path in root.rglob(RUN))
