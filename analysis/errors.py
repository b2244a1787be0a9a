"""The error for input that the user has to correct."""


class InputError(Exception):
    """One line for stderr that says what is wrong and what to do. The command then exits with status 2."""
