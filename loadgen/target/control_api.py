"""Plain blocking requests beside the load: who the server is, its /metrics, its tokenizer.

Rules: the same target, headers, key, proxies and certificates as the load; no redirect is followed (it could carry the
key elsewhere); the key is read from the environment when a request is made and is kept nowhere. Failures are values:
`Answer.status` is None where nobody answered.

Does not know: what the answers mean (preflight, scrape), and never touches the hot path.
"""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from loadgen.errors import UsageError
from loadgen.options import RunOptions


@dataclass(frozen=True, slots=True)
class ControlResponse:
    """What came back."""

    status: int | None
    body: bytes = b""
    error: str = ""
    date: str | None = None
    """The `Date` header."""
    reached: bool = True
    """Somebody took the connection, whatever came of it."""

    def json(self) -> Any:
        """The body as JSON where the status is 200, else None."""
        if self.status != 200:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def api_key(options: RunOptions) -> str | None:
    """The key, from the variable that was named. Raises UsageError where that is not set."""
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise UsageError(
            f"--api-key-env {options.api_key_env}: that variable is not set: export it, or leave the option out"
        )
    return key


def headers(options: RunOptions) -> dict[str, str]:
    """What every request carries, key included: for the wire only."""
    key = api_key(options)
    return dict(options.headers) | ({"Authorization": f"Bearer {key}"} if key else {})


def tls(options: RunOptions) -> ssl.SSLContext:
    """Verifying unless told otherwise. Raises UsageError where the CA file is no certificate."""
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--ca-file {options.ca_file}: {error.strerror or error}: give a PEM file") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def root(target: str) -> str:
    """The server's root: the target without its /v1."""
    return target.rstrip("/").removesuffix("/v1")


class ControlApi:
    """Asks one server."""

    def __init__(self, options: RunOptions) -> None:
        self.target = options.target.rstrip("/")
        self.root = root(options.target)
        self._options = options
        self._open = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=tls(options)), _NoRedirect()
        ).open

    def get(self, url: str, timeout_s: float = 10.0) -> ControlResponse:
        """GET an absolute URL."""
        return self._ask(urllib.request.Request(url, headers=headers(self._options)), timeout_s)  # noqa: S310  http(s), checked by preflight

    def post(self, url: str, body: dict[str, Any] | None = None, timeout_s: float = 60.0) -> ControlResponse:
        """POST JSON, or nothing, to an absolute URL."""
        data = json.dumps(body).encode() if body is not None else b""
        fields = headers(self._options) | {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(url, data=data, headers=fields, method="POST"), timeout_s)  # noqa: S310  as above

    def _ask(self, request: urllib.request.Request, timeout_s: float) -> ControlResponse:
        try:
            with self._open(request, timeout=timeout_s) as response:
                return ControlResponse(response.status, response.read(), date=response.headers["Date"])
        except urllib.error.HTTPError as error:
            with error:
                return ControlResponse(error.code, error.read(4096))
        except urllib.error.URLError as error:
            return ControlResponse(None, error=_reason(error.reason), reached=False)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return ControlResponse(None, error=_reason(error))


def _reason(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): --ca-file FILE or --insecure"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return " ".join(str(error).split())
