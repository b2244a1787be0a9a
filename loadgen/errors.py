"""Defines the errors that end a run or a command, and prints messages for people.

Messages for people go to stderr; stdout is for programs.
"""

import argparse
import sys


class DiskFullError(Exception):
    """A record could not be written. The records before it are complete."""


class UsageError(argparse.ArgumentTypeError):
    """A mistake in how a command was used, as one line that says what is wrong and what to do.

    The command ends with exit code 2.
    """


def say(text: str) -> None:
    """Print a message to stderr."""
    print(f"loadgen: {text}", file=sys.stderr)
