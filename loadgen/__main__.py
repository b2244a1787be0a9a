"""Runs `python -m loadgen`."""

import sys

if __name__ == "__main__":
    try:
        from loadgen.cli import start

        start(sys.argv[1:])
    except KeyboardInterrupt:  # while the modules are imported, nothing else catches it
        sys.stderr.write("loadgen: interrupted\n")
        sys.exit(130)
