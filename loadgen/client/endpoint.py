"""The way to the target: its address, its head, TLS, a proxy from the environment.

Rules: TLS certificates are verified unless told otherwise; `SSL_CERT_FILE` and `ca_file` name a private authority.
`http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` are honoured as curl does: an http target in absolute form, an
https target through CONNECT. An operator's mistake is a ValueError that shows neither key nor password.

Does not know: requests, answers, how many connections there are.
"""

import asyncio
import base64
import errno
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from loadgen.record import Outcome

P = TypeVar("P", bound=asyncio.Protocol)

CLIENT_FAULTS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
"""Connection errors that this machine is to blame for, not the server: the error text begins with `client:`."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    authorization: bytes
    """Header line, or empty."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where connections go and what every request's head says."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: Proxy | None
    prefix: bytes
    """`POST ` and what stands before the request's path."""
    head: bytes
    """Header lines of every request."""

    def request_bytes(self, path: str, body: bytes) -> bytes:
        """One request, ready to write. `path` is below the target."""
        return b"%s%s HTTP/1.1\r\n%scontent-length: %d\r\n\r\n%s" % (
            self.prefix,
            path.encode(),
            self.head,
            len(body),
            body,
        )

    async def connect(self, protocol: Callable[[], P]) -> P:
        """A new connection. Raises OSError (ssl.SSLError is one)."""
        loop = asyncio.get_running_loop()
        name = self.host if self.tls else None
        if self.proxy is None:
            return (
                await loop.create_connection(
                    protocol, self.host, self.port, ssl=self.tls, server_hostname=name
                )
            )[1]
        if self.tls is None:
            return (await loop.create_connection(protocol, self.proxy.host, self.proxy.port))[1]
        transport, tunnel = await loop.create_connection(_Tunnel, self.proxy.host, self.proxy.port)
        try:
            await tunnel.open(transport, self.host, self.port, self.proxy.authorization)
            made = protocol()
            inner = await loop.start_tls(transport, made, self.tls, server_hostname=name)
        except BaseException:
            transport.abort()
            raise
        made.connection_made(cast("asyncio.BaseTransport", inner))
        return made


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel and reads its answer; then TLS takes the connection over."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._read = b""

    async def open(self, transport: asyncio.Transport, host: str, port: int, authorization: bytes) -> None:
        """Raises ConnectionRefusedError where the proxy refuses."""
        where = f"{host}:{port}".encode()
        transport.write(b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (where, where, authorization))
        status = (await self._answer).split(b"\r\n", 1)[0]
        if status.split(b" ")[1:2] != [b"200"]:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"the proxy said: {status.decode(errors='replace')}"
            )

    def data_received(self, data: bytes) -> None:
        self._read += data
        if b"\r\n\r\n" in self._read and not self._answer.done():
            self._answer.set_result(self._read)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the proxy closed the connection"))


def find_route(
    target: str,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | None = None,
    verify: bool = True,
) -> Endpoint:
    """The route to a base URL such as `http://host:8000/v1`. Raises ValueError naming what is wrong."""
    url = urlsplit(target)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{target.rpartition('@')[2]}: no http(s) URL")
    port = url.port or (443 if url.scheme == "https" else 80)
    proxy = find_proxy(url)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    authority = host if url.port is None else f"{host}:{port}"
    lines = {
        "host": authority,
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "thinkload",
    }
    if api_key:
        lines["authorization"] = f"Bearer {api_key}"
    elif url.username:
        lines["authorization"] = _basic(url)
    lines |= {name.lower(): value for name, value in (headers or {}).items()}
    absolute = proxy is not None and url.scheme == "http"
    head = b"".join(_line(name, value) for name, value in lines.items())
    return Endpoint(
        host=url.hostname,
        port=port,
        tls=tls_context(ca_file, verify) if url.scheme == "https" else None,
        proxy=proxy,
        prefix=f"POST {f'http://{authority}' if absolute else ''}{url.path.rstrip('/')}".encode(),
        head=head + (proxy.authorization if absolute and proxy else b""),
    )


def tls_context(ca_file: str | None, verify: bool) -> ssl.SSLContext:
    """Verifies by the system's authorities (or `SSL_CERT_FILE`'s), and `ca_file`'s. Raises ValueError."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise ValueError(f"{ca_file}: no certificates in PEM form ({error.strerror or error})") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def find_proxy(url: SplitResult) -> Proxy | None:
    """The proxy that the environment names for `url`. Raises ValueError where it can't be used."""
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"{url.scheme}_proxy: only http:// proxies are supported, not {proxy.scheme}://")
    authorization = _line("proxy-authorization", _basic(proxy)) if proxy.username else b""
    return Proxy(proxy.hostname, proxy.port or 80, authorization)


def refusal(error: OSError) -> tuple[Outcome, str]:
    """Outcome and text of a connection that did not come about."""
    text = str(error.strerror or error) or type(error).__name__
    if error.errno in CLIENT_FAULTS:
        return "refused", f"client: {text}"
    if isinstance(error, TimeoutError):
        return "timeout", f"no connection: {text}"
    if isinstance(error, ConnectionResetError):
        return "reset", f"no connection: {text}"
    return "refused", f"no connection: {text}"


def _basic(url: SplitResult) -> str:
    pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _line(name: str, value: str) -> bytes:
    if (
        "\r" in value
        or "\n" in value
        or not name.isascii()
        or not name.replace("-", "").replace("_", "").isalnum()
    ):
        raise ValueError(f"header {name!r}: no line breaks, and a name of letters, digits and dashes")
    return f"{name}: {value}\r\n".encode("latin-1")
