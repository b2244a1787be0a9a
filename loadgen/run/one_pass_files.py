"""Completes the texts of chunks that a derived budget cut, after a `--one-pass` run.

Rules: this work happens after the load. `records.jsonl` is replaced completely or not at all. A record keeps `cut_at:
"chunk"` if the server cannot tell the text of a part of its last chunk.

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
    """Cuts the text of a chunk after a token, with the tokenizer of the server."""

    def __init__(self, api: ControlApi, model: str) -> None:
        self._api = api
        self._model = model
        self._known: dict[tuple[int, ...], str | None] = {}
        self._gone = False
        """The server did not answer: it is not asked thousands of times more."""

    def cut(self, pending: PendingCut) -> tuple[str, str] | None:
        """The (reasoning, content) of the tokens that are within the budget, or None if the server cannot tell."""
        if not pending.kept:
            return None
        before = self._text(pending.before)
        both = self._text(pending.before + pending.kept)
        if before is None or both is None:
            return None
        return split_piece(pending.piece, whole_characters(both).removeprefix(whole_characters(before)))

    def _text(self, ids: tuple[int, ...]) -> str | None:
        if not ids:
            return ""
        if ids not in self._known and not self._gone:
            response = self._api.post(f"{self._api.root}/detokenize", {"model": self._model, "tokens": list(ids)})
            self._gone = response.status is None
            body = response.json()
            prompt = body.get("prompt") if isinstance(body, dict) else None
            self._known[ids] = prompt if isinstance(prompt, str) else None
        return self._known.get(ids)


def complete_cuts(folder: Path, detokenizer: Detokenizer) -> None:
    """Add the text of cut chunks to the records that were derived from them. Raises OSError."""
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
            try:
                seq, pending = decoder.decode(line)
            except (ValueError, RecursionError):  # a crash has cut the line; its record keeps cut_at "chunk"
                continue
            if (cut := detokenizer.cut(pending)) is not None:
                yield seq, cut


def whole_characters(text: str) -> str:
    """The text without an incomplete character at its end, which a server does not send yet."""
    return text.rstrip("\ufffd")


def split_piece(piece: tuple[str, str], part: str) -> tuple[str, str] | None:
    """Split `part`, which is the beginning of a chunk's text, into (reasoning, content).

    Returns None if the chunk's text does not begin with `part`. Where the server's reasoning parser has removed `</think>`
    between the two, `part` may still contain it.
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
