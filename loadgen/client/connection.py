"""One connection to the server. It carries one request at a time.

The timestamp comes first: `data_received` reads the clock, keeps the bytes and returns. The HTTP framing is removed when
the response seems to end, so that the next request can be sent. Events and their JSON are decoded later, by the client four
times a second or when the Exchange is asked for. So no timestamp waits for a parser, and work that is done rarely for many
events costs less.

This module does not know where the connection leads, nor which request uses it next.
"""

import asyncio
import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import cast

from loadgen.client.response import EVENT_AND_CHUNK_END, ResponseReader


def plain_fd(transport: asyncio.BaseTransport) -> int:
    """Return the file descriptor of the socket, or -1 for a TLS connection."""
    tls = transport.get_extra_info("sslcontext") is not None
    return -1 if tls else cast("int", transport.get_extra_info("socket").fileno())


def write_now(transport: asyncio.Transport, fd: int, data: bytes) -> None:
    """Write to the socket at once.

    The transport of uvloop keeps data until all callbacks of this iteration of the loop have run. The first of 64 requests
    sent in one iteration would leave 2 ms after its timestamp, and the writes of one iteration would be merged.
    """
    written = 0
    if fd >= 0 and not transport.get_write_buffer_size():
        try:
            written = os.write(fd, data)
        except BlockingIOError:
            pass
        except OSError:  # the peer has closed the connection; connection_lost follows
            return
    if written < len(data):
        transport.write(data[written:])


class Connection(asyncio.Protocol):
    """A TCP or TLS connection. `on_lost` is called when it is closed."""

    def __init__(self) -> None:
        self.reader: ResponseReader | None = None
        self.idle_since_ns = 0
        self.on_lost: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; `write_now` needs its file descriptor."""
        self._transport = cast("asyncio.Transport", transport)
        self._fd = plain_fd(transport)

    def start(self, reader: ResponseReader, payload: bytes) -> None:
        """Send a request and give its response to `reader`."""
        self.reader = reader
        if self._transport is None or self._transport.is_closing():
            reader.connection_lost(None)
        else:
            write_now(self._transport, self._fd, payload)

    def data_received(self, data: bytes) -> None:
        """Timestamp `data` and keep it; parse it only where the response may have ended."""
        reader = self.reader
        if reader is None:
            self.abort()  # no request was sent, so these bytes must not be read as the next response
            return
        reader.reads.append((perf_counter_ns(), data))
        if not (reader.is_chunked_stream and data.endswith(EVENT_AND_CHUNK_END)):
            reader.parse_soon(data)

    def eof_received(self) -> bool | None:
        """End the response: the server sends nothing more."""
        if self.reader is not None:
            self.reader.connection_lost(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response and report that the connection is closed."""
        if self.reader is not None:
            self.reader.connection_lost(exc)
        self._transport = None
        if self.on_lost is not None:
            self.on_lost(self)

    def usable(self) -> bool:
        """Return whether the connection is open and carries no request."""
        return self.reader is None and self._transport is not None and not self._transport.is_closing()

    def release(self) -> bool:
        """Detach the response reader; return whether the connection can carry another request."""
        reader, self.reader = self.reader, None
        return reader is not None and reader.reusable and self.usable()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
