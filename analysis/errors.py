"""The error for input that the user has to correct."""

import argparse


class InputError(argparse.ArgumentTypeError):
    """One line for stderr that says what is wrong and what to do. The command then exits with status 2."""
