"""A small real HTTP server that replays a recorded /metrics: counters and histograms rise from zero to the recording.

Rules: gauges stand as recorded, counts stay whole, a histogram stays cumulative. After the ramp the recording itself is
served. Knows the text format only.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import floor

RISING = ("counter", "histogram", "summary")
LINE = re.compile(r"^(?P<series>(?P<name>[\w:]+)(?:\{.*\})?) (?P<value>\S+)$")
PART = re.compile(r"_(?:bucket|sum|count)$")


def rise(recording: str, share: float) -> str:
    """The recording when `share` of it had happened."""
    kinds: dict[str, str] = {}
    lines = []
    for line in recording.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(maxsplit=3)
            kinds[name] = kind
        found = LINE.match(line)
        lines.append(_risen(found, kinds, share) if found else line)
    return "\n".join(lines) + "\n"


def _risen(found: re.Match[str], kinds: dict[str, str], share: float) -> str:
    name, value = found["name"], float(found["value"])
    kind = kinds.get(name) or kinds.get(PART.sub("", name), "gauge")
    if kind not in RISING:
        return found[0]
    whole = value.is_integer() and not name.endswith("_sum")
    return f"{found['series']} {floor(value * share) if whole else value * share}"


@contextmanager
def replaying(recorded: Mapping[str, str], ramp_s: float) -> Iterator[str]:
    """Serve each path's recording on one free port, rising over `ramp_s` from its first scrape; yields host:port."""
    began: dict[str, float] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = time.monotonic()
            share = min((now - began.setdefault(self.path, now)) / ramp_s, 1.0)
            body = rise(recorded[self.path], share).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
