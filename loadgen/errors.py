"""TODO docstring."""

import argparse
import sys


class DiskFullError(Exception):
    """A record could not be written; what was written before it is whole."""


def say(text: str) -> None:
    """For people."""
    print(f"loadgen: {text}", file=sys.stderr)


class UsageError(argparse.ArgumentTypeError):
    """The operator's mistake, as one line: what is wrong and what to do. Ends the command with exit code 2."""
