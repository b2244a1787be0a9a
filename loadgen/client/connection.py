"""One connection to the server, and the one call it carries at a time.

Rules: stamp first. `data_received` reads the clock, keeps the bytes, and returns. The HTTP framing is taken off when the
response seems to end, so that the next request can go; the events and their JSON are left to the client's sweep, four
times a second, or to whoever asks for the Exchange (`settle`). So a stamp waits for no parser, and what is done seldom for
many events costs less. Outcomes are set here and in `stream`, once: the first thing that went wrong is the outcome.

Does not know: where the connection goes, who gets it next.
"""

import asyncio
import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import cast

from loadgen.client.response import MORE, ResponseReader


def plain_fd(transport: asyncio.BaseTransport) -> int:
    """The socket's descriptor, or -1 where TLS stands between."""
    tls = transport.get_extra_info("sslcontext") is not None
    return -1 if tls else cast("int", transport.get_extra_info("socket").fileno())


def write_now(transport: asyncio.Transport, fd: int, data: bytes) -> None:
    """Write at once. uvloop's transport keeps what it is given until all that is ready in this turn of the loop has run.

    Of 64 requests sent in one turn the first would leave 2 ms after its stamp; and writes of one turn would be joined.
    """
    written = 0
    if fd >= 0 and not transport.get_write_buffer_size():
        try:
            written = os.write(fd, data)
        except BlockingIOError:
            pass
        except OSError:  # the peer is gone; connection_lost follows
            return
    if written < len(data):
        transport.write(data[written:])


class Connection(asyncio.Protocol):
    """A TCP or TLS connection. `on_lost` is told when it is gone."""

    def __init__(self) -> None:
        self.call: ResponseReader | None = None
        self.idle_since_ns = 0
        self.on_lost: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Protocol callback."""
        self._transport = cast("asyncio.Transport", transport)
        self._fd = plain_fd(transport)

    def start(self, call: ResponseReader, payload: bytes) -> None:
        """Send the request of `call` and give it what comes back."""
        self.call = call
        if self._transport is None or self._transport.is_closing():
            call.lost(None)
        else:
            write_now(self._transport, self._fd, payload)

    def data_received(self, data: bytes) -> None:
        """Protocol callback."""
        call = self.call
        if call is None:
            self.abort()  # nothing was asked: what comes now is no answer to the next request
            return
        call.reads.append((perf_counter_ns(), data))
        if not (call.lazy and data.endswith(MORE)):
            call.parse_soon(data)

    def eof_received(self) -> bool | None:
        """Protocol callback: the server sends no more."""
        if self.call is not None:
            self.call.lost(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Protocol callback."""
        if self.call is not None:
            self.call.lost(exc)
        self._transport = None
        if self.on_lost is not None:
            self.on_lost(self)

    def usable(self) -> bool:
        """The connection stands and carries no call."""
        return self.call is None and self._transport is not None and not self._transport.is_closing()

    def release(self) -> bool:
        """Let go of the call; True where the connection can carry another."""
        call, self.call = self.call, None
        return call is not None and call.whole and self.usable()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
