"""Bytes of an event stream → the data of its events.

Rules: no I/O, no JSON, no clock. Bytes, never text: `str.splitlines` cuts at U+2028, which JSON may hold. Any split of
the input gives the same events. Linear in the input, also for one line of many megabytes in small pieces.

Does not know: what an event means, nor that `[DONE]` is the last one. Fields other than `data` mean nothing to it.
"""

from collections.abc import Iterable

BOM = b"\xef\xbb\xbf"


class SSEDecoder:
    """Feed it bytes as they come; it gives the data of each event that became complete."""

    __slots__ = ("_after_cr", "_data", "_first", "_tail")

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        """Pieces of a line that has not ended yet: joined once, when it has."""
        self._data: list[bytes] = []
        """`data` lines of an event that has not ended yet."""
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Data of the events that `chunk` completes. Events without data are none."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._newlines_only(chunk)
        if b"\n" not in chunk:
            if chunk:
                self._tail.append(chunk)
            return []
        if self._tail:
            self._tail.append(chunk)
            chunk = b"".join(self._tail)
            self._tail.clear()
        lines = chunk.split(b"\n")
        if lines[-1]:
            self._tail.append(lines[-1])
        del lines[-1]
        return self._events(lines)

    def stamped(self, reads: list[tuple[int, bytes]]) -> Iterable[tuple[int, bytes]]:
        """Events of several reads, (stamp, bytes) each, with the stamp of the read that completed them.

        The shortcut, split in C, is for what servers nearly always send: reads of whole events, which are one `data` line
        each. Every newline has to belong to an event's end; else each read is fed by itself.
        """
        body = b"".join([body for _, body in reads])
        events = body[6:-2].split(b"\n\ndata: ")
        newlines = [body.count(b"\n") for _, body in reads]
        if (
            sum(newlines) != 2 * len(events)
            or 1 in {count & 1 for count in newlines}
            or not (body.startswith(b"data: ") and body.endswith(b"\n\n") and all(events))
            or b"\r" in body
            or self._tail
            or self._data
            or self._after_cr
        ):
            return [(stamp, event) for stamp, body in reads for event in self.feed(body)]
        self._first = False
        stamps = [stamp for (stamp, _), count in zip(reads, newlines, strict=True) for _ in range(count // 2)]
        return zip(stamps, events, strict=True)

    def close(self) -> list[bytes]:
        """Data of an event that the stream's end cut short, if any: whole or torn, the caller has to see."""
        line = b"".join(self._tail)
        self._tail.clear()
        return self._events([line, b""])

    def pending_bytes(self) -> int:
        """How much of an unfinished line is held."""
        return sum(map(len, self._tail))

    def _newlines_only(self, chunk: bytes) -> bytes:
        """CRLF and CR become LF, also where a CRLF is split between two chunks."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        data = self._data
        if self._first and lines:
            self._first = False
            lines[0] = lines[0].removeprefix(BOM)
        for line in lines:
            if not line:
                if data:
                    event = data[0] if len(data) == 1 else b"\n".join(data)
                    data.clear()
                    if event:
                        events.append(event)
            elif line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        return events
