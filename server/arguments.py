"""Types of command-line arguments of `python -m server`: they convert text to a value, or raise ConfigError.

The error is one line that quotes the text, without argparse's usage block. This module does not know the commands.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from server.config import ConfigError, meant

EXAMPLES = """examples:
  python -m server configs
  python -m server up tp2-ngram --model r1-distill-qwen-14b --backend docker
  python -m server up tp1 --model r1-distill-qwen-1.5b --backend emulator -- --speed 10
  python -m server logs tp2-ngram
  python -m server down --all
  python -m server emulate tp2-ngram --model r1-distill-qwen-14b --gpu h100 --port 8001 --speed 20
  python -m server emulate tp1 --model s1.1-7b --dataset math500.jsonl --api-key secret --enable-per-request-metrics
"""


class ServerParser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for an invalid command line. Raises ConfigError, with the option or command that was probably meant."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        option = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if choice is not None:
            message += meant(choice[1], re.findall(r"[^\s,']+", choice[2]))
        elif option is not None:
            message += meant(option[1], _options_of(self))
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _options_of(command)


def port(text: str) -> int:
    """A TCP port. 0 means any free port."""
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(f"--port {text}: must be 0 (any free port) to 65535")
    return int(text)


def indices(text: str) -> tuple[int, ...]:
    """GPU indices such as `0,1`, each of which may appear once."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len({*parts}) < len(parts):
        raise ConfigError(f"--gpus {text}: write indices of GPUs, each of them once, e.g. 0,1")
    return tuple(map(int, parts))


def above_zero(option: str) -> Callable[[str], float]:
    """Returns the argument type for a finite number above zero; `option` is named in its error."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"{option} {text}: must be a number above 0")
        return value

    return read
