"""Decides whether a server is ready: `/health` answers with 200, and one token has been generated.

No function raises for a server that does not answer yet. This module does not know how the server was started.
"""

import json
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

# Requests never go through a proxy from the environment, because the server is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _request(url: str, body: dict[str, object] | None = None, timeout_s: float = 5.0) -> bytes | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 - http, loopback
    try:
        with _opener.open(request, timeout=timeout_s) as response:
            return bytes(response.read())
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return None


def healthy(port: int) -> bool:
    """True if `/health` answers with 200."""
    return _request(f"http://127.0.0.1:{port}/health", timeout_s=2.0) is not None


class FirstToken:
    """Requests one token in a thread once `/health` answers, so that a slow or stuck answer does not block the caller."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._thread: threading.Thread | None = None
        self._received = False

    def received(self, wait_s: float) -> bool:
        """True if a token has been received; waits about `wait_s` seconds for it."""
        if self._thread is None and healthy(self._port):
            self._thread = threading.Thread(target=self._request_token, daemon=True)
            self._thread.start()
        if self._thread:
            self._thread.join(wait_s)
            if not self._thread.is_alive():
                self._thread = None
        return self._received

    def _request_token(self) -> None:
        self._received = generates(self._port)


def served_model(port: int) -> str | None:
    """The id of the first served model, or None."""
    answer = _json(_request(f"http://127.0.0.1:{port}/v1/models"))
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        return None


def generates(port: int) -> bool:
    """True if the server generates a token. The first request of a new engine may take seconds (measured: 4 s at TP 2 on CPU)."""
    model = served_model(port)
    body: dict[str, object] = {"model": model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
    answer = _json(_request(f"http://127.0.0.1:{port}/v1/completions", body, timeout_s=60.0) if model else None)
    try:
        return int(answer["usage"]["completion_tokens"]) >= 1
    except (KeyError, TypeError, ValueError):
        return False


def _json(body: bytes | None) -> Any:
    try:
        return json.loads(body or b"null")
    except ValueError:
        return None
