"""Ready means: `/health` answers 200 and one token was generated.

Rules: never raises for a server that is not there yet. Does not know: how the server was started.
"""

import json
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

# Never through a proxy of the environment: what is asked is on this machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str, body: dict[str, object] | None = None, timeout_s: float = 5.0) -> bytes | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 - http, loopback
    try:
        with _direct.open(request, timeout=timeout_s) as response:
            return bytes(response.read())
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return None


def healthy(port: int) -> bool:
    """`/health` answers 200."""
    return _get(f"http://127.0.0.1:{port}/health", timeout_s=2.0) is not None


class FirstToken:
    """Asks for a token once `/health` answers. Whoever looks is not kept by a server that answers late, or never."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._asking: threading.Thread | None = None
        self._came = False

    def came(self, wait_s: float) -> bool:
        """A token has come; looks for it for about `wait_s`."""
        if self._asking is None and healthy(self._port):
            self._asking = threading.Thread(target=self._ask, daemon=True)
            self._asking.start()
        if self._asking:
            self._asking.join(wait_s)
            if not self._asking.is_alive():
                self._asking = None
        return self._came

    def _ask(self) -> None:
        self._came = generates(self._port)


def served_model(port: int) -> str | None:
    """Id of the first served model."""
    answer = _json(_get(f"http://127.0.0.1:{port}/v1/models"))
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        return None


def generates(port: int) -> bool:
    """One token comes back. The first request of a fresh engine may take seconds (measured: 4 s at TP 2 on CPU)."""
    model = served_model(port)
    body: dict[str, object] = {"model": model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
    answer = _json(_get(f"http://127.0.0.1:{port}/v1/completions", body, timeout_s=60.0) if model else None)
    try:
        return int(answer["usage"]["completion_tokens"]) >= 1
    except (KeyError, TypeError, ValueError):
        return False


def _json(body: bytes | None) -> Any:
    try:
        return json.loads(body or b"null")
    except ValueError:
        return None
