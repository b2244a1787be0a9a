"""After a `--one-pass` run: the text of chunks that a budget cut, and derived budgets beside the one run for real.

Rules: off the hot path; records.jsonl is replaced whole or not at all; a chunk whose text the server can't give keeps
`cut_at: "chunk"`. The comparison is by problem: same text, and the ratio of the sums of latencies.

Does not know: grading; two texts are the same or they are not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loadgen.onepass import Detokenizer, Straddle
from loadgen.record import RECORDS, Record, read_records
from loadgen.share import STRADDLES


def settle(folder: Path, detokenizer: Detokenizer) -> None:
    """Cut the texts that are still to be cut."""
    path = folder / STRADDLES
    if not path.exists():
        return
    cuts = dict(_cuts(path, detokenizer))
    encoder = msgspec.json.Encoder()
    partial = folder / f"{RECORDS}.partial"
    with partial.open("wb") as file:
        for record in read_records(folder / RECORDS):
            if record.seq in cuts and record.cut_at == "chunk":
                reasoning, content = cuts[record.seq]
                record.text = (record.text or "") + content
                record.reasoning = ((record.reasoning or "") + reasoning) or None
                record.cut_at = "token"
            file.write(encoder.encode(record) + b"\n")
    partial.replace(folder / RECORDS)
    path.unlink()


def _cuts(path: Path, detokenizer: Detokenizer) -> Iterator[tuple[int, tuple[str, str]]]:
    decoder = msgspec.json.Decoder(tuple[int, Straddle])
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            seq, straddle = decoder.decode(line)
            if (cut := detokenizer.cut(straddle)) is not None:
                yield seq, cut


def compare(folder: Path) -> dict[str, Any] | None:
    """The budget that was also run for real against what was derived for it; None where none was."""
    derived: dict[tuple[str, int, int], Record] = {}
    real: dict[tuple[str, int, int], Record] = {}
    largest = max((r.budget for r in read_records(folder / RECORDS)), default=0)
    for record in read_records(folder / RECORDS):
        if record.warmup or record.outcome != "ok" or record.budget == largest:
            continue
        (derived if record.derived else real)[record.problem_id, record.budget, record.repeat] = record
    both = sorted(derived.keys() & real.keys())
    if not both:
        return None
    same = [key for key in both if _text(derived[key]) == _text(real[key])]
    pairs = [(derived[key].e2e_s or 0.0, real[key].e2e_s or 0.0) for key in both]
    sums = tuple(map(sum, zip(*pairs, strict=True)))
    return {
        "budget": both[0][1],
        "problems": len(both),
        "same_text": len(same),
        "different": [key[0] for key in both if key not in set(same)][:20],
        "derived_e2e_s_mean": sums[0] / len(both),
        "real_e2e_s_mean": sums[1] / len(both),
        "e2e_ratio": sums[0] / sums[1] if sums[1] else None,
        "cut_at_chunk": sum(derived[key].cut_at == "chunk" for key in both),
    }


def _text(record: Record) -> tuple[str, str]:
    return record.reasoning or "", record.text or ""
