"""Connects to a host name that may have several addresses, of which some may not answer.

The name is resolved once. With several addresses, a second one is tried 250 ms after the first (RFC 8305, "Happy Eyeballs"),
by the library that aiohttp uses: an IPv6 address to which no route leads must not cost every connection seconds. The address
that answered is tried first from then on. When no address answers, the next connection resolves the name again.

This module does not know what is sent over the connections.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar

import aiohappyeyeballs

DELAY_S = 0.25

P = TypeVar("P", bound=asyncio.Protocol)


class Addresses:
    """The addresses of one host and port. Use it in one event loop."""

    def __init__(self, host: str, port: int, found: Sequence[aiohappyeyeballs.AddrInfoType] = ()) -> None:
        """`found` are addresses that are known already."""
        self.host = host
        self.port = port
        self._found = list(found)

    async def connect(
        self,
        protocol: Callable[[], P],
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.Transport, P]:
        """Open a connection, with TLS where there is a context. Raises OSError, of which socket.gaierror is a subclass."""
        loop = asyncio.get_running_loop()
        if not self._found:
            self._found = list(await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
        try:
            if len(self._found) == 1:
                host, port = self._found[0][4][:2]
                return await loop.create_connection(protocol, host, port, ssl=tls, server_hostname=server_hostname)
            sock = await aiohappyeyeballs.start_connection(self._found, happy_eyeballs_delay=DELAY_S, interleave=1)
        except ssl.SSLError:
            raise
        except OSError:
            self._found = []
            raise
        peer = sock.getpeername()[:2]
        self._found = sorted(self._found, key=lambda info: info[4][:2] != peer)
        return await loop.create_connection(protocol, sock=sock, ssl=tls, server_hostname=server_hostname)
