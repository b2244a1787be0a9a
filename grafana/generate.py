"""Write the dashboards that Grafana loads.

python -m grafana.generate           # write grafana/dashboards/*.json
python -m grafana.generate --check   # write nothing; exit with 1 and name the files that differ from the code
"""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards import configuration_comparison, gpu_telemetry, load_test_run, vllm_server

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = {
    "load_test_run": load_test_run.dashboard,
    "configuration_comparison": configuration_comparison.dashboard,
    "vllm_server": vllm_server.dashboard,
    "gpu_telemetry": gpu_telemetry.dashboard,
}
"""The function that builds each dashboard, by the name of its file."""


def to_json(name: str) -> str:
    """Return the content that a dashboard's file should have."""
    return json.dumps(BOARDS[name](), cls=JSONEncoder, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def outdated() -> list[str]:
    """Name the dashboards whose file differs from the code."""
    return [name for name in BOARDS if _current(name) != to_json(name)]


def _current(name: str) -> str:
    path = FOLDER / f"{name}.json"
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(prog="grafana.generate", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is outdated")
    check = parser.parse_args().check
    names = outdated()
    for name in names:
        if check:
            print(f"{FOLDER.name}/{name}.json is outdated; run python -m grafana.generate", file=sys.stderr)
        else:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{name}.json").write_text(to_json(name))
    print(json.dumps({"dashboards": len(BOARDS), "stale" if check else "written": names}))
    return 1 if check and names else 0


if __name__ == "__main__":
    sys.exit(main())
