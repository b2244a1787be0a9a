"""Checks of this machine for `doctor`: open files, CPU, calibration and disk space.

This module does not know the server.
"""

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from loadgen.checks.check import Check, DoctorContext, either
from loadgen.errors import UsageError
from loadgen.options import open_loop
from loadgen.plan import datasets
from loadgen.run import capacity, environment
from loadgen.run.prepare import DEFAULT_CONCURRENCY

OTHER_DESCRIPTORS = 64
"""File descriptors that a run needs in addition to its connections."""
BYTES_PER_TOKEN, BYTES_PER_TOKEN_WITHOUT_TEXT = 8, 3
"""Disk space of one token: 4 to 5 bytes of text and 2 to 3 of timing."""
BYTES_PER_RECORD = 1500


def file_descriptors(context: DoctorContext) -> Iterator[Check]:
    """Check that there is a file descriptor for every connection."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    default = 1024 if open_loop(context.options) else DEFAULT_CONCURRENCY
    needed = (context.options.concurrency or default) + OTHER_DESCRIPTORS
    hint = f"{limit}, {needed} needed: ulimit -n {2 * needed}"
    yield either("file descriptors", limit >= needed, f"{limit}", hint, "bad")


def client_machine(context: DoctorContext) -> Iterator[Check]:
    """Check that this machine is free to generate load, and is not the server's machine."""
    host = urlsplit(context.options.target).hostname or ""
    cpus, load = environment.host()["cpus"], os.getloadavg()[0]
    shared = f"client and server share this machine's {cpus} CPUs: chunks may arrive in groups"
    yield either("host", not is_local(host), f"{host} is another machine", shared)
    yield Check("CPU", "good" if load < cpus / 2 else "warn", f"load average {load:.2f} on {cpus} CPUs")
    calibration = capacity.stored()
    if calibration is None:
        yield Check("calibration", "warn", "none for this machine: python -m loadgen calibrate (a minute)")
    else:
        yield Check(
            "calibration",
            "good",
            f"{calibration['events_per_s']:,.0f} events/s in each process, measured on {calibration['at'][:10]}",
        )


def is_local(host: str) -> bool:
    """Return whether a host name leads to this machine, which is so where its address can be bound."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    for address in addresses:
        family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                continue
            return True
    return False


def disk_space(context: DoctorContext) -> Iterator[Check]:
    """Check that there is room for the results."""
    options = context.options
    try:
        problems = len(datasets.load(options).problems)
    except UsageError as error:
        yield Check("disk", "unknown", f"the data set cannot be read: {error}")
        return
    per_token = BYTES_PER_TOKEN if options.keep_text else BYTES_PER_TOKEN_WITHOUT_TEXT
    per_problem = sum(BYTES_PER_RECORD + per_token * budget for budget in options.budgets)
    needed = problems * options.samples * options.repeats * per_problem
    out = (options.out or Path("results")).absolute()
    folder = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    sizes = f"at most {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {folder}"
    yield Check("disk", "good" if free > 2 * needed else "bad", sizes)
