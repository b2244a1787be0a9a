"""Decodes the bytes of an event stream (server-sent events) into the data of its events.

The decoder works on bytes and not on text, because `str.splitlines` splits at U+2028, which JSON may contain. However the
input is split into pieces, the events are the same. The time is linear in the input, also for one line of many megabytes
that arrives in small pieces. Of the other fields only `event: error` is read, and the field `error`, which old versions of
llama.cpp send in place of `data`: the data of such an event is an ErrorEvent.

This module does no I/O. It does not know what an event means, nor that `[DONE]` is the last one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

BOM = b"\xef\xbb\xbf"


class ErrorEvent(bytes):
    """Data of an event that the server has marked as an error."""


@dataclass(slots=True)
class SSEDecoder:
    """Takes bytes as they arrive and returns the data of each event that they complete."""

    _partial_line: list[bytes] = field(default_factory=list)
    """Pieces of a line that has not ended. They are joined once, when it ends."""
    _data_lines: list[bytes] = field(default_factory=list)
    """`data` lines of an event that has not ended."""
    _partial_bytes: int = 0
    _data_bytes: int = 0
    _is_error: bool = False
    """The event that has not ended is marked as an error."""
    _after_cr: bool = False
    _at_start: bool = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes. Events without data are left out."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._normalize_newlines(chunk)
        if b"\n" not in chunk:
            if chunk:
                self._partial_line.append(chunk)
                self._partial_bytes += len(chunk)
            return []
        if self._partial_line:
            self._partial_line.append(chunk)
            chunk = b"".join(self._partial_line)
            self._partial_line.clear()
        lines = chunk.split(b"\n")
        if lines[-1]:
            self._partial_line.append(lines[-1])
        self._partial_bytes = len(lines[-1])
        del lines[-1]
        return self._events(lines)

    def feed_reads(self, reads: list[tuple[int, bytes]]) -> Iterable[tuple[int, bytes]]:
        """Return the events of several (timestamp, bytes) reads, each with the timestamp of the read that completed it.

        Servers nearly always send reads of whole events, each event being one `data` line. For these there is a fast path
        that splits in C. It needs every newline to belong to the end of an event; otherwise each read is fed separately.
        """
        body = b"".join([body for _, body in reads])
        events = body[6:-2].split(b"\n\ndata: ")
        newlines = [body.count(b"\n") for _, body in reads]
        if (
            sum(newlines) != 2 * len(events)
            or 1 in {count & 1 for count in newlines}
            or not (body.startswith(b"data: ") and body.endswith(b"\n\n") and all(events))
            or b"\r" in body
            or self._partial_line
            or self._data_lines
            or self._after_cr
            or self._is_error
        ):
            return [(stamp, event) for stamp, body in reads for event in self.feed(body)]
        self._at_start = False
        stamps = [stamp for (stamp, _), count in zip(reads, newlines, strict=True) for _ in range(count // 2)]
        return zip(stamps, events, strict=True)

    def close(self) -> list[bytes]:
        """Return the data of an event that the end of the stream cut short, if any. It may be incomplete."""
        line = b"".join(self._partial_line)
        self._partial_line.clear()
        return self._events([line, b""])

    @property
    def pending_bytes(self) -> int:
        """Number of bytes of the event that has not ended."""
        return self._partial_bytes + self._data_bytes

    def _normalize_newlines(self, chunk: bytes) -> bytes:
        """Replace CRLF and CR by LF, also where a CRLF is split between two chunks."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        data_lines = self._data_lines
        if self._at_start and lines:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        for line in lines:
            if not line:
                if data_lines:
                    event = data_lines[0] if len(data_lines) == 1 else b"\n".join(data_lines)
                    data_lines.clear()
                    self._data_bytes = 0
                    if event:
                        events.append(ErrorEvent(event) if self._is_error else event)
                self._is_error = False
            elif line.startswith(b"data:"):
                data_lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._data_bytes += len(line)
            elif line.startswith((b"event:", b"error:")):
                self._read_error_mark(line)
        return events

    def _read_error_mark(self, line: bytes) -> None:
        """Note that the event is an error: its type says so, or its data come in a field with this name."""
        name, _, value = line.partition(b":")
        if name == b"error":
            self._data_lines.append(value.removeprefix(b" "))
            self._data_bytes += len(line)
        self._is_error = self._is_error or name == b"error" or value.strip() == b"error"
