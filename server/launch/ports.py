"""Which TCP ports of this machine are free, as far as one can know before binding."""

import socket


def is_free(port: int) -> bool:
    """Nothing listens on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def first_free(start: int = 8000, taken: frozenset[int] = frozenset()) -> int:
    """The first free port from `start` on that is not promised to somebody in `taken`."""
    return next(port for port in range(start, 65536) if port not in taken and is_free(port))
