"""Text from a command line of `python -m server` to a value, or a ConfigError that quotes the text: one line, no usage block.

Does not know: which commands there are.
"""

import argparse
from collections.abc import Callable
from typing import NoReturn

from server.config import ConfigError


class ServerParser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors; `--help` has the page."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a page."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def port(text: str) -> int:
    """A TCP port, or 0."""
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"--port {text}: must be 0 (any free one) to 65535")
    return int(text)


def indices(text: str) -> tuple[int, ...]:
    """`0,1`: GPUs, each named once."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len({*parts}) < len(parts):
        raise ConfigError(f"--gpus {text}: write indices of GPUs, each once, e.g. 0,1")
    return tuple(map(int, parts))


def above_zero(option: str) -> Callable[[str], float]:
    """Reads a number above zero."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"{option} {text}: must be a number above 0")
        return value

    return read
