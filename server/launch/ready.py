"""Ready means: `/health` answers 200 and one token was generated.

Rules: never raises for a server that is not there yet. Does not know: how the server was started.
"""

import json
import urllib.error
import urllib.request
from http.client import HTTPException


def _get(url: str, body: dict[str, object] | None = None, timeout_s: float = 5.0) -> bytes | None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 - http, loopback
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - as above
            return bytes(response.read())
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return None


def healthy(port: int) -> bool:
    """`/health` answers 200."""
    return _get(f"http://127.0.0.1:{port}/health") is not None


def served_model(port: int) -> str | None:
    """Id of the first served model."""
    answer = _get(f"http://127.0.0.1:{port}/v1/models")
    return str(json.loads(answer)["data"][0]["id"]) if answer else None


def generates(port: int) -> bool:
    """One token comes back. The first request of a fresh engine may take seconds (measured: 4 s at TP 2 on CPU)."""
    model = served_model(port)
    body: dict[str, object] = {"model": model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
    answer = _get(f"http://127.0.0.1:{port}/v1/completions", body, timeout_s=60.0) if model else None
    return answer is not None and json.loads(answer)["usage"]["completion_tokens"] >= 1
