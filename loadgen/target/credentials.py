"""The API key and the extra headers of a run: where they come from, and which server may have them.

The key is read from the environment for each use and is not kept. It belongs to the origin (scheme, host and port) of
--target: no other URL is sent the key or an extra header, whoever names that URL.

This module sends nothing.
"""

import os
import re
from urllib.parse import parse_qsl, urlsplit

from loadgen.errors import UsageError
from loadgen.network import origin
from loadgen.options import RunOptions
from loadgen.terminal import printable

SECRET_PARAMETERS = {
    "key",
    "api-key",
    "api_key",
    "apikey",
    "code",
    "token",
    "access_token",
    "sig",
    "signature",
}
CREDENTIALS = ("auth", "key", "token", "secret", "cookie", "password")


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
    return key


def headers_for(url: str, options: RunOptions) -> dict[str, str]:
    """Return the extra headers and the key for a URL of the target's origin, and nothing for any other URL."""
    if origin(url) != origin(options.target):
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
