"""Bytes of an event stream → the data of its events.

Rules: no I/O, no JSON, no clock. Bytes, never text: `str.splitlines` cuts at U+2028, which JSON may hold. Any split of
the input gives the same events. Linear in the input, also for one line of many megabytes in small pieces.

Does not know: what an event means, nor that `[DONE]` is the last one. Fields other than `data` mean nothing to it.
"""

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

    def lines(self, chunk: bytes) -> bytes | None:
        """The shortcut for what servers nearly always send: whole events of one `data` line each.

        Their data, a line each, where `chunk` is just that and nothing is held from before; else None, and `feed` has to
        take it. Newlines are counted: each must belong to an end of such an event.
        """
        if self._tail or self._data or self._after_cr or not chunk.startswith(b"data: ") or b"\r" in chunk:
            return None
        events = chunk.replace(b"\n\ndata: ", b"\n")
        ends = (len(chunk) - len(events)) // 7
        if not events.endswith(b"\n\n") or events.count(b"\n") != ends + 2:
            return None
        self._first = False
        return events[6:-2]

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
