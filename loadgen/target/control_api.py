"""HTTP requests beside the load: the models, the version, /metrics, the tokenizer, GPU telemetry.

They use the same target, headers, API key, proxies and certificates as the load. Rules:

- Only http and https. A redirect is not followed. The key is read from the environment for each use and is not kept. It and
  the extra headers go to the origin (scheme, host and port) of --target alone, even where the server names another URL.
- Every request ends after `timeout_s`, however slowly the server sends, and a response of more than `limit_bytes` is
  refused. A compressed response was not asked for and is refused.
- A page or an answer that did not arrive within TIMEOUT_S is not asked for again, so that it costs a command one deadline.
- A failure is a value: `ControlResponse.status` is None where no complete HTTP response arrived.

This module does not interpret the responses (see preflight.py and server_metrics.py) and is not part of the hot path.
"""

import asyncio
import json
import os
import re
import socket
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from loadgen import network
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.redaction import Redactor
from loadgen.terminal import printable

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 4.0
"""A server that takes longer to say what it is would delay the start of every run."""
CONNECT_SHARE = 0.6
"""Share of the deadline after which a connection that is not open counts as a server that is not there."""
PAGE_BYTES, METRICS_BYTES = 4 * 2**20, 16 * 2**20
SECRET_PARAMETERS = {"key", "api-key", "api_key", "apikey", "code", "token", "access_token", "sig", "signature"}
CREDENTIALS = ("auth", "key", "token", "secret", "cookie", "password")

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class ControlResponse:
    """The response to one request, or the reason why there is none."""

    status: int | None
    body: bytes = b""
    error: str = ""
    date: str | None = None
    """Value of the `Date` header."""
    reached: bool = True
    """A connection was accepted, whatever followed."""
    late: bool = False
    """The server was reached and did not answer completely in time."""

    def json(self) -> Any:
        """Return the body as JSON; None where the status is not 200 or the body is not JSON."""
        if self.status != 200:
            return None
        try:  # Unlike msgspec, this module reads Infinity and long numbers, which must be seen to be refused.
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def text(self) -> str:
        """Return the body of a page as text; empty where the status is not 200."""
        return self.body.decode(errors="replace") if self.status == 200 else ""


def lenient(said: object, kind: type[S]) -> S:
    """Convert JSON to a struct of which every field has a default: a field of another type counts as not reported."""
    found = {}
    for field in msgspec.structs.fields(kind):
        if isinstance(said, dict) and field.encode_name in said:
            try:
                found[field.name] = msgspec.convert(said[field.encode_name], field.type, strict=False)
            except (msgspec.ValidationError, ValueError, RecursionError):  # ValueError: half a surrogate pair
                continue
    return kind(**found)


class ControlApi:
    """Sends control requests. `fetch` is for event loops; `get` and `post` block until the response is there."""

    def __init__(self, options: RunOptions) -> None:
        """Raises UsageError where --target is no URL, or where --ca-file holds no certificate."""
        check_url(options.target)
        if options.ca_file is not None:
            network.tls_context(options.ca_file, verify=True)
        self.target = base(options.target)
        self.root = root(options.target)
        self._query = urlsplit(options.target).query
        self._options = options
        self._silent: set[str] = set()
        """URLs whose response did not arrive within TIMEOUT_S."""

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """For https alone, because it takes some time to read the certificates of the system."""
        return network.tls_context(self._options.ca_file, verify=not self._options.insecure)

    def get(self, url: str, timeout_s: float = TIMEOUT_S, limit_bytes: int = METRICS_BYTES) -> ControlResponse:
        """Send GET to an absolute URL."""
        return asyncio.run(self.fetch(url, timeout_s=timeout_s, limit_bytes=limit_bytes))

    def post(self, url: str, body: dict[str, Any] | None = None) -> ControlResponse:
        """Send POST with a JSON body, or with an empty one, to an absolute URL."""
        return asyncio.run(self.fetch(url, b"" if body is None else json.dumps(body).encode()))

    def quote(self, text: str | bytes, limit: int = 200) -> str:
        """Return the server's words for a message to people: without secrets and control characters."""
        words = text.decode(errors="replace") if isinstance(text, bytes) else text
        return printable(Redactor(secrets(self._options)).text(words[: 64 * limit]), limit)

    async def fetch(
        self,
        url: str,
        data: bytes | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        limit_bytes: int = PAGE_BYTES,
        every_time: bool = False,
    ) -> ControlResponse:
        """Send GET, or POST where there is data, to an absolute URL. URLs of the target's origin keep the target's query.

        With `every_time`, the server is asked although it did not answer in time before.
        """
        # This import takes a third of a second, which `--help` and the processes that only send the load do not need.
        import aiohttp  # noqa: PLC0415

        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            return ControlResponse(None, error=f"{printable(url, 200)} is not an http(s) URL", reached=False)
        url_asked = url
        if url in self._silent and not every_time:
            return ControlResponse(None, error="it did not answer in time before, and is not asked again", late=True)
        if self._query and not urlsplit(url).query and network.origin(url) == network.origin(self.target):
            url = f"{url}?{self._query}"
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if scheme == "https" else True, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(timeout_s, sock_connect=CONNECT_SHARE * timeout_s),
            auto_decompress=False,
        )
        try:
            async with session:
                return await self._exchange(session, url, data, limit_bytes)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, UsageError) as error:
            return ControlResponse(None, error=self.quote(_reason(error)), reached=False)
        except TimeoutError:
            if timeout_s >= TIMEOUT_S:
                self._silent.add(url_asked)
            return ControlResponse(None, error=f"no complete response within {timeout_s:g} s", late=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ControlResponse(None, error=self.quote(_reason(error)))

    async def _exchange(
        self, session: "aiohttp.ClientSession", url: str, data: bytes | None, limit_bytes: int
    ) -> ControlResponse:
        proxy_fields, proxy = _proxy(url)
        fields = {"Accept-Encoding": "identity", "User-Agent": "thinkload"} | proxy_fields
        if data is not None:
            fields["Content-Type"] = "application/json"
        fields |= headers_for(url, self._options)
        method = "GET" if data is None else "POST"
        async with session.request(method, url, data=data, headers=fields, allow_redirects=False, **proxy) as response:
            return await _read(response, limit_bytes)


async def _read(response: "aiohttp.ClientResponse", limit_bytes: int) -> ControlResponse:
    """Read the body up to the limit."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        return ControlResponse(None, error="the response is compressed, which was not asked for")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit_bytes:
            return ControlResponse(None, error=f"the response has more than {limit_bytes / 2**20:g} MiB")
    return ControlResponse(response.status, bytes(body), date=response.headers.get("Date"))


def _proxy(url: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the headers and the arguments that send a request through the environment's proxy. Raises UsageError."""
    proxy = network.http_proxy(url)
    if proxy is None:
        return {}, {}
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    credentials = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    where = {"proxy": f"http://{host}:{proxy.port}"}
    if (
        urlsplit(url).scheme == "https"
    ):  # The proxy reads the request that opens the tunnel, and not what goes through it.
        return {}, where | {"proxy_headers": credentials}
    return credentials, where


def _reason(error: BaseException) -> str:
    """Return the cause of a failure in the operating system's words, where it has any."""
    certificate = getattr(error, "certificate_error", None) or error
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({certificate.verify_message}): --ca-file FILE or --insecure"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, TimeoutError) and not cause.errno:
        return "no connection in time"
    if isinstance(cause, ssl.SSLError):  # its errno is no number of the operating system
        return f"no TLS connection, {(cause.reason or str(cause)).replace('_', ' ').lower()}: check whether the address begins with http://"
    if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) and cause.errno:
        return os.strerror(cause.errno).lower()  # asyncio's own text repeats the address
    if isinstance(cause, OSError):
        return (cause.strerror or str(cause) or type(cause).__name__).lower()
    return str(error) or type(error).__name__


def check_url(target: str) -> None:
    """Raise UsageError where the target is not an HTTP URL, or holds a secret, which run.json would keep."""
    try:
        parts = urlsplit(target)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[!-~]+", target) or parts.fragment:
        raise UsageError(
            f"--target {printable(target, 200)!r} is not an http(s) URL: write e.g. http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password:
        raise UsageError("--target must hold no user or password: use --header or --api-key-env")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name.lower() in SECRET_PARAMETERS:
            raise UsageError(f"--target must hold no key in its query ({name}=…): use --header or --api-key-env")


def api_key(options: RunOptions) -> str | None:
    """Return the API key from the variable that --api-key-env names. Raises UsageError where it is not set."""
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise UsageError(
            f"--api-key-env {options.api_key_env}: that variable is not set: export it, or leave the option out"
        )
    if not key.isprintable():
        raise UsageError(f"--api-key-env {options.api_key_env}: the key in it has a line break: export the key alone")
    return key


def headers_for(url: str, options: RunOptions) -> dict[str, str]:
    """Return the extra headers and the key for a URL of the target's origin, and nothing for any other URL."""
    if network.origin(url) != network.origin(options.target):
        return {}
    key = api_key(options)
    return dict(options.headers) | ({"Authorization": f"Bearer {key}"} if key else {})


def secrets(options: RunOptions, *, all_headers: bool = True) -> list[str]:
    """Return the key and the values of the extra headers: all of them, or those whose name says that they are credentials."""
    found = [api_key(options) or ""]
    for name, value in options.headers:
        if all_headers or any(word in name.lower() for word in CREDENTIALS):
            found += [value, *value.split()[1:]]  # `Bearer KEY` and KEY
    return found


def root(target: str) -> str:
    """Return the server's root URL: the target without its query and its /v1."""
    return base(target).removesuffix("/v1")


def base(target: str) -> str:
    """Return the target without its query."""
    return urlsplit(target)._replace(query="", fragment="").geturl().rstrip("/")
