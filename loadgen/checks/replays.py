"""Reads the stream of a dialect from a file and renders it for the reference server, which replays it at its times.

A file has one JSON object in each line. The first one says what the server is (`about`) and what its habits are (`Habits`);
the second one (`right`) is the record that a client should make of it. Each later line is one event, which is written
`at_ms` after the request: `data` is a JSON object or a text that becomes a server-sent event, `raw` is written as it is.
Events with the same time are one write.

This module does not know HTTP connections, nor whether a client reads the stream correctly.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

Writes = tuple[tuple[float, bytes], ...]


class Habits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a server does apart from its events."""

    about: str
    """Name and version of the server, and what is special about this stream."""
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    data_prefix: str = "data: "
    write_bytes: int | None = None
    """A proxy collects the bytes and passes them on in pieces of this size, and what is left at the end."""
    closes: bool = False
    """The connection is closed after the last write, without the last chunk of HTTP."""
    needs_query: str = ""
    """Requests whose query does not contain this are answered with 404."""
    refuses: tuple[str, ...] = ()
    """Fields of the request's body that are answered with 400."""
    models: Any = msgspec.field(default_factory=lambda: {"data": [{"id": "reference", "object": "model"}]})
    """Body of `/models`."""


class Event(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One event of the stream."""

    at_ms: float
    data: Any = None
    raw: str | None = None

    def to_bytes(self, prefix: str) -> bytes:
        """Return the bytes of the event; a character above U+DC7F stands for a byte that is not UTF-8."""
        if self.raw is not None:
            return self.raw.encode(errors="surrogateescape")
        data = self.data if isinstance(self.data, str) else json.dumps(self.data, separators=(",", ":"))
        return f"{prefix}{data}\n\n".encode()


class Replay(msgspec.Struct, kw_only=True):
    """The contents of one file."""

    habits: Habits
    right: dict[str, Any]
    events: list[Event]

    def writes(self) -> Writes:
        """Return what the server writes, each with its time in ms."""
        events = groupby(self.events, key=lambda event: event.at_ms)
        prefix = self.habits.data_prefix
        writes = [(at_ms, b"".join(event.to_bytes(prefix) for event in group)) for at_ms, group in events]
        size = self.habits.write_bytes
        return tuple(writes if size is None else _regrouped(writes, size))

    def other_response(self, method: str, url: str, body: bytes) -> tuple[int, Any] | None:
        """Return status and JSON body of a request that is not answered with the stream; None for the stream."""
        parts = urlsplit(url)
        if self.habits.needs_query not in parts.query:
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        if method == "GET":
            found = parts.path.endswith("/models")
            return (200, self.habits.models) if found else (404, {"detail": "Not Found"})
        refused = [name for name in self.habits.refuses if name in json.loads(body)]
        if refused:
            message = f"Unsupported parameter: '{refused[0]}' is not supported with this model."
            error = {"message": message, "param": refused[0], "code": "unsupported_parameter"}
            return 400, {"error": error | {"type": "invalid_request_error"}}
        return None


def read(path: Path) -> Replay:
    """Read one file. Raises OSError or msgspec.DecodeError."""
    about, right, *events = path.read_bytes().splitlines()
    return Replay(
        habits=msgspec.json.decode(about, type=Habits),
        right=msgspec.json.decode(right)["right"],
        events=[msgspec.json.decode(line, type=Event) for line in events],
    )


def _regrouped(writes: list[tuple[float, bytes]], size: int) -> Iterator[tuple[float, bytes]]:
    """Yield the same bytes in pieces of `size`, each at the time of its last byte."""
    held = b""
    for at_ms, data in writes:
        held += data
        while len(held) >= size:
            yield at_ms, held[:size]
            held = held[size:]
    if held:
        yield writes[-1][0], held
