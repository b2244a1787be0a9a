"""`thinkload files DIR`: copies what belongs to an installation but is no Python module into a folder.

These are the plans, Prometheus's rules, Grafana's dashboards, the Compose file, and what its images are built of. Nothing that
exists is replaced.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from loadgen.files import shipped

NAMES = (
    "plans", "prometheus", "grafana/dashboards", "grafana/provisioning", "docker-compose.yml", "Dockerfile", ".env.example",
    "requirements-server.lock", "requirements-distributed.lock",
)  # fmt: skip
PROGRAMS = ("server", "loadgen")
"""Packages that the Compose file reads and builds its images of."""


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What was made at run time: bytecode, and the targets of servers that run."""
    servers = Path(folder).name == "targets"
    return [name for name in names if name == "__pycache__" or (servers and name.endswith(".json"))]


def main(argv: list[str]) -> int:
    """Copy the files, and print their folder as JSON."""
    parser = argparse.ArgumentParser(
        prog="thinkload files", description="Copy plans, dashboards, rules and the Compose file into a folder."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")
    folder: Path = parser.parse_args(argv).folder
    if folder.exists():
        print(f"thinkload: {folder} exists: name a new folder", file=sys.stderr)
        return 2
    sources = {name: shipped(name) for name in NAMES} | {name: Path(__file__).parents[1] / name for name in PROGRAMS}
    try:
        for name, source in sources.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=_left_out)
            else:
                shutil.copy(source, folder / name)
    except OSError as error:
        print(f"thinkload: {error.filename or folder}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"next: cd {folder} && docker compose up --wait, or prometheus/live.sh without Docker", file=sys.stderr)
    targets = f"{folder.resolve()}/prometheus/targets"
    print(f"so that Prometheus finds servers: export THINKLOAD_TARGETS={targets}", file=sys.stderr)
    print(json.dumps({"folder": str(folder)}))
    return 0
