"""`python -m server.launch.watchdog OWNER`: waits until its launcher's pipe closes, then stops the launcher's servers.

This is the only way to notice a `kill -9`, because the kernel closes the pipe. The watchdog does not know why the launcher
has ended.
"""

import sys

from server.launch.running import stop_all


def main() -> None:
    """Reads standard input to its end, then stops all servers of the owner that the first argument names."""
    sys.stdin.buffer.read()
    stop_all(owner=sys.argv[1])


if __name__ == "__main__":
    main()
