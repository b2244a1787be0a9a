"""`python -m server gpu-exporter`: GPU telemetry over NVML under dcgm-exporter's names, where that can't run.

dcgm-exporter wants a container with SYS_ADMIN; this wants a user who may run nvidia-smi. One dashboard, one report then
serve both, and the emulator. Rules: what a GPU does not tell is absent, never zero; names, types and help texts are those
of `dcgm.csv`, which dcgm-exporter reads too. Does not know: how samples are read (nvml.py).
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.arguments import indices, port
from server.gpu.nvml import GpuSample

FIELDS_CSV = Path(__file__).parent / "dcgm.csv"


def fields() -> list[tuple[str, str, str]]:
    """(name, type, help) of each field, as dcgm-exporter's csv says them."""
    lines = [line for line in FIELDS_CSV.read_text().splitlines() if line and not line.startswith("#")]
    parts = [line.split(",", 2) for line in lines]
    return [(name.strip(), kind.strip(), text.strip()) for name, kind, text in parts]


def exposition(samples: Iterable[GpuSample]) -> str:
    """Prometheus' text format, with dcgm-exporter's labels."""
    samples = list(samples)
    lines = []
    for name, kind, text in fields():
        rows = [
            f"{name}{{{_labels(sample)}}} {sample.values[name]:.15g}"
            for sample in samples
            if name in sample.values
        ]
        if rows:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _labels(sample: GpuSample) -> str:
    pairs = {
        "gpu": str(sample.index),
        "UUID": sample.uuid,
        "pci_bus_id": sample.pci_bus_id,
        "device": f"nvidia{sample.index}",
        "modelName": sample.name,
        "Hostname": sample.hostname,
        "DCGM_FI_DRIVER_VERSION": sample.driver,
    }
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def handler(read: Callable[[], list[GpuSample]]) -> type[BaseHTTPRequestHandler]:
    """`GET /metrics` reads and answers; one read at a time, since activity is measured between reads."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                body = exposition(read()).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a line a scrape helps nobody."""

    return Handler


def add_verb(verbs: Any) -> None:
    """Add `gpu-exporter` to the parser of `python -m server`."""
    verb = verbs.add_parser(
        "gpu-exporter",
        help="GPU telemetry over NVML, under DCGM's names",
        epilog="example: python -m server gpu-exporter --port 9400 --gpus 0,1",
    )
    verb.add_argument("--host", default="127.0.0.1")
    verb.add_argument("--port", type=port, default=9400)
    verb.add_argument("--gpus", type=indices, metavar="I,…", help="indices of the GPUs to report [all]")
    verb.set_defaults(verb=main)


def main(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    try:
        from server.gpu.nvml import Reader  # noqa: PLC0415 - loads the driver's library

        reader = Reader(args.gpus)
    except Exception as error:  # noqa: BLE001 - pynvml makes its classes when it loads
        print(f"gpu-exporter: no GPU can be read: {error} (is the NVIDIA driver installed?)", file=sys.stderr)
        return 2
    try:
        server = ThreadingHTTPServer((args.host, args.port), handler(reader.read))
    except OSError as error:
        print(
            f"gpu-exporter: {args.host}:{args.port}: {error.strerror}: choose another --port", file=sys.stderr
        )
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"gpu-exporter: http://{args.host}:{server.server_port}/metrics", file=sys.stderr)
    server.serve_forever(poll_interval=0.1)
    print(json.dumps({"served": server.server_port}))
    return 0
