"""Writes and reads `chunks.bin`: when each token event of each request arrived, and how many tokens it held.

The file is a sequence of frames, one for each HTTP call of a request. A frame is the length of its body (varint), the body,
and the CRC-32 of the body (4 bytes, little-endian). A body holds these varints: the request's `seq`, the number of token
events, and for each event the time since the event before it (for the first event: since the start of the run) in
microseconds of model time, multiplied by 2. Where the event holds another number of tokens than 1, 1 is added to that value
and a varint with the number of tokens follows. A token that arrives 5 to 130 ms after the one before it takes 2 to 3 bytes.

The file is only appended to, so that a crash damages at most the last frame. Times are rounded to 1 µs as positions, not as
gaps, so that rounding errors do not add up. A request that has several calls, or that was sent again by a resumed run, has
several frames, in order.

This module does not know what a request asked for.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from loadgen.clock import RunClock

CHUNKS = "chunks.bin"
"""Name of the file in a run folder."""


class Chunks(NamedTuple):
    """The token events of one call of request `seq`: arrival times since the start of the run, and tokens in each."""

    seq: int
    arrival_us: list[int]
    tokens: list[int]


class ChunkLog:
    """Appends frames to a file. They survive a crash of the machine once `sync` has returned."""

    def __init__(self, path: Path) -> None:
        # The file is not buffered: when the process is killed after a record, the timings of that record must be kept.
        self._file = path.open("ab", buffering=0)

    def append(self, seq: int, arrival_ns: Sequence[int], tokens: Sequence[int], clock: RunClock) -> None:
        """Append the token events of one call. Raises OSError, for example when the disk is full."""
        start_ns = clock.start_ns
        if clock.scale == 1:
            arrival_us = [(ns - start_ns + 500) // 1000 for ns in arrival_ns]
        else:
            arrival_us = [round((ns - start_ns) * clock.scale / 1000) for ns in arrival_ns]
        data = encode_frame(seq, arrival_us, tokens)
        while data:
            data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Return once everything appended so far is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync the file and close it."""
        if not self._file.closed:
            self.sync()
            self._file.close()


def read_chunks(path: Path) -> Iterator[Chunks]:
    """Yield the frames of one `chunks.bin`, up to the first one that is incomplete or damaged."""
    data = path.read_bytes()
    for start, end in _whole_bodies(data):
        yield decode_frame(data[start:end])


def drop_torn_frame(path: Path) -> int:
    """Truncate the file after its last whole frame and return how many bytes were removed.

    Without this, an incomplete frame would hide the frames that are appended after it.
    """
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        data = file.read()
        length = max((end + 4 for _, end in _whole_bodies(data)), default=0)
        file.truncate(length)
    return len(data) - length


def _whole_bodies(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the body of each frame starts and ends, up to the first frame that is incomplete or damaged."""
    position = 0
    while position < len(data):
        try:
            length, start = decode_varint(data, position)
        except IndexError:
            return
        end = start + length
        position = end + 4
        # No frame is empty, but the checksum of nothing is 0: a hole of zeros would look like empty frames.
        if (
            length == 0
            or position > len(data)
            or zlib.crc32(data[start:end]) != int.from_bytes(data[end:position], "little")
        ):
            return
        yield start, end


def encode_frame(seq: int, arrival_us: Sequence[int], tokens: Sequence[int]) -> bytes:
    """Encode one frame. Arrival times must be in ascending order, and the first must not be negative."""
    body = bytearray()
    encode_varint(body, seq)
    encode_varint(body, len(arrival_us))
    before_us = 0
    add = body.append
    for time_us, count in zip(arrival_us, tokens, strict=True):
        value = time_us - before_us << 1 | (count != 1)
        before_us = time_us
        while value > 127:  # This is encode_varint, repeated here because a call for each token takes too long.
            add(value & 127 | 128)
            value >>= 7
        add(value)
        if count != 1:
            encode_varint(body, count)
    head = bytearray()
    encode_varint(head, len(body))
    return bytes(head + body) + zlib.crc32(body).to_bytes(4, "little")


def decode_frame(body: bytes) -> Chunks:
    """Decode the body of one frame."""
    seq, position = decode_varint(body, 0)
    events, position = decode_varint(body, position)
    chunks = Chunks(seq, [], [])
    time_us = 0
    for _ in range(events):
        value, position = decode_varint(body, position)
        count = 1
        if value & 1:
            count, position = decode_varint(body, position)
        time_us += value >> 1
        chunks.arrival_us.append(time_us)
        chunks.tokens.append(count)
    return chunks


def encode_varint(out: bytearray, value: int) -> None:
    """Append a number in base 128, the lowest digits first; the high bit of a byte says that another byte follows."""
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position` and the position after it. Raises IndexError where the data end within it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
