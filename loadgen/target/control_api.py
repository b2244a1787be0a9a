"""Blocking HTTP requests beside the load: the models, the version, /metrics, the tokenizer, GPU telemetry.

Requests use the same target, headers, API key, proxies and certificates as the load. Redirects are not followed, because a
redirect could carry the key to another host. The key is read from the environment for each request and is not kept.
Failures are values: `ControlResponse.status` is None where no HTTP response arrived.

This module does not interpret the responses (see preflight.py and server_metrics.py) and is not part of the hot path.
"""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from loadgen import network
from loadgen.errors import UsageError
from loadgen.options import RunOptions


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

    def json(self) -> Any:
        """Return the body as JSON; None where the status is not 200 or the body is not JSON."""
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
    """Return the API key from the variable that --api-key-env names. Raises UsageError where it is not set."""
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise UsageError(
            f"--api-key-env {options.api_key_env}: that variable is not set: export it, or leave the option out"
        )
    return key


def headers(options: RunOptions) -> dict[str, str]:
    """Return the headers of every request, with the API key. They must not be stored or logged."""
    key = api_key(options)
    return dict(options.headers) | ({"Authorization": f"Bearer {key}"} if key else {})


def root(target: str) -> str:
    """Return the server's root URL: the target without its /v1."""
    return target.rstrip("/").removesuffix("/v1")


class ControlApi:
    """Sends control requests to one server."""

    def __init__(self, options: RunOptions) -> None:
        """Raises UsageError where --ca-file cannot be used."""
        self.target = options.target.rstrip("/")
        self.root = root(options.target)
        self._options = options
        tls = network.tls_context(options.ca_file, verify=not options.insecure)
        self._open = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=tls), urllib.request.ProxyHandler({}), _NoRedirect()
        ).open

    def get(self, url: str, timeout_s: float = 10.0) -> ControlResponse:
        """Send GET to an absolute URL."""
        return self._send(urllib.request.Request(url, headers=headers(self._options)), timeout_s)  # noqa: S310  preflight has checked that it is http(s)

    def post(self, url: str, body: dict[str, Any] | None = None, timeout_s: float = 60.0) -> ControlResponse:
        """Send POST with a JSON body, or with an empty one, to an absolute URL."""
        data = json.dumps(body).encode() if body is not None else b""
        fields = headers(self._options) | {"Content-Type": "application/json"}
        return self._send(urllib.request.Request(url, data=data, headers=fields, method="POST"), timeout_s)  # noqa: S310  as above

    def _send(self, request: urllib.request.Request, timeout_s: float) -> ControlResponse:
        try:
            if (proxy := network.http_proxy(request.full_url)) is not None:
                if proxy.authorization is not None:
                    request.add_header("Proxy-Authorization", proxy.authorization)
                host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
                request.set_proxy(f"{host}:{proxy.port}", "http")
            with self._open(request, timeout=timeout_s) as response:
                return ControlResponse(response.status, response.read(), date=response.headers["Date"])
        except urllib.error.HTTPError as error:
            with error:
                return ControlResponse(error.code, error.read(4096))
        except (urllib.error.URLError, UsageError) as error:
            return ControlResponse(None, error=_reason(getattr(error, "reason", error)), reached=False)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return ControlResponse(None, error=_reason(error))


def _reason(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): --ca-file FILE or --insecure"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return " ".join(str(error).split())
