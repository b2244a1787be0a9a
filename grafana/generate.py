"""Write the dashboards that Grafana is provisioned with.

python -m grafana.generate           # grafana/dashboards/*.json
python -m grafana.generate --check   # exit 1 and name those that are not current
"""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import compare, gpu, run, server
from grafana.panels import Board

FOLDER = Path(__file__).parent / "dashboards"
BOARDS: dict[str, Board] = {
    "run": run.dashboard,
    "compare": compare.dashboard,
    "server": server.dashboard,
    "gpu": gpu.dashboard,
}


def rendered(name: str) -> str:
    """Return one dashboard as its file should be."""
    return json.dumps(BOARDS[name](), cls=JSONEncoder, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def stale() -> list[str]:
    """Name the dashboards whose file is not what the code says."""
    return [name for name in BOARDS if _written(name) != rendered(name)]


def _written(name: str) -> str:
    path = FOLDER / f"{name}.json"
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        prog="grafana.generate", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a file is not current"
    )
    check = parser.parse_args().check
    names = stale()
    for name in names:
        if check:
            print(f"{FOLDER.name}/{name}.json is not current: python -m grafana.generate", file=sys.stderr)
        else:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{name}.json").write_text(rendered(name))
    print(json.dumps({"dashboards": len(BOARDS), "stale" if check else "written": names}))
    return 1 if check and names else 0


if __name__ == "__main__":
    sys.exit(main())
