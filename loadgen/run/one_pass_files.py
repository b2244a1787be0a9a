"""After a `--one-pass` run: the text of chunks that a budget cut, and derived budgets beside the one run for real.

Rules: off the hot path; records.jsonl is replaced whole or not at all; a chunk whose text the server can't give keeps
`cut_at: "chunk"`. The comparison is by problem: same text, and the ratio of the sums of latencies.

Does not know: grading; two texts are the same or they are not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loadgen.exchange import THINK_END
from loadgen.files import write_atomically
from loadgen.measure.one_pass import PendingCut
from loadgen.record import RECORDS, STRADDLES, Record, read_records
from loadgen.target.control_api import ControlApi


class Detokenizer:
    """Cuts a chunk's text after a token, by the server's own tokenizer."""

    def __init__(self, ask: ControlApi, model: str) -> None:
        self._ask = ask
        self._model = model
        self._known: dict[tuple[int, ...], str | None] = {}
        self._gone = False
        """The server did not answer: it is not asked thousands of times more."""

    def cut(self, straddle: PendingCut) -> tuple[str, str] | None:
        """(reasoning, content) of the part that the budget pays for; None where the server can't tell."""
        if not straddle.kept:
            return None
        before = self._text(straddle.before)
        both = self._text(straddle.before + straddle.kept)
        if before is None or both is None:
            return None
        return split_piece(straddle.piece, whole_characters(both).removeprefix(whole_characters(before)))

    def _text(self, ids: tuple[int, ...]) -> str | None:
        if not ids:
            return ""
        if ids not in self._known and not self._gone:
            answer = self._ask.post(
                f"{self._ask.root}/detokenize", {"model": self._model, "tokens": list(ids)}
            )
            self._gone = answer.status is None
            said = answer.json()
            prompt = said.get("prompt") if isinstance(said, dict) else None
            self._known[ids] = prompt if isinstance(prompt, str) else None
        return self._known.get(ids)


def settle(folder: Path, detokenizer: Detokenizer) -> None:
    """Cut the texts that are still to be cut."""
    path = folder / STRADDLES
    if not path.exists():
        return
    cuts = dict(_cuts(path, detokenizer))
    write_atomically(folder / RECORDS, _completed(folder, cuts))
    path.unlink()


def _completed(folder: Path, cuts: dict[int, tuple[str, str]]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for record in read_records(folder / RECORDS):
        if record.seq in cuts and record.cut_at == "chunk":
            reasoning, content = cuts[record.seq]
            record.text = (record.text or "") + content
            record.reasoning = ((record.reasoning or "") + reasoning) or None
            record.cut_at = "token"
        yield encoder.encode(record) + b"\n"


def _cuts(path: Path, detokenizer: Detokenizer) -> Iterator[tuple[int, tuple[str, str]]]:
    decoder = msgspec.json.Decoder(tuple[int, PendingCut])
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


def whole_characters(text: str) -> str:
    """Text without the incomplete character at its end, which a server holds back."""
    return text.rstrip("\ufffd")


def split_piece(piece: tuple[str, str], part: str) -> tuple[str, str] | None:
    """A beginning of the chunk's text, as (reasoning, content); None where `part` is no beginning of it.

    Where a parser took `</think>` out between the two, the part may hold it.
    """
    reasoning, content = piece
    head, tag, rest = part.partition(THINK_END)
    if reasoning and content and tag:
        ok = reasoning.strip() == head.strip() and content.startswith(rest.lstrip("\n")[: len(content)])
        return (reasoning, rest.lstrip("\n")) if ok else None
    text = reasoning or content
    if not text.startswith(part):
        return None
    return (part, "") if reasoning else ("", part)
