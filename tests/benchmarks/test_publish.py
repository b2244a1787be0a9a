"""What is published of a run: everything that is needed to compute its numbers again, and nothing private."""

import json
from pathlib import Path

from benchmarks.studies import publish

SNAPSHOT = """\
vllm:generation_tokens_total{engine="0"} 12.0
vllm:spec_decode_num_drafts_total{engine="0"} 0.0
vllm:time_to_first_token_seconds_bucket{le="0.1"} 3.0
"""


def test_texts_warm_ups_zeros_and_paths_are_left_out(tmp_path: Path) -> None:
    """The copy of a sweep has the measured requests, the counters that are not zero, and no path of the machine."""
    cell = tmp_path / "results" / "tp1_c1"
    cell.mkdir(parents=True)
    (cell / "run.json").write_text('{"run_id": "r", "argv": ["--out", "/home/me/results/tp1_c1"]}')
    timings = {"queue_time_ms": 0.0312119999533, "mean_itl_ms": 5.0, "speculative_decoding": {"num_drafts": 2}}
    warm_up = {"seq": 0, "warmup": True}
    measured = {"seq": 1, "text": "secret", "reasoning": "secret", "server_timings": timings}
    failed = {"seq": 2, "outcome": "server_error", "error": "EngineCore encountered an issue"}
    (cell / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (warm_up, measured, failed)))
    (cell / "server-after.prom").write_text(SNAPSHOT)
    (cell / "problems.jsonl").write_text('{"problem": "secret"}\n')
    (cell / "server.log").write_text("secret")
    (tmp_path / "results" / "sweep.json").write_text('{"folder": "/home/me/results"}')
    out = tmp_path / "cells"
    assert publish.main([str(tmp_path / "results"), str(out), "--strip", "/home/me/"]) == 0

    files = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert set(files) == {
        "sweep.json",
        *(f"tp1_c1/{name}" for name in ("run.json", "records.jsonl", "server-after.prom")),
    }
    assert not [name for name, text in files.items() if "secret" in text or "/home" in text]
    kept = [json.loads(line) for line in files["tp1_c1/records.jsonl"].splitlines()]
    assert kept == [
        {"seq": 1, "server_timings": {"queue_time_ms": 0.031212, "speculative_decoding": {"num_drafts": 2}}},
        failed,
    ]
    assert files["tp1_c1/server-after.prom"] == 'vllm:generation_tokens_total{engine="0"} 12.0\n'
