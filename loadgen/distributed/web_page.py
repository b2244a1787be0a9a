"""Protects Locust's web page, which has no password: who may send to it, and what a form may change.

Rules: a request is accepted only if it comes from this page itself or from a program, not from the page of another site. It
must name this machine, because a foreign name that resolves to this machine would be the trick of another site. A form may
change the load and the budgets. Where requests, keys and files go is given on the command line alone.

This module does not know what the options mean (`loadgen.locustfile`).
"""

import platform
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

LOCUST_FIELDS = {"user_count", "spawn_rate", "run_time", "host", "profile", "user_classes", "shape_class"}
"""The fields that Locust's own form has. `host` has no effect here."""
PAGE_OPTIONS = ("model", "problems", "budgets", "budget-mode", "samples", "requests", "rate", "arrival", "seed")
"""The options that the web page can change too. None of them names a host, a key or a file."""
ALLOWED = LOCUST_FIELDS | {name.replace("-", "_") for name in PAGE_OPTIONS}


def refusal(method: str, path: str, headers: Mapping[str, str], web_host: str) -> str | None:
    """Return why a request is refused because of its origin, or None where it is accepted."""
    host = headers.get("Host", "")
    if not _is_this_machine(host, web_host):
        return f"the host {host!r} is not this machine: use its address, or start Locust with --web-host NAME"
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return f"{method} {path} comes from the page of another site ({origin})"
    if method != "GET" and headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        return f"{method} {path} comes from the page of another site"
    return None


def _is_this_machine(host: str, web_host: str) -> bool:
    """Whether a Host header has a name of this machine, or any address: only a name can lead here by a trick."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("localhost", platform.node().lower(), web_host.lower()) or bool(ip_address(name))
    except ValueError:
        return False


def wrong_field(form: Iterable[str]) -> str | None:
    """Return the first field of a form that the page may not change, or None."""
    return next((name for name in form if name not in ALLOWED), None)


def protect(app: Any, web_host: str) -> None:
    """Check every request to the page's Flask application."""
    from flask import jsonify, request  # noqa: PLC0415  Only a process with a page needs it.

    def check() -> Any:
        reason = refusal(request.method, request.path, dict(request.headers), web_host)
        if reason is None and request.path.endswith("/swarm"):
            field = wrong_field(request.form)
            reason = f"{field!r} can be given on the command line only" if field is not None else None
        return None if reason is None else (jsonify({"success": False, "message": f"loadgen: {reason}"}), 403)

    app.before_request(check)
