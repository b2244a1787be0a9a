"""Writes `chunks.bin`: when each token event of each request arrived, and how many tokens it held.

A frame a call: varint length of the body, the body, CRC-32 of the body (4 bytes, little-endian). Body: varints
seq, events, then for each event the time since the one before (the first: since the run's start) in µs of model time,
doubled, plus 1 where a varint with its tokens follows because they are not 1. So a token at 5 to 130 ms from the last
costs 2 to 3 bytes. `loadgen.record.read_chunks` reads it back.

Rules: append-only; a crash tears at most the last frame. Times are rounded to 1 µs as positions, so errors never add
up. A seq that occurs again (a resumed run, a second call) is a further frame, in order.

Does not know: what a request was.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from loadgen.clock import RunClock

CHUNKS = "chunks.bin"
"""When each token event of each request arrived; format: loadgen/chunks.py."""


class ChunkLog:
    """Appends frames to a file; on the disk for good after `sync`."""

    def __init__(self, path: Path) -> None:
        # Not buffered: a process killed after a record must not take its timings along.
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def append(self, seq: int, arrival_ns: Sequence[int], tokens: Sequence[int], clock: RunClock) -> None:
        """Add the token events of one call. Raises OSError, as when the disk is full."""
        start_ns = clock.start_ns
        if clock.scale == 1:
            arrival_us = [(ns - start_ns + 500) // 1000 for ns in arrival_ns]
        else:
            arrival_us = [round((ns - start_ns) * clock.scale / 1000) for ns in arrival_ns]
        data = frame(seq, arrival_us, tokens)
        while data:
            data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Everything appended so far survives a crash of the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()


def drop_torn_frame(path: Path) -> int:
    """Cut off what a crash left of a frame, which would hide the frames after it; how many bytes that were."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        data = file.read()
        end = chunks_end(data)
        file.truncate(end)
    return len(data) - end


def frame(seq: int, arrival_us: Sequence[int], tokens: Sequence[int]) -> bytes:
    """One frame. Times must not fall, and the first not be negative."""
    body = bytearray()
    _varint(body, seq)
    _varint(body, len(arrival_us))
    before = 0
    add = body.append
    for time_us, count in zip(arrival_us, tokens, strict=True):
        value = time_us - before << 1 | (count != 1)
        before = time_us
        while value > 127:  # _varint, in line: once a token
            add(value & 127 | 128)
            value >>= 7
        add(value)
        if count != 1:
            _varint(body, count)
    head = bytearray()
    _varint(head, len(body))
    return bytes(head + body) + zlib.crc32(body).to_bytes(4, "little")


def _varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


class Chunks(NamedTuple):
    """Token events of one call of request `seq`: model time from the run's start, and tokens, of each."""

    seq: int
    arrival_us: list[int]
    tokens: list[int]


def read_chunks(path: Path) -> Iterator[Chunks]:
    """Yield the frames of one `chunks.bin`; reading ends at a frame that a crash tore or damaged."""
    data = path.read_bytes()
    end = chunks_end(data)
    at = 0
    while at < end:
        length, start = _read_varint(data, at)
        at = start + length + 4
        yield _read_frame(data[start : at - 4])


def chunks_end(data: bytes) -> int:
    """Where the last whole frame of a `chunks.bin` ends: what a crash tore comes after it."""
    at = 0
    while at < len(data):
        try:
            length, start = _read_varint(data, at)
        except IndexError:
            return at
        end = start + length + 4
        if end > len(data) or zlib.crc32(data[start : end - 4]) != int.from_bytes(
            data[end - 4 : end], "little"
        ):
            return at
        at = end
    return at


def _read_frame(body: bytes) -> Chunks:
    seq, at = _read_varint(body, 0)
    events, at = _read_varint(body, at)
    chunks = Chunks(seq, [], [])
    time_us = 0
    for _ in range(events):
        gap, at = _read_varint(body, at)
        tokens = 1
        if gap & 1:
            tokens, at = _read_varint(body, at)
        time_us += gap >> 1
        chunks.arrival_us.append(time_us)
        chunks.tokens.append(tokens)
    return chunks


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A little-endian base-128 number and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
