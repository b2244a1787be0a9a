"""Decides whether a server is ready: `/health` answers with 200, and one token has been generated.

No function raises for a server that does not answer yet. This module does not know how the server was started.
"""

import json
import threading
import urllib.request
from http.client import HTTPException
from typing import Any

# Requests never go through a proxy from the environment, because the server is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answer(port: int, path: str, body: dict[str, object] | None = None, timeout_s: float = 5.0) -> Any:
    """The JSON of an answer, or {} if it is not JSON. None if no answer with status 200 comes."""
    data = None if body is None else json.dumps(body).encode()
    url, headers = f"http://127.0.0.1:{port}{path}", {"content-type": "application/json"}
    try:
        with _opener.open(urllib.request.Request(url, data, headers), timeout=timeout_s) as response:
            page = response.read()
    except (HTTPException, OSError):
        return None
    try:
        return json.loads(page)
    except ValueError:
        return {}


def healthy(port: int) -> bool:
    """True if `/health` answers with 200."""
    return _answer(port, "/health", timeout_s=2.0) is not None


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


def generates(port: int) -> bool:
    """True if the server generates a token. The first request of a new engine may take seconds (measured: 4 s at TP 2 on CPU)."""
    try:
        model = _answer(port, "/v1/models")["data"][0]["id"]
        body: dict[str, object] = {"model": model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
        answer = _answer(port, "/v1/completions", body, timeout_s=60.0)
        return int(answer["usage"]["completion_tokens"]) >= 1
    except (LookupError, TypeError, ValueError):
        return False
