"""Where requests go: the target's address, the head of every request, TLS, and a proxy from the environment.

A target with http goes to a proxy in absolute form, a target with https through a CONNECT tunnel. A mistake of the
operator is a UsageError that contains neither the API key nor a password.

A host name may have several addresses, of which some may not answer. The name is resolved once. With several addresses, a
second one is tried 250 ms after the first (RFC 8305, "Happy Eyeballs"), by the library that aiohttp uses: an IPv6 address to
which no route leads must not cost every connection seconds. The address that answered is tried first from then on. When no
address answers, the next connection resolves the name again.

This module does not know requests, responses, or how many connections there are.
"""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

import aiohappyeyeballs

from loadgen import network
from loadgen.errors import UsageError
from loadgen.exchange import Outcome

P = TypeVar("P", bound=asyncio.Protocol)

DELAY_S = 0.25
CLIENT_FAULTS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
"""Connection errors caused by this machine and not by the server. Their error text begins with `client:`."""


@dataclass
class Addresses:
    """The addresses of one host and port. Use it in one event loop."""

    host: str
    port: int
    found: Sequence[aiohappyeyeballs.AddrInfoType] = ()
    """The addresses that are known, the one that answered first; empty until the name is resolved."""

    async def connect(
        self, protocol: Callable[[], P], tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> tuple[asyncio.Transport, P]:
        """Open a connection, with TLS where there is a context. Raises OSError, of which socket.gaierror is a subclass."""
        loop = asyncio.get_running_loop()
        if not self.found:
            self.found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        try:
            if len(self.found) == 1:
                host, port = self.found[0][4][:2]
                return await loop.create_connection(protocol, host, port, ssl=tls, server_hostname=server_hostname)
            sock = await aiohappyeyeballs.start_connection(self.found, happy_eyeballs_delay=DELAY_S, interleave=1)
        except ssl.SSLError:
            raise
        except OSError:
            self.found = ()
            raise
        peer = sock.getpeername()[:2]
        self.found = sorted(self.found, key=lambda info: info[4][:2] != peer)
        return await loop.create_connection(protocol, sock=sock, ssl=tls, server_hostname=server_hostname)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address that connections go to, and what the head of every request contains."""

    addresses: Addresses
    """Of the server, or of the proxy."""
    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: network.Proxy | None = field(repr=False)
    """It may hold a password."""
    prefix: bytes
    """`POST ` and the part of the request line before the request's path."""
    query: bytes
    """The target's query with its question mark, or nothing."""
    head: bytes = field(repr=False)
    """Header lines of every request, among them the key."""

    def request_bytes(self, path: str, body: bytes) -> bytes:
        """Return one request, ready to write. `path` is relative to the target."""
        line = b"%s%s%s HTTP/1.1\r\n" % (self.prefix, path.encode(), self.query)
        return b"%s%scontent-length: %d\r\n\r\n%s" % (line, self.head, len(body), body)

    async def connect(self, protocol: Callable[[], P]) -> P:
        """Open a new connection. Raises OSError, of which ssl.SSLError is a subclass."""
        name = self.host if self.tls else None
        if self.proxy is None:
            return (await self.addresses.connect(protocol, self.tls, name))[1]
        if self.tls is None:
            return (await self.addresses.connect(protocol))[1]
        transport, tunnel = await self.addresses.connect(_Tunnel)
        try:
            await tunnel.open(transport, self.host, self.port, self.proxy.authorization)
            made = protocol()
            inner = await asyncio.get_running_loop().start_tls(transport, made, self.tls, server_hostname=name)
        except BaseException:
            transport.abort()
            raise
        made.connection_made(cast("asyncio.BaseTransport", inner))
        return made


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel and reads its response. After that, TLS takes the connection over."""

    def __init__(self) -> None:
        self._response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._read = b""

    async def open(self, transport: asyncio.Transport, host: str, port: int, authorization: str | None) -> None:
        """Send CONNECT and wait for the response. Raises ConnectionRefusedError where the proxy refuses."""
        authority = f"{host}:{port}".encode()
        credentials = _header_line("proxy-authorization", authorization) if authorization else b""
        transport.write(b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (authority, authority, credentials))
        status = (await self._response).split(b"\r\n", 1)[0]
        if status.split(b" ")[1:2] != [b"200"]:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"the proxy said: {status.decode(errors='replace')}")

    def data_received(self, data: bytes) -> None:
        self._read += data
        if b"\r\n\r\n" in self._read and not self._response.done():
            self._response.set_result(self._read)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._response.done():
            self._response.set_exception(exc or ConnectionResetError("the proxy closed the connection"))


def endpoint_of(
    target: str,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] = {},
    ca_file: Path | None = None,
    verify: bool = True,
) -> Endpoint:
    """Return the endpoint of a base URL such as `http://host:8000/v1`, which `control_api.check_url` accepts.

    Raises UsageError where the headers, the proxy or the certificates cannot be used.
    """
    url = urlsplit(target)
    host, port = network.address(url)
    proxy = network.http_proxy(target)
    written = network.bracketed(host)
    authority = written if url.port is None else f"{written}:{port}"
    lines = {
        "host": authority,
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "thinkload",
    }
    if api_key:
        lines["authorization"] = f"Bearer {api_key}"
    lines |= {name.lower(): value for name, value in headers.items()}
    absolute = proxy is not None and url.scheme == "http"
    if absolute and proxy and proxy.authorization:
        lines["proxy-authorization"] = proxy.authorization
    return Endpoint(
        addresses=Addresses(proxy.host, proxy.port) if proxy else Addresses(host, port),
        host=host,
        port=port,
        tls=network.tls_context(ca_file, verify=verify) if url.scheme == "https" else None,
        proxy=proxy,
        prefix=f"POST {f'http://{authority}' if absolute else ''}{url.path.rstrip('/')}".encode(),
        query=f"?{url.query}".encode() if url.query else b"",
        head=b"".join(_header_line(name, value) for name, value in lines.items()),
    )


def connect_failure(error: OSError) -> tuple[Outcome, str]:
    """Return outcome and error text of a connection that could not be opened."""
    text = str(error.strerror or error) or type(error).__name__
    if error.errno in CLIENT_FAULTS:
        return "refused", f"client: {text}"
    if isinstance(error, TimeoutError):
        return "timeout", f"no connection: {text}"
    if isinstance(error, ConnectionResetError):
        return "reset", f"no connection: {text}"
    return "refused", f"no connection: {text}"


def _header_line(name: str, value: str) -> bytes:
    if not re.fullmatch(r"[-\w]+", name, re.ASCII) or "\r" in value or "\n" in value:
        raise UsageError(f"header {name!r}: write letters, digits and dashes, and no line break in the value")
    try:
        return f"{name}: {value}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError(f"header {name!r}: its value has characters that HTTP cannot send") from None
