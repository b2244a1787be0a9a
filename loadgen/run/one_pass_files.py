"""Completes the texts of chunks that a derived budget cut, after a `--one-pass` run.

Rules: this happens outside the measured time. `records.jsonl` is replaced as a whole or not at all. A chunk whose text the
server cannot give keeps `cut_at: "chunk"`.

This module does not know how derived and real budgets are compared (see `loadgen.measure.one_pass_check`).
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from loadgen.exchange import THINK_END
from loadgen.files import write_atomically
from loadgen.measure.one_pass import PendingCut
from loadgen.record import RECORDS, STRADDLES, read_records
from loadgen.target.control_api import ControlApi


class Detokenizer:
    """Cuts a chunk's text after a token, by the server's own tokenizer."""

    def __init__(self, ask: ControlApi, model: str) -> None:
        self._ask = ask
        self._model = model
        self._known: dict[tuple[int, ...], str | None] = {}

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
        if ids not in self._known:
            answer = self._ask.post(
                f"{self._ask.root}/detokenize", {"model": self._model, "tokens": list(ids)}
            )
            said = answer.json()
            prompt = said.get("prompt") if isinstance(said, dict) else None
            self._known[ids] = prompt if isinstance(prompt, str) else None
        return self._known[ids]


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
