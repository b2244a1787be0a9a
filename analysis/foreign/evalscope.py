"""Read benchmark_data.db of `evalscope perf`, an SQLite file; the model and the load are in benchmark_args.json beside it.

The column with the pickled responses is not read.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from analysis.errors import InputError
from analysis.foreign import base
from analysis.foreign.base import Foreign, number
from loadgen.record import Record

MAGIC = b"SQLite format 3\0"
TIMES, TOKENS = ("start_time", "latency", "first_chunk_latency"), ("prompt_tokens", "completion_tokens")
COLUMNS = ("request", "success", *TIMES, *TOKENS)
GAPS = "inter_token_latencies"


def read(path: Path) -> list[Foreign]:
    """The whole database is one benchmark. Raises InputError where it is none of evalscope."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            known = {row[1] for row in database.execute("PRAGMA table_info(result)")}
            names = [name for name in (*COLUMNS, GAPS) if name in known]
            if not set(COLUMNS) <= known:
                raise InputError("the database has no table `result` of evalscope perf")
            # The names are those of this file.
            rows = database.execute(f"SELECT {', '.join(names)} FROM result ORDER BY start_time").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise InputError(f"the database cannot be read ({error})") from error
    found = [dict(zip(names, row, strict=True)) for row in rows]
    args, notes = base.beside(path, "benchmark_args.json"), base.notes("evalscope")
    if not args:
        notes.append("benchmark_args.json is not beside the file, so the model and the load are unknown")
    rate = number(args.get("rate")) or 0.0
    streams = args.get("parallel")
    load = base.open_load(rate) if rate > 0 else base.closed_load(streams if isinstance(streams, int) else None)
    prompts = [str(row["request"]) for row in found]
    records = [_request(seq, row) for seq, row in enumerate(found)]
    return [Foreign("evalscope perf", str(args.get("model") or "unknown"), load, records, notes, prompts)]


def _request(seq: int, row: dict[str, Any]) -> Record:
    record = base.new_record(seq, number(row["start_time"]))
    if not row["success"]:
        return base.failed(record, "http_error", "evalscope keeps no reason")
    ttft_s, latency_s = number(row["first_chunk_latency"]), number(row["latency"])
    gaps = json.loads(row.get(GAPS) or "[]") or []
    e2e_s = ttft_s + sum(map(float, gaps)) if ttft_s and gaps else latency_s
    return base.answered(record, (ttft_s, e2e_s), number(row["prompt_tokens"]), number(row["completion_tokens"]))
