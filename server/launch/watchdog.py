"""`python -m server.launch.watchdog OWNER`: waits until its launcher's pipe closes, then stops the launcher's servers.

This is the only way to notice a `kill -9`, because the kernel closes the pipe. A launcher that has stopped its servers itself
says so. The watchdog does not know why the launcher has ended.
"""

import sys


def main() -> None:
    """Reads standard input to its end. If it is empty, stops all servers of the owner that the first argument names."""
    if not sys.stdin.buffer.read():
        from server.launch.running import stop_all  # noqa: PLC0415 - the import costs more than the rest of a usual watchdog

        stop_all(owner=sys.argv[1])


if __name__ == "__main__":
    main()
