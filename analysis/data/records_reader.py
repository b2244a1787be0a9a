"""Read `records.jsonl` into Arrow columns. A million lines take seconds, and texts are not kept.

The file is read in blocks, so that memory grows with the columns and not with the file. `loadgen.record` decides which lines
are records, here as in every other command. Each text becomes a fingerprint (equal texts have equal numbers) and is then
released. Fields that this version does not know are ignored, and missing fields are null.

This module does not know what a column means (frame.py does) or how answers are graded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from loadgen.record import DamagedLines, record_lines

BLOCK_BYTES = 32 << 20  # read at a time; 64 MiB was not faster, and 8 MiB took a fifth more time
ARROW_BLOCK_BYTES = 4 << 20  # parsed at a time by one thread

_SPECULATION = ("draft_acceptance_rate", "num_accepted_draft_tokens")
_TIMES = ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms")
_TIMINGS = pa.struct(
    [(name, pa.float64()) for name in _TIMES]
    + [("speculative_decoding", pa.struct([(name, pa.float64()) for name in _SPECULATION]))]
)
COUNTS = ["prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens", "chunks"]
INTEGERS = ["schema", "seq", "sample", "budget", *COUNTS, "status"]
STAMPS = ["due_s", "sent_s", "headers_s", "first_token_s", "last_token_s", "end_s"]
TIMES = ["ttft_s", "ttft_due_s", "ttfot_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "e2e_due_s"]
FLOATS = [*STAMPS, *TIMES, "send_lag_s"]
FLAGS = ("warmup", "derived", "emulated", "simulated")
WORDS = ("run_id", "problem_id", "budget_mode", "token_source", "outcome", "finish_reason", "error")
SCHEMA = pa.schema(
    [(name, pa.float64()) for name in (*INTEGERS, *FLOATS)]
    + [(name, pa.bool_()) for name in FLAGS]
    + [(name, pa.string()) for name in WORDS]
    + [("text", pa.string()), ("reasoning", pa.string()), ("server_timings", _TIMINGS)]
)
_PARSE = arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
_READ = arrow_json.ReadOptions(use_threads=True, block_size=ARROW_BLOCK_BYTES)


def read_columns(path: Path, damaged: DamagedLines) -> pa.Table:
    """Read every record of `path`. Texts become the column `fingerprint`, and server timings become flat columns.

    Lines that were skipped, including an incomplete last line, are added to `damaged`.
    """
    tables = [_slim(_parse(lines)) for lines in _blocks(path, damaged)]
    return pa.concat_tables([no_records(), *tables])


def no_records() -> pa.Table:
    """The columns without any record."""
    return _slim(SCHEMA.empty_table())


def _blocks(path: Path, damaged: DamagedLines) -> Iterator[list[bytes]]:
    """The lines that are records, about BLOCK_BYTES at a time."""
    lines: list[bytes] = []
    size = 0
    for line, record in record_lines(path, damaged):
        if record is None:
            continue
        lines.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _parse(lines: list[bytes]) -> pa.Table:
    """Parse lines with Arrow, or one by one where Arrow refuses the block because of one unusual value."""
    try:
        return arrow_json.read_json(pa.BufferReader(b"".join(lines)), _READ, _PARSE)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.concat_tables(map(_parse_line, lines))


def _parse_line(line: bytes) -> pa.Table:
    row = msgspec.json.decode(line, type=dict[str, Any])
    try:
        return pa.Table.from_pylist([row], schema=SCHEMA)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        # Only the server's own timings can have any type: all other values were checked when the line was read.
        return pa.Table.from_pylist([row | {"server_timings": None}], schema=SCHEMA)


def _slim(table: pa.Table) -> pa.Table:
    """Replace texts by fingerprints and nested timings by flat columns."""
    columns = {name: table.column(name) for name in (*INTEGERS, *FLOATS, *FLAGS, *WORDS)}
    columns["fingerprint"] = pa.chunked_array([_fingerprint(table)])
    timings = table.column("server_timings").combine_chunks()
    for name in _TIMES:
        columns[name] = pa.chunked_array([pa.compute.struct_field(timings, name)])
    for name in _SPECULATION:
        columns[name] = pa.chunked_array([pa.compute.struct_field(timings, ["speculative_decoding", name])])
    return pa.table(columns)


def _fingerprint(table: pa.Table) -> pa.Array:
    """52 bits of a hash of reasoning and text, which a float stores exactly; null where there is neither."""
    text, reasoning = table.column("text"), table.column("reasoning")
    if text.null_count == reasoning.null_count == len(table):
        return pa.nulls(len(table), pa.float64())
    hashes = [
        pd.util.hash_array(column.fill_null("").to_numpy().astype(object), categorize=False)
        for column in (reasoning, text)
    ]
    missing = np.asarray(pa.compute.and_(text.is_null(), reasoning.is_null()))
    # The multiplier makes a difference between text and reasoning with their contents exchanged.
    mixed = hashes[0] * np.uint64(0x9E3779B97F4A7C15) + hashes[1]
    return pa.array((mixed >> np.uint64(12)).astype(np.float64), mask=missing)
