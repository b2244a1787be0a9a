"""`python -m server gpu-exporter`: serves GPU telemetry from NVML under the metric names of dcgm-exporter.

dcgm-exporter needs a container with SYS_ADMIN. This exporter needs only a user who may run nvidia-smi. Because the names are
equal, the dashboards and the report work with dcgm-exporter, with this exporter and with the emulator. Names, types and help
texts come from `dcgm.csv`, which dcgm-exporter reads too. A value that a GPU does not report is left out, never zero.

This module does not know how a GPU is read (see nvml.py).
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.arguments import indices
from server.arguments import port as port_number
from server.gpu import GpuSample

FIELDS_CSV = Path(__file__).parent / "dcgm.csv"


def fields() -> list[tuple[str, str, str]]:
    """The name, the type and the help text of each field in dcgm-exporter's CSV file."""
    lines = [line for line in FIELDS_CSV.read_text().splitlines() if line and not line.startswith("#")]
    parts = [line.split(",", 2) for line in lines]
    return [(name.strip(), kind.strip(), text.strip()) for name, kind, text in parts]


def exposition(samples: Iterable[GpuSample]) -> str:
    """The samples in Prometheus' text format, with the labels of dcgm-exporter."""
    samples = list(samples)
    lines = []
    for name, kind, text in fields():
        rows = [
            f"{name}{{{_labels(sample)}}} {sample.values[name]:.15g}" for sample in samples if name in sample.values
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
        "hostname": sample.hostname,
        "DCGM_FI_DRIVER_VERSION": sample.driver,
    }
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def handler(read: Callable[[], list[GpuSample]]) -> type[BaseHTTPRequestHandler]:
    """Returns the request handler that calls `read` for each `GET /metrics`.

    Reads are serialized, because activity counters are averages over the time since the previous read.
    """
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
            """Logs nothing, because a line for each scrape would fill the terminal."""

    return Handler


def add_command(commands: Any) -> None:
    """Adds `gpu-exporter` to the commands of `python -m server`."""
    command = commands.add_parser(
        "gpu-exporter",
        help="serve GPU telemetry from NVML under the metric names of DCGM",
        epilog="example: python -m server gpu-exporter --port 9400 --gpus 0,1",
    )
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=port_number, default=9400)
    command.add_argument("--gpus", type=indices, metavar="I,…", help="indices of the GPUs to report [all]")
    command.add_argument("--until-stdin-closes", action="store_true", help="end when the starting process ends")
    command.set_defaults(execute=main)


def _end_with_stdin(server: ThreadingHTTPServer) -> None:
    # A read of `sys.stdin` would hold its lock, and an interpreter that ends then aborts because it cannot get this lock.
    while os.read(0, 4096):
        pass
    server.shutdown()


def main(args: argparse.Namespace) -> int:
    """Serves the GPUs of this machine until SIGTERM or SIGINT and returns the exit status."""
    try:
        from server.gpu.nvml import GpuReader  # noqa: PLC0415 - this loads the driver's library

        reader = GpuReader(args.gpus)
    except Exception as error:  # noqa: BLE001 - pynvml defines its exceptions when it is loaded
        print(f"gpu-exporter: no GPU can be read: {error} (is the NVIDIA driver installed?)", file=sys.stderr)
        return 2
    return serve(reader.read, args.host, args.port, until_stdin_closes=args.until_stdin_closes)


def serve(read: Callable[[], list[GpuSample]], host: str, port: int, *, until_stdin_closes: bool) -> int:
    """Serves what `read` returns until SIGTERM or SIGINT and returns the exit status."""
    try:
        server = ThreadingHTTPServer((host, port), handler(read))
    except OSError as error:
        print(f"gpu-exporter: {host}:{port}: {error.strerror}: choose another --port", file=sys.stderr)
        return 2
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: threading.Thread(target=server.shutdown).start())
    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    print(f"gpu-exporter: http://{host}:{server.server_port}/metrics", file=sys.stderr)
    server.serve_forever(poll_interval=0.1)
    print(json.dumps({"served": server.server_port}))
    return 0
