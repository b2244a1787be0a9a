"""`python -m server.launch.watchdog OWNER`: waits for its launcher's pipe to close, then ends what the launcher left.

The only way to learn of a `kill -9`: the kernel closes the pipe. Does not know: why the launcher ended.
"""

import sys

from server.launch.down import end_all


def main() -> None:
    """Read standard input to its end, then end all servers of the owner named in the first argument."""
    sys.stdin.buffer.read()
    end_all(owner=sys.argv[1])


if __name__ == "__main__":
    main()
