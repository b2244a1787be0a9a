"""An emulated server in a process of its own, on a free port, for tests that drive the load generator as a user does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def emulated(config: str, *arguments: str, model: str = "r1-distill-qwen-1.5b") -> Iterator[str]:
    """The target of `python -m server emulate CONFIG …`, stopped afterwards."""
    command = [sys.executable, "-m", "server", "emulate", config, "--model", model, "--port", "0", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"at (http://\S+/v1)", line):
                    break
            else:
                raise AssertionError("the emulator did not start")
            yield found[1]
        finally:
            process.terminate()
            process.stderr.read()


def loadgen(
    *arguments: str, verb: str = "run", env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`python -m loadgen …` to its end, a run without metrics."""
    off = ("--metrics-port", "off") if verb == "run" else ()
    return subprocess.run(
        [sys.executable, "-m", "loadgen", verb, *off, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
    )
