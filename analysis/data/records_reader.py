"""From `records.jsonl` to Arrow columns: a million lines in seconds, texts never kept.

Rules: columns from the start, in blocks, so that memory follows the columns and not the file. A torn last line is
dropped; a line that is no record is skipped and counted, never fatal. Texts become a fingerprint (equal text, equal
number) and are let go. Fields that this version does not know are ignored; missing ones are null.

Does not know: what a column means (frame.py), what an answer is worth (grade).
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

BLOCK_BYTES = 32 << 20  # read at a time; 64 gained nothing, 8 cost a fifth
ARROW_BLOCK_BYTES = (
    4 << 20
)  # parsed at a time by one thread; a longer line (a megabyte of text) takes the slow way

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
    """What one `records.jsonl` held."""

    table: pa.Table
    skipped: int
    """Lines that were no record, a torn last one included."""


def read_columns(path: Path) -> Columns:
    """Read every record of `path` as columns; texts become `fingerprint`, server timings flat columns."""
    tables, skipped = [], 0
    for block, torn in _blocks(path):
        skipped += torn
        if block:
            table, bad = _parse(block)
            tables.append(_slim(table))
            skipped += bad
    return Columns(pa.concat_tables(tables) if tables else _slim(SCHEMA.empty_table()), skipped)


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines, about BLOCK_BYTES at a time; the second value counts a torn last line."""
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
    """Arrow's reader, and where it refuses the block (one bad line is enough) line by line."""
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
    """One line, kept if it has what a record needs and Arrow can hold it."""
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
        pa.Table.from_pylist([row], schema=SCHEMA)
    except (msgspec.DecodeError, pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError):
        return None
    return row if all(row.get(name) is not None for name in _REQUIRED) else None


def _slim(table: pa.Table) -> pa.Table:
    """Texts to fingerprints, nested timings to flat columns."""
    columns = {name: table.column(name) for name in (*INTEGERS, *FLOATS, *FLAGS, *WORDS)}
    columns["fingerprint"] = pa.chunked_array([_fingerprint(table)])
    timings = table.column("server_timings").combine_chunks()
    for name in ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms"):
        columns[name] = pa.chunked_array([pa.compute.struct_field(timings, name)])
    for name in _SPECULATION:
        columns[name] = pa.chunked_array([pa.compute.struct_field(timings, ["speculative_decoding", name])])
    return pa.table(columns)


def _fingerprint(table: pa.Table) -> pa.Array:
    """52 bits of reasoning and text together, which a float holds exactly; null where there is neither."""
    text, reasoning = table.column("text"), table.column("reasoning")
    if text.null_count == reasoning.null_count == len(table):
        return pa.nulls(len(table), pa.float64())
    hashes = [
        pd.util.hash_array(column.fill_null("").to_numpy().astype(object), categorize=False)
        for column in (reasoning, text)
    ]
    missing = np.asarray(pa.compute.and_(text.is_null(), reasoning.is_null()))
    mixed = hashes[0] * np.uint64(0x9E3779B97F4A7C15) + hashes[1]  # odd multiplier: order of the two matters
    return pa.array((mixed >> np.uint64(12)).astype(np.float64), mask=missing)
