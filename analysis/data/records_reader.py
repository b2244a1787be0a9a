"""Read `records.jsonl` into Arrow columns. A million lines take seconds, and texts are not kept.

The file is read in blocks, so that memory grows with the columns and not with the file. An incomplete last line is dropped. A
line that is not a record is skipped and counted. Each text becomes a fingerprint (equal texts have equal numbers) and is
then released. Fields that this version does not know are ignored, and missing fields are null.

This module does not know what a column means (frame.py does) or how answers are graded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

BLOCK_BYTES = 32 << 20  # read at a time; 64 MiB was not faster, and 8 MiB took a fifth more time
ARROW_BLOCK_BYTES = 4 << 20  # parsed at a time by one thread

_SPECULATION = {
    "mean_acceptance_length": pa.float64(),
    "draft_acceptance_rate": pa.float64(),
    "num_spec_steps": pa.float64(),
    "num_accepted_draft_tokens": pa.float64(),
    "num_draft_tokens": pa.float64(),
}
_TIMINGS = {
    "time_to_first_token_ms": pa.float64(),
    "generation_time_ms": pa.float64(),
    "queue_time_ms": pa.float64(),
    "speculative_decoding": pa.struct(_SPECULATION.items()),
}
INTEGERS = [
    "schema",
    "seq",
    "sample",
    "budget",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "chunks",
    "status",
]
FLOATS = [
    "due_s",
    "sent_s",
    "headers_s",
    "first_token_s",
    "last_token_s",
    "end_s",
    "ttft_s",
    "ttft_due_s",
    "ttfot_s",
    "tpot_s",
    "itl_s",
    "inter_chunk_s",
    "e2e_s",
    "e2e_due_s",
    "send_lag_s",
]
FLAGS = ("warmup", "derived", "emulated", "simulated")
WORDS = ("run_id", "problem_id", "budget_mode", "token_source", "outcome", "finish_reason", "error")
SCHEMA = pa.schema(
    [(name, pa.float64()) for name in (*INTEGERS, *FLOATS)]
    + [(name, pa.bool_()) for name in FLAGS]
    + [(name, pa.string()) for name in WORDS]
    + [("text", pa.string()), ("reasoning", pa.string()), ("server_timings", pa.struct(_TIMINGS.items()))]
)
_PARSE = arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
_READ = arrow_json.ReadOptions(use_threads=True, block_size=ARROW_BLOCK_BYTES)
_REQUIRED = ("problem_id", "budget", "outcome")


@dataclass(frozen=True, slots=True)
class Columns:
    """The content of one `records.jsonl`."""

    table: pa.Table
    skipped: int
    """Number of lines that were not a record, including an incomplete last line."""


def read_columns(path: Path) -> Columns:
    """Read every record of `path`. Texts become the column `fingerprint`, and server timings become flat columns."""
    tables, skipped = [], 0
    for block, incomplete in _blocks(path):
        skipped += incomplete
        if block:
            table, bad = _parse(block)
            tables.append(_slim(table))
            skipped += bad
    return Columns(pa.concat_tables(tables) if tables else _slim(SCHEMA.empty_table()), skipped)


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about BLOCK_BYTES at a time; the second value counts an incomplete last line."""
    rest = b""
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            head, newline, tail = data.rpartition(b"\n")
            if newline:
                yield rest + head + newline, 0
                rest = tail
            else:
                rest += data
    if rest.strip():
        yield b"", 1


def _parse(block: bytes) -> tuple[pa.Table, int]:
    """Parse a block with Arrow, or line by line where Arrow refuses it because of a single bad line.

    Returns the table and the number of lines that were skipped.
    """
    try:
        table = arrow_json.read_json(pa.BufferReader(block), _READ, _PARSE)
    except pa.ArrowInvalid:
        rows = [_row(line) for line in block.splitlines() if line.strip()]
        good = [row for row in rows if row is not None]
        return pa.Table.from_pylist(good, schema=SCHEMA), len(rows) - len(good)
    bad = max(table.column(name).null_count for name in _REQUIRED)
    if bad:
        known = [table.column(name).is_valid() for name in _REQUIRED]
        table = table.filter(pa.compute.and_(pa.compute.and_(known[0], known[1]), known[2]))
    return table, bad


def _row(line: bytes) -> dict[str, Any] | None:
    """One line as a record, or None where a required field is missing or Arrow cannot store a value."""
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
        pa.Table.from_pylist([row], schema=SCHEMA)
    except (msgspec.DecodeError, pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError):
        return None
    return row if all(row.get(name) is not None for name in _REQUIRED) else None


def _slim(table: pa.Table) -> pa.Table:
    """Replace texts by fingerprints and nested timings by flat columns."""
    columns = {name: table.column(name) for name in (*INTEGERS, *FLOATS, *FLAGS, *WORDS)}
    columns["fingerprint"] = pa.chunked_array([_fingerprint(table)])
    timings = table.column("server_timings").combine_chunks()
    for name in ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms"):
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
